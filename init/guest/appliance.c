/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a machine that is one image: it sets the machine up as /system says, runs the image's process as
 * /process says (records.h) on the console, reaps, and powers off when that has ended.
 *
 * Where the machine has the virtio-serial port "whit.boot", its words are lines: "ready" when the process was started,
 * "exit STATUS" at the end; "stop" asks the process to end, and later kills it.
 *
 * A machine with two versions (slots.h) keeps the one that it runs once that is well: /check, another process, ended with
 * 0, or without one something listens at each `port` of /system, and the process lives on for a while or ended with 0.
 * One on trial that is not well in time, or whose process failed before, boots again, until the other has its turn.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/slots.h"
#include "disk/upgrade.h"
#include "guest/process.h"
#include "network/listening.h"
#include "setup/setup.h"

#define PORT_NAME "whit.boot"
#define NODE "/dev/.whit.boot"
#define MOST_RECORDS (1 << 20)
#define CANNOT_RUN 125
#define TRIES 30 /* tenths of a second in which the port is looked for */
#define GRACE 10 /* seconds between the signal that asks and the one that kills */
#define SETTLED 3000 /* milliseconds that a process has to live if nothing else says that it is well */
#define TRIAL 120000 /* in which a new version has to be well */
#define LOOK 500 /* between two looks */

static char system_[MOST_RECORDS], process_[MOST_RECORDS], check_[MOST_RECORDS];
static size_t system_length, process_length, check_length;
static int port = -1;
static int stop_signal = SIGTERM;
static pid_t checking;
static bool checked, again, asked;
static int64_t started;

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static size_t read_records(const char *path, char *to)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t size;

	while (file >= 0 && (size = read(file, to + used, MOST_RECORDS - 1 - used)) > 0)
		used += size;
	if (file < 0)
		return 0;
	close(file);
	return used;
}

/* The image's /dev has only what every process may use, so the node is made for this moment. */
static int open_device(const char *number)
{
	unsigned major_, minor_;
	FILE *file = fopen(number, "re");
	int found = -1;

	if (file && fscanf(file, "%u:%u", &major_, &minor_) == 2 &&
	    !mknod(NODE, S_IFCHR | 0600, makedev(major_, minor_))) {
		found = open(NODE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		unlink(NODE);
	}
	if (file)
		fclose(file);
	return found;
}

/* The device of the port, if there is one: /sys/class/virtio-ports/vportNpM/name. */
static int open_port(void)
{
	DIR *directory = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int found = -1;

	while (found < 0 && directory && (entry = readdir(directory))) {
		char path[300], name[64];
		FILE *file;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		file = fopen(path, "re");
		if (file && fgets(name, sizeof(name), file) && !strcmp(name, PORT_NAME "\n")) {
			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/dev", entry->d_name);
			found = open_device(path);
		}
		if (file)
			fclose(file);
	}
	if (directory)
		closedir(directory);
	return found;
}

static void tell(const char *line)
{
	if (port >= 0)
		(void)!write(port, line, strlen(line));
}

static void look_for_port(void)
{
	if (port < 0 && (port = open_port()) >= 0)
		tell("ready\n");
}

static void ask_to_end(pid_t child)
{
	asked = true;
	kill(child, stop_signal);
	alarm(GRACE);
}

static void listen_to_port(pid_t child)
{
	char said[64];
	ssize_t size = port < 0 ? 0 : read(port, said, sizeof(said) - 1);

	if (size <= 0)
		return;
	said[size] = 0;
	if (strstr(said, "stop"))
		ask_to_end(child);
}

/* ---- health ---- */

static bool ports_listen(pid_t child)
{
	const char *position = NULL, *value;
	bool found = false;

	while ((value = next_record(system_, system_length, "port", &position))) {
		found = true;
		if (!is_listening(child, atoi(value)))
			return false;
	}
	return found || now() - started >= SETTLED;
}

static void start_check(void)
{
	struct process check;

	if (!checking && process_start(&check, check_, check_length, -1))
		checking = check.pid;
}

/* Milliseconds until it has to be looked at again; -1 if it has not. */
static int tend_health(pid_t child)
{
	if (!slots_letter() || slots_committed() || asked)
		return -1;
	if (check_length && !checked)
		start_check();
	else if (check_length || ports_listen(child))
		slots_commit();
	if (slots_on_trial() && now() - started >= TRIAL) {
		fprintf(stderr, "whit: the new version was not well in %d s\n", TRIAL / 1000);
		again = true;
		ask_to_end(child);
	}
	return LOOK;
}

/* What becomes of the version when the process has ended. */
static void settle_version(int status)
{
	if (!status && !check_length && !asked)
		slots_commit();
	again |= slots_on_trial() && !asked;
}

/* SIGTERM asks the machine to boot again (upgrade.c). */
static void hear_signal(pid_t child, unsigned number)
{
	if (number == SIGALRM)
		kill(child, SIGKILL);
	if (number == SIGTERM) {
		again = true;
		ask_to_end(child);
	}
}

/* Until the process has ended: its status, 128 + signal. */
static int serve(pid_t child, int signals)
{
	for (int tries = 0;; tries++) {
		struct pollfd polls[] = { { .fd = signals, .events = POLLIN }, { .fd = port, .events = POLLIN } };
		struct signalfd_siginfo heard;
		int status, pause = tend_health(child);
		pid_t ended;

		poll(polls, 2, port < 0 && tries < TRIES ? 100 : pause);
		while (read(signals, &heard, sizeof(heard)) > 0)
			hear_signal(child, heard.ssi_signo);
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0) {
			if (ended == checking)
				checking = 0, checked = !status;
			if (ended == child)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
		look_for_port();
		listen_to_port(child);
	}
}

static int run(int signals)
{
	struct process process;
	int status;

	system_length = read_records("/system", system_);
	process_length = read_records("/process", process_);
	check_length = read_records("/check", check_);
	if (!system_length || !process_length || !setup_system(system_, system_length)) {
		/* Without its root, a version of two is no version. */
		again = !strcmp(record(system_, system_length, "root", ""), "verity");
		return CANNOT_RUN;
	}
	stop_signal = atoi(record(process_, process_length, "stop", "15"));
	started = now();
	if (!process_start(&process, process_, process_length, -1)) {
		fprintf(stderr, "whit: start the process: %m\n");
		again = slots_on_trial();
		return CANNOT_RUN;
	}
	look_for_port();
	status = serve(process.pid, signals);
	settle_version(status);
	return status;
}

/* A port that the driver has not made yet, or whose other end has not read yet, is waited for, but not for ever. */
static void tell_end(int status)
{
	char line[32];

	for (int tries = 0; port < 0 && tries < 10; tries++, usleep(50000))
		look_for_port();
	snprintf(line, sizeof(line), "exit %d\n", status);
	tell(line);
	printf("whit: the process ended with status %d\n", status);
	fflush(stdout);
}

int main(void)
{
	sigset_t heard;

	sigemptyset(&heard);
	sigaddset(&heard, SIGCHLD);
	sigaddset(&heard, SIGALRM);
	sigaddset(&heard, SIGTERM);
	sigprocmask(SIG_BLOCK, &heard, NULL);
	setup_kernel();
	upgrade_serve();
	tell_end(run(signalfd(-1, &heard, SFD_NONBLOCK | SFD_CLOEXEC)));
	if (again)
		printf("whit: booting again\n");
	fflush(stdout);
	sync();
	reboot(again ? RB_AUTOBOOT : RB_POWER_OFF);
	return 0;
}
