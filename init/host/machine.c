/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of the container in which a virtual machine runs. To whoever looks at the container, it is the
 * instance's process: it prints what that prints, passes signals on, and ends with its exit status.
 *
 * usage: machine run|wait|resume USER GUEST PROCESS [PROGRAM ARGUMENT...] -- QEMU ARGUMENT...
 *        machine exec RECORD...
 *
 * GUEST and PROCESS are files of records. `wait` boots, and has the instance's process start when a client says so
 * (FRAME_BEGIN); `resume` says nothing, for its guest has heard it before it was written to a file. All start PROGRAM
 * (virtiofsd) as it is, and QEMU as USER, with its port (descriptor 3), its console (4), and a socket at which it listens
 * for who controls it (5).
 * `exec` runs a command in the guest, on the caller's standard streams.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel/stream.h"
#include "channel/wire.h"
#include "host/client.h"

#define SOCKET "/run/machine.sock"
#define CONTROL "/run/qmp.sock"
#define SHARE "/run/root.sock"
#define OUT_OF_MEMORY "/guest/memory" /* its content says that the guest has killed for memory */
#define SERVER_LOG "/run/server.log" /* shown if the machine did not come to run the instance's process */
#define MOST_CLIENTS 64
#define CANNOT_RUN 125
#define PATIENCE 100 /* tenths of a second, for virtiofsd to listen and for the machine to power off */
#define PORT_FD 3
#define CONSOLE_FD 4
#define CONTROL_FD 5

struct client {
	struct link link;
	uint32_t channel;
	bool used;
	bool gone;
};

static struct link port, console_, nobody;
static bool paused; /* so that the end of the machine is not that of the instance */
static struct client clients[MOST_CLIENTS];
static struct sink output, errors;
static pid_t machine; /* 0 when it has ended */
static pid_t server; /* serves its root */
static uint32_t last_channel;
static struct buffer process; /* records of the instance's own; none once it has been started */
static long status = -1; /* of the instance's process, once it has ended */

static void die(const char *what)
{
	fprintf(stderr, "whit: %s: %m\n", what);
	exit(CANNOT_RUN);
}

static struct buffer read_file(const char *path)
{
	struct buffer content = {};
	char piece[4096];
	ssize_t size;
	int file = open(path, O_RDONLY | O_CLOEXEC);

	if (file < 0)
		die(path);
	while ((size = read(file, piece, sizeof(piece))) > 0)
		buffer_add(&content, piece, size);
	close(file);
	return content;
}

static void unblock_and_exec(char **words)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv(words[0], words);
	die(words[0]);
}

static void start_server(char **words)
{
	pid_t pid = server = fork();

	if (!pid) {
		dup2(open(SERVER_LOG, O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
		unblock_and_exec(words);
	}
	for (int tries = 0; tries < PATIENCE * 10 && access(SHARE, F_OK) && !waitpid(pid, NULL, WNOHANG); tries++)
		usleep(10000);
}

static pid_t start_machine(char **words, uid_t user, int port_end, int console_end, int control)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (dup2(port_end, PORT_FD) < 0 || dup2(console_end, CONSOLE_FD) < 0 || dup2(control, CONTROL_FD) < 0)
		die("descriptors of the machine");
	if (chown(SHARE, user, user) && errno != ENOENT)
		die(SHARE);
	if (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user))
		die("user of the machine");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	unblock_and_exec(words);
	return -1;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	unlink(path);
	strcpy(address.sun_path, path);
	if (bind(listening, (struct sockaddr *)&address, sizeof(address)) || chmod(path, 0600) || listen(listening, 16))
		die(path);
	return fcntl(listening, F_DUPFD_CLOEXEC, 10);
}

static void take_client(int listening)
{
	int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (struct client *one = clients; one < clients + MOST_CLIENTS; one++)
		if (!one->used) {
			*one = (struct client){ .link = { .fd = fd }, .channel = ++last_channel, .used = true };
			return;
		}
	close(fd);
}

static void forget(struct client *client)
{
	close(client->link.fd);
	free(client->link.in.bytes);
	free(client->link.out.bytes);
	*client = (struct client){};
}

/* Once is enough, however often it is said. */
static void begin(void)
{
	if (!process.used)
		return;
	link_send(&port, 0, FRAME_START, process.bytes, process.used);
	link_send(&port, 0, FRAME_INPUT, NULL, 0);
	buffer_drop(&process, process.used);
}

/* What a client says is passed on, of its own channel only. */
static void from_client(void *context, const struct frame *frame, const char *payload)
{
	struct client *client = context;

	if (frame->type == FRAME_BEGIN) {
		begin();
		link_send(&client->link, 0, FRAME_BEGIN, NULL, 0);
		return;
	}
	link_send(&port, client->channel, frame->type, payload, frame->length);
}

static void note_memory(void)
{
	int file = open(OUT_OF_MEMORY, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, "1\n", 2) != 2)
		fprintf(stderr, "whit: %s: %m\n", OUT_OF_MEMORY);
	if (file >= 0)
		close(file);
}

static void of_instance(const struct frame *frame, const char *payload)
{
	uint32_t number;

	switch (frame->type) {
	case FRAME_OUTPUT:
		sink_receive(&output, &port, 0, payload, frame->length);
		break;
	case FRAME_ERRORS:
		sink_receive(&errors, &port, 0, payload, frame->length);
		break;
	case FRAME_MEMORY:
		note_memory();
		break;
	case FRAME_EXIT:
		memcpy(&number, payload, sizeof(number));
		status = number;
		break;
	}
}

static void from_guest(void *context, const struct frame *frame, const char *payload)
{
	(void)context;
	if (frame->type == FRAME_PAUSE)
		paused = true;
	else if (frame->type == FRAME_RESUME)
		paused = false;
	if (!frame->channel) {
		of_instance(frame, payload);
		return;
	}
	for (struct client *one = clients; one < clients + MOST_CLIENTS; one++)
		if (one->used && !one->gone && one->channel == frame->channel)
			link_send(&one->link, 0, frame->type, payload, frame->length);
}

static void serve_client(struct client *client)
{
	/* It has heard of the end once that was written, and then hangs up by itself. */
	if (link_receive(&client->link, from_client, client) && link_flush(&client->link))
		return;
	link_send(&port, client->channel, FRAME_CLOSE, NULL, 0);
	forget(client);
}

static void reap(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0) {
		if (pid == machine)
			machine = 0;
		/* Without its root a guest would hang for ever, and seem to run. */
		else if (pid == server && machine)
			kill(machine, SIGKILL);
	}
}

static void hear_signals(int signals)
{
	struct signalfd_siginfo heard;

	while (read(signals, &heard, sizeof(heard)) == sizeof(heard)) {
		if (heard.ssi_signo != SIGCHLD)
			link_send(&port, 0, FRAME_SIGNAL, &heard.ssi_signo, sizeof(heard.ssi_signo));
	}
	reap();
}

static void print_console(void)
{
	char piece[4096];
	ssize_t size = read(console_.fd, piece, sizeof(piece));

	/* That a guest powers off, its kernel always says; the instance has ended before. */
	if (size > 0 && status < 0 && !errors.waiting.used)
		(void)!write(2, piece, size);
}

static size_t watched(struct pollfd *polls, int signals, int listening)
{
	size_t count = 0;

	polls[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
	polls[count++] = (struct pollfd){ .fd = listening, .events = POLLIN };
	polls[count++] = (struct pollfd){ .fd = console_.fd, .events = POLLIN };
	polls[count++] = (struct pollfd){ .fd = port.fd, .events = POLLIN | (port.out.used ? POLLOUT : 0) };
	if (wants_to_write(&output))
		polls[count++] = (struct pollfd){ .fd = output.fd, .events = POLLOUT };
	if (wants_to_write(&errors))
		polls[count++] = (struct pollfd){ .fd = errors.fd, .events = POLLOUT };
	for (struct client *one = clients; one < clients + MOST_CLIENTS; one++)
		if (one->used)
			polls[count++] = (struct pollfd){ .fd = one->link.fd,
							  .events = POLLIN | (one->link.out.used ? POLLOUT : 0) };
	return count;
}

/* Until the instance's process has ended and all that it printed was written, or the machine is gone. */
static void serve(int signals, int listening)
{
	struct pollfd polls[6 + MOST_CLIENTS];

	while (machine && (status < 0 || output.waiting.used || errors.waiting.used)) {
		poll(polls, watched(polls, signals, listening), -1);
		hear_signals(signals);
		take_client(listening);
		link_receive(&port, from_guest, NULL);
		print_console();
		/* A guest that is paused is told nothing that might reach it in halves. */
		sink_flush(&output, paused ? &nobody : &port, 0);
		sink_flush(&errors, paused ? &nobody : &port, 0);
		for (struct client *one = clients; one < clients + MOST_CLIENTS; one++)
			if (one->used)
				serve_client(one);
		link_flush(&port);
	}
}

/* A guest that has said how its process ended writes back what it has in memory, and powers off. */
static void let_power_off(void)
{
	for (int tries = 0; machine && tries < PATIENCE * 10; tries++, usleep(10000)) {
		link_flush(&port);
		reap();
	}
}

static void tell_failure(void)
{
	struct buffer said = access(SERVER_LOG, F_OK) ? (struct buffer){} : read_file(SERVER_LOG);

	(void)!write(2, said.bytes, said.used);
	fprintf(stderr, "whit: the virtual machine ended before the instance's process did\n");
}

static char **after_dashes(char **words)
{
	for (; *words; words++)
		if (!strcmp(*words, "--")) {
			*words = NULL;
			return words + 1;
		}
	return words;
}

static int run(const char *how, char **words)
{
	int port_ends[2], console_ends[2], listening;
	uid_t user = strtoul(words[0], NULL, 10);
	struct buffer guest = read_file(words[1]);
	char **server = words + 3, **qemu = after_dashes(server);
	sigset_t all;

	process = read_file(words[2]);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Above the numbers that QEMU's ends get. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, port_ends) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, console_ends))
		die("sockets of the machine");
	port.fd = fcntl(port_ends[0], F_DUPFD_CLOEXEC, 10);
	console_.fd = fcntl(console_ends[0], F_DUPFD_CLOEXEC, 10);
	port_ends[1] = fcntl(port_ends[1], F_DUPFD_CLOEXEC, 10);
	console_ends[1] = fcntl(console_ends[1], F_DUPFD_CLOEXEC, 10);
	set_nonblocking(port.fd);
	set_nonblocking(console_.fd);
	output = sink_of(1, FRAME_OUTPUT);
	errors = sink_of(2, FRAME_ERRORS);
	listening = listen_at(SOCKET);
	if (*server)
		start_server(server);
	machine = start_machine(qemu, user, port_ends[1], console_ends[1], listen_at(CONTROL));
	if (strcmp(how, "resume"))
		link_send(&port, 0, FRAME_SETUP, guest.bytes, guest.used);
	if (!strcmp(how, "run"))
		begin();
	serve(signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC), listening);
	if (paused)
		return 0;
	let_power_off();
	if (status < 0)
		tell_failure();
	return status < 0 ? CANNOT_RUN : status;
}

int main(int count, char **words)
{
	if (count >= 7 && (!strcmp(words[1], "run") || !strcmp(words[1], "wait") || !strcmp(words[1], "resume")))
		return run(words[1], words + 2);
	if (count >= 3 && !strcmp(words[1], "exec"))
		return run_client(SOCKET, words + 2);
	fprintf(stderr, "usage: machine run|wait|resume USER GUEST PROCESS [PROGRAM ...] -- QEMU ... | machine exec RECORD...\n");
	return CANNOT_RUN;
}
