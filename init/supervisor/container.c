/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/container.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/files.h"
#include "network/listening.h"
#include "setup/place.h"

#define CRUN "/usr/bin/crun"
#define STATE_ROOT "/run/whit/crun"
#define WRITABLE "/run/whit/writable"
#define LARGEST_RECORDS (1 << 20)
#define MOST_READS 4

int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

const char *state_name(enum state state)
{
	static const char *const names[] = { "waiting", "running", "ready", "ended", "failed", "stopped" };

	return names[state];
}

static const char *text_of(const struct container *container, const char *key)
{
	return record(container->records, container->length, key, "");
}

long number_of(const struct container *container, const char *key)
{
	return strtol(text_of(container, key), NULL, 10);
}

bool container_open(struct container *container, const char *stage, const char *directory)
{
	char path[512];
	struct stat status;
	int file;

	*container = (struct container){ .stage = stage, .status = -1, .output = -1 };
	snprintf(container->directory, sizeof(container->directory), "/containers/%s/%s", stage, directory);
	snprintf(container->id, sizeof(container->id), "%s-%s", stage, directory);
	snprintf(path, sizeof(path), "%s/runtime", container->directory);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &status) || status.st_size > LARGEST_RECORDS)
		return complain("read", path);
	container->records = calloc(1, status.st_size + 1);
	container->length = read(file, container->records, status.st_size);
	close(file);
	container->name = text_of(container, "name");
	return true;
}

static bool fail(struct container *container, const char *what, const char *about)
{
	snprintf(container->failure, sizeof(container->failure), "%s %s: %m", what, about);
	return false;
}

/* Runs crun to its end. Its messages go where the container's output goes. */
static int run_crun(int output, const char *const *words)
{
	const char *argument[16] = { CRUN, "--root", STATE_ROOT };
	int status, count = 3;
	pid_t pid;

	while (*words && count < 15)
		argument[count++] = *words++;
	argument[count] = NULL;
	pid = fork();
	if (!pid) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		signal(SIGPIPE, SIG_DFL);
		setsid();
		dup2(open("/dev/null", O_RDONLY), 0);
		if (output < 0)
			output = open("/dev/null", O_WRONLY);
		dup2(output, 1);
		dup2(output, 2);
		execv(CRUN, (char **)argument);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static bool each(struct container *container, const char *key, bool (*make)(const char *))
{
	const char *position = NULL, *value;

	while ((value = next_record(container->records, container->length, key, &position)))
		if (!make(value))
			return fail(container, "could not make the machine's side of it:", value);
	return true;
}

static bool make_cgroup(const char *path)
{
	char place[LONGEST];

	snprintf(place, sizeof(place), "/sys/fs/cgroup/%s", path + (*path == '/'));
	return make_directories(place);
}

/* The root: as it is if it is read-only, else with memory over it, which lasts until the machine is powered off. */
static bool make_root(struct container *container)
{
	char lower[300], memory[300], root[300];

	snprintf(root, sizeof(root), "%s/rootfs", container->directory);
	snprintf(lower, sizeof(lower), "%s/lower", container->directory);
	snprintf(memory, sizeof(memory), WRITABLE "/%s", container->id);
	if (*text_of(container, "readonly") == '1' || container->restarts || container->started)
		return true;
	return mount_overlay(lower, memory, root) || fail(container, "could not mount", root);
}

static bool make_ready(struct container *container)
{
	if (!make_root(container))
		return false;
	if (container->started) /* it is there from the last time */
		return true;
	/* A directory may be made in what is mounted. */
	return each(container, "cgroup", make_cgroup) && each(container, "mount", make_mount) &&
	       each(container, "mkdir", make_directories) && each(container, "sysctl", set_sysctl);
}

static pid_t read_pid(const char *path)
{
	FILE *file = fopen(path, "re");
	int pid = 0;

	if (file && fscanf(file, "%d", &pid) != 1)
		pid = 0;
	if (file)
		fclose(file);
	return pid;
}

static bool keep_namespace(struct container *container, const char *record)
{
	char copy[LONGEST], from[64], *field[2], *slash;
	int file;

	snprintf(copy, sizeof(copy), "%s", record);
	split(copy, '=', field, 2);
	slash = strrchr(field[1], '/');
	*slash = 0;
	if (slash != field[1])
		make_directories(field[1]);
	*slash = '/';
	file = open(field[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
	close(file);
	snprintf(from, sizeof(from), "/proc/%d/ns/%s", container->pid, field[0]);
	umount2(field[1], MNT_DETACH);
	return !mount(from, field[1], NULL, MS_BIND, NULL) || fail(container, "could not keep the namespace", field[1]);
}

/* Between its making and its start, when its namespaces are there and nothing runs in them yet. */
static bool connect_namespaces(struct container *container)
{
	const char *position = NULL, *value;

	while ((value = next_record(container->records, container->length, "interface", &position)))
		if (!give_interface(value, container->pid))
			return fail(container, "could not give it the link", value);
	position = NULL;
	while ((value = next_record(container->records, container->length, "bind-ns", &position)))
		if (!keep_namespace(container, value))
			return false;
	return true;
}

static void remove_container(struct container *container)
{
	run_crun(-1, (const char *const[]){ "delete", "--force", container->id, NULL });
}

static bool create(struct container *container, int output)
{
	char pid_file[256];
	const char *const words[] = {
		"create", "--bundle", container->directory, "--pid-file", pid_file, container->id, NULL
	};

	snprintf(pid_file, sizeof(pid_file), "/run/whit/%s.pid", container->id);
	if (run_crun(output, words)) {
		snprintf(container->failure, sizeof(container->failure), "crun could not make it");
		return false;
	}
	container->pid = read_pid(pid_file);
	return true;
}

bool container_start(struct container *container)
{
	int pipes[2];
	bool running;

	container->failure[0] = 0;
	if (!make_ready(container))
		return false;
	if (pipe2(pipes, O_CLOEXEC))
		return fail(container, "could not make", "a pipe");
	/* Whoever runs in it may open /dev/stdout, which asks for the right to. */
	fchown(pipes[1], number_of(container, "uid"), -1);
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	container->output = pipes[0];
	container->started = now();
	running = create(container, pipes[1]) && connect_namespaces(container);
	if (running && run_crun(pipes[1], (const char *const[]){ "start", container->id, NULL })) {
		snprintf(container->failure, sizeof(container->failure), "its command could not be started");
		running = false;
	}
	close(pipes[1]);
	container->state = STATE_RUNNING;
	if (!running) {
		container->pid = 0;
		remove_container(container);
	}
	return running;
}

void container_ended(struct container *container, int status)
{
	container->pid = 0;
	container->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	remove_container(container);
}

void container_kill(struct container *container, int signal)
{
	if (container->pid)
		kill(container->pid, signal);
}

bool container_is_ready(const struct container *container)
{
	const char *path = text_of(container, "ready-path");
	long port = number_of(container, "ready-tcp");

	if (port)
		return is_listening(container->pid, port);
	return !*path || !access(path, F_OK);
}

static void remember(struct container *container, const char *line)
{
	size_t added = strlen(line) + 1, used = strlen(container->tail);

	if (added > TAIL)
		return;
	if (used + added > TAIL) {
		const char *kept = strchr(container->tail + (used + added - TAIL - 1), '\n');

		kept = kept ? kept + 1 : container->tail + used;
		memmove(container->tail, kept, strlen(kept) + 1);
	}
	strcat(container->tail, line);
	strcat(container->tail, "\n");
}

static void end_line(struct container *container, void (*line)(struct container *, const char *))
{
	container->line[container->used] = 0;
	container->used = 0;
	remember(container, container->line);
	line(container, container->line);
}

void container_read(struct container *container, void (*line)(struct container *, const char *))
{
	char piece[4096];
	ssize_t size;

	/* Whoever prints without end does not keep the others waiting. */
	for (int times = 0; times < MOST_READS && container->output >= 0; times++) {
		size = read(container->output, piece, sizeof(piece));
		if (size < 0)
			return;
		for (ssize_t at = 0; at < size; at++) {
			if (piece[at] == '\n' || container->used == LINE - 1)
				end_line(container, line);
			if (piece[at] != '\n' && piece[at] != '\r')
				container->line[container->used++] = piece[at];
		}
		if (size)
			continue;
		if (container->used)
			end_line(container, line);
		close(container->output);
		container->output = -1;
	}
}
