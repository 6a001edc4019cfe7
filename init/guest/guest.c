/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a guest: sets it up as it is told over its virtio-serial port, runs the instance's process and
 * what is added to it, carries their inputs, outputs and signals, and reaps. When the instance's process has ended and
 * that was told, the machine powers off.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel/records.h"
#include "channel/stream.h"
#include "channel/wire.h"
#include "guest/group.h"
#include "guest/process.h"
#include "guest/restored.h"
#include "setup/setup.h"

#define PORT_NAME "whit"
#define MOST_COMMANDS 256
#define CANNOT_RUN 125

struct command {
	bool used;
	bool ended;
	uint32_t channel;
	uint32_t status;
	pid_t pid;
	int terminal;
	struct sink input;
	struct source output, errors;
};

static struct link port = { .fd = -1 };
static struct command commands[MOST_COMMANDS];
static bool paused; /* nothing is sent */
static bool leaving; /* the instance's process has ended */

static struct command *command_of(uint32_t channel)
{
	for (struct command *one = commands; one < commands + MOST_COMMANDS; one++)
		if (one->used && one->channel == channel)
			return one;
	return NULL;
}

static void send_exit(uint32_t channel, uint32_t status)
{
	if (!channel && groups_ran_out_of_memory())
		link_send(&port, channel, FRAME_MEMORY, NULL, 0);
	link_send(&port, channel, FRAME_EXIT, &status, sizeof(status));
	if (!channel)
		leaving = true;
}

static void start_command(uint32_t channel, const char *records, size_t length)
{
	struct process process;
	struct command *free_one = NULL;
	bool started;
	int group;

	for (struct command *one = commands; one < commands + MOST_COMMANDS; one++)
		if (!one->used)
			free_one = one;
	group = group_open(channel);
	started = free_one && process_start(&process, records, length, group);
	if (group >= 0)
		close(group);
	if (!started) {
		group_end(channel);
		send_exit(channel, CANNOT_RUN);
		return;
	}
	*free_one = (struct command){
		.used = true,
		.channel = channel,
		.pid = process.pid,
		.terminal = process.terminal,
		.input = sink_of(process.input, FRAME_INPUT),
		.output = source_of(process.output, FRAME_OUTPUT),
		.errors = source_of(process.errors, FRAME_ERRORS),
	};
}

static void close_all(struct command *command)
{
	int descriptors[] = { command->input.fd, command->output.fd, command->errors.fd, command->terminal };

	for (size_t at = 0; at < sizeof(descriptors) / sizeof(*descriptors); at++)
		if (descriptors[at] >= 0)
			close(descriptors[at]);
	free(command->input.waiting.bytes);
	*command = (struct command){};
}

/* Everything that it printed goes before its end. Who still holds its output open is not waited for. */
static void settle(struct command *command)
{
	bool more = source_pump(&command->output, &port, command->channel);

	more |= source_pump(&command->errors, &port, command->channel);
	if (!command->ended || more)
		return;
	group_end(command->channel);
	send_exit(command->channel, command->status);
	close_all(command);
}

static void setup(const char *records, size_t length)
{
	if (!groups_make(record(records, length, "pids", "")))
		fprintf(stderr, "whit: control groups: %m\n");
	else if (setup_system(records, length)) {
		link_send(&port, 0, FRAME_READY, NULL, 0);
		return;
	}
	send_exit(0, CANNOT_RUN);
}

static void to_command(struct command *command, const struct frame *frame, const char *payload)
{
	struct taken taken = {};
	struct size size = {};
	uint32_t number = 0;

	switch (frame->type) {
	case FRAME_INPUT:
		/* A terminal has no end: who types says so. */
		if (frame->length || command->terminal < 0)
			sink_receive(&command->input, &port, frame->channel, payload, frame->length);
		break;
	case FRAME_TAKEN:
		memcpy(&taken, payload, sizeof(taken));
		source_taken(&command->output, &taken);
		source_taken(&command->errors, &taken);
		break;
	case FRAME_SIGNAL:
		memcpy(&number, payload, sizeof(number));
		if (!command->ended)
			kill(command->pid, number);
		break;
	case FRAME_RESIZE:
		memcpy(&size, payload, sizeof(size));
		terminal_resize(command->terminal, &size);
		break;
	case FRAME_CLOSE:
		group_end(command->channel);
		break;
	}
}

static void add_table(struct buffer *answer, const char *name)
{
	char text[4096];
	int file;
	ssize_t size = snprintf(text, sizeof(text), "table %s\n", name);

	buffer_add(answer, text, size);
	snprintf(text, sizeof(text), "/proc/net/%s", name);
	file = open(text, O_RDONLY | O_CLOEXEC);
	while (file >= 0 && (size = read(file, text, sizeof(text))) > 0)
		buffer_add(answer, text, size);
	if (file >= 0)
		close(file);
}

static void tell_listeners(uint32_t channel)
{
	static const char *const tables[] = { "tcp", "tcp6", "udp", "udp6" };
	struct buffer answer = {};

	for (size_t at = 0; at < sizeof(tables) / sizeof(*tables); at++)
		add_table(&answer, tables[at]);
	link_send(&port, channel, FRAME_LISTENERS, answer.bytes, answer.used);
	free(answer.bytes);
}

/* Its commands stand still, and what they had written is on the disk. */
static void pause_all(uint32_t channel)
{
	paused = groups_freeze(true);
	sync();
	if (paused)
		link_send(&port, channel, FRAME_PAUSE, NULL, 0);
	else
		groups_freeze(false);
}

/* Who took what was sent may be another by now, so it is all taken. */
static void resume(uint32_t channel, const char *records, size_t length)
{
	uint32_t done = restored(records, length);

	for (struct command *one = commands; one < commands + MOST_COMMANDS; one++)
		one->output.credit = one->errors.credit = WINDOW;
	groups_freeze(false);
	paused = false;
	link_send(&port, channel, FRAME_RESUME, &done, sizeof(done));
}

static void handle(void *context, const struct frame *frame, const char *payload)
{
	struct command *command = command_of(frame->channel);
	bool whole = frame->length && !payload[frame->length - 1];

	(void)context;
	if (frame->type == FRAME_SETUP && whole)
		setup(payload, frame->length);
	else if (frame->type == FRAME_START && whole && !leaving)
		start_command(frame->channel, payload, frame->length);
	else if (frame->type == FRAME_PAUSE)
		pause_all(frame->channel);
	else if (frame->type == FRAME_RESUME && whole)
		resume(frame->channel, payload, frame->length);
	else if (frame->type == FRAME_LISTENERS)
		tell_listeners(frame->channel);
	else if (command)
		to_command(command, frame, payload);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct command *one = commands; one < commands + MOST_COMMANDS; one++)
			if (one->used && one->pid == pid) {
				one->ended = true;
				one->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			}
	groups_sweep();
}

/* The port by its name: /sys/class/virtio-ports/vportNpM/name. Its device appears a moment after the driver. */
static int open_port(void)
{
	char path[300], name[64];

	for (int tries = 0; tries < 1000; tries++, usleep(10000)) {
		DIR *directory = opendir("/sys/class/virtio-ports");
		struct dirent *entry;
		int found = -1;

		while (found < 0 && directory && (entry = readdir(directory))) {
			FILE *file;

			snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
			file = fopen(path, "re");
			if (file && fgets(name, sizeof(name), file) && !strcmp(name, PORT_NAME "\n")) {
				snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
				found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
			}
			if (file)
				fclose(file);
		}
		if (directory)
			closedir(directory);
		if (found >= 0)
			return found;
	}
	return -1;
}

static size_t watched(struct pollfd *polls, int signals)
{
	size_t count = 0;

	polls[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
	polls[count++] = (struct pollfd){ .fd = port.fd, .events = POLLIN | (port.out.used ? POLLOUT : 0) };
	for (struct command *one = commands; one < commands + MOST_COMMANDS; one++) {
		if (!one->used)
			continue;
		if (wants_to_read(&one->output))
			polls[count++] = (struct pollfd){ .fd = one->output.fd, .events = POLLIN };
		if (wants_to_read(&one->errors))
			polls[count++] = (struct pollfd){ .fd = one->errors.fd, .events = POLLIN };
		if (wants_to_write(&one->input))
			polls[count++] = (struct pollfd){ .fd = one->input.fd, .events = POLLOUT };
	}
	return count;
}

static void serve(int signals)
{
	struct pollfd polls[2 + 3 * MOST_COMMANDS];
	struct signalfd_siginfo signal_;

	while (!leaving || port.out.used) {
		poll(polls, watched(polls, signals), -1);
		while (read(signals, &signal_, sizeof(signal_)) > 0)
			;
		reap();
		if (!link_receive(&port, handle, NULL))
			return;
		for (struct command *one = commands; one < commands + MOST_COMMANDS; one++) {
			if (!one->used || paused)
				continue;
			sink_flush(&one->input, &port, one->channel);
			settle(one);
		}
		if (!link_flush(&port))
			return;
	}
}

int main(void)
{
	sigset_t children;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	setup_kernel();
	port.fd = open_port();
	if (port.fd < 0)
		fprintf(stderr, "whit: there is no port %s\n", PORT_NAME);
	else
		serve(signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC));
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
