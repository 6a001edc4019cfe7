/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a machine that is one image: it sets the machine up as /system says, runs the image's process as
 * /process says (records.h) on the console, reaps, and powers off when that has ended.
 *
 * Where the machine has the virtio-serial port "whit.boot", its words are lines: "ready" when the process was started,
 * "exit STATUS" at the end; "stop" asks the process to end, and later kills it.
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
#include <unistd.h>

#include "process.h"
#include "records.h"
#include "setup.h"

#define PORT_NAME "whit.boot"
#define NODE "/dev/.whit.boot"
#define MOST_RECORDS (1 << 20)
#define CANNOT_RUN 125
#define TRIES 30 /* tenths of a second in which the port is looked for */
#define GRACE 10 /* seconds between the signal that asks and the one that kills */

static char system_[MOST_RECORDS], process_[MOST_RECORDS];
static int port = -1;
static int stop_signal = SIGTERM;

static size_t read_records(const char *path, char *to)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t size;

	while (file >= 0 && (size = read(file, to + used, MOST_RECORDS - 1 - used)) > 0)
		used += size;
	if (file < 0)
		fprintf(stderr, "whit: open %s: %m\n", path);
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

static void listen_to_port(pid_t child)
{
	char said[64];
	ssize_t size = port < 0 ? 0 : read(port, said, sizeof(said) - 1);

	if (size <= 0)
		return;
	said[size] = 0;
	if (strstr(said, "stop")) {
		kill(child, stop_signal);
		alarm(GRACE);
	}
}

/* Until the process has ended: its status, 128 + signal. */
static int serve(pid_t child, int signals)
{
	for (int tries = 0;; tries++) {
		struct pollfd polls[] = { { .fd = signals, .events = POLLIN }, { .fd = port, .events = POLLIN } };
		struct signalfd_siginfo heard;
		int status;
		pid_t ended;

		poll(polls, 2, port < 0 && tries < TRIES ? 100 : -1);
		while (read(signals, &heard, sizeof(heard)) > 0)
			if (heard.ssi_signo == SIGALRM)
				kill(child, SIGKILL);
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
			if (ended == child)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		look_for_port();
		listen_to_port(child);
	}
}

static int run(int signals)
{
	size_t system_length = read_records("/system", system_), process_length = read_records("/process", process_);
	struct process process;

	if (!system_length || !process_length || !setup_system(system_, system_length))
		return CANNOT_RUN;
	stop_signal = atoi(record(process_, process_length, "stop", "15"));
	if (!process_start(&process, process_, process_length, -1)) {
		fprintf(stderr, "whit: start the process: %m\n");
		return CANNOT_RUN;
	}
	look_for_port();
	return serve(process.pid, signals);
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
	sigprocmask(SIG_BLOCK, &heard, NULL);
	setup_kernel();
	tell_end(run(signalfd(-1, &heard, SFD_NONBLOCK | SFD_CLOEXEC)));
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
