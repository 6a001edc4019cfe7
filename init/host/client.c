/* SPDX-License-Identifier: Apache-2.0 */
/* A command in the guest, on our own standard streams. If they are a terminal, it is made raw: the guest has its own. */
#include "host/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "channel/stream.h"
#include "channel/wire.h"

#define CANNOT_RUN 125
#define KILLED (128 + SIGKILL)

static struct link guest;
static struct source input;
static struct sink output, errors;
static long status = -1;

static int fail(const char *what)
{
	fprintf(stderr, "whit: %s: %m\n", what);
	return CANNOT_RUN;
}

static void from_guest(void *context, const struct frame *frame, const char *payload)
{
	struct taken taken;
	uint32_t number;

	(void)context;
	switch (frame->type) {
	case FRAME_OUTPUT:
		sink_receive(&output, &guest, 0, payload, frame->length);
		break;
	case FRAME_ERRORS:
		sink_receive(&errors, &guest, 0, payload, frame->length);
		break;
	case FRAME_TAKEN:
		memcpy(&taken, payload, sizeof(taken));
		source_taken(&input, &taken);
		break;
	case FRAME_EXIT:
		memcpy(&number, payload, sizeof(number));
		status = number;
		break;
	}
}

static void send_size(void)
{
	struct winsize now;
	struct size size;

	if (ioctl(0, TIOCGWINSZ, &now))
		return;
	size = (struct size){ .rows = now.ws_row, .columns = now.ws_col };
	link_send(&guest, 0, FRAME_RESIZE, &size, sizeof(size));
}

static void hear_signals(int signals)
{
	struct signalfd_siginfo heard;

	while (read(signals, &heard, sizeof(heard)) == sizeof(heard)) {
		if (heard.ssi_signo == SIGWINCH)
			send_size();
		else
			link_send(&guest, 0, FRAME_SIGNAL, &heard.ssi_signo, sizeof(heard.ssi_signo));
	}
}

static int signals_of_interest(void)
{
	sigset_t set;

	sigemptyset(&set);
	for (size_t at = 0; at < 6; at++)
		sigaddset(&set, (int[]){ SIGWINCH, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 }[at]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static size_t watched(struct pollfd *polls, int signals)
{
	size_t count = 0;

	polls[count++] = (struct pollfd){ .fd = signals, .events = POLLIN };
	polls[count++] = (struct pollfd){ .fd = guest.fd, .events = POLLIN | (guest.out.used ? POLLOUT : 0) };
	if (wants_to_read(&input))
		polls[count++] = (struct pollfd){ .fd = input.fd, .events = POLLIN };
	if (wants_to_write(&output))
		polls[count++] = (struct pollfd){ .fd = output.fd, .events = POLLOUT };
	if (wants_to_write(&errors))
		polls[count++] = (struct pollfd){ .fd = errors.fd, .events = POLLOUT };
	return count;
}

/* Until the command has ended and what it printed is written; or there is no machine any more. */
static bool talk(int signals)
{
	struct pollfd polls[5];

	while (status < 0 || output.waiting.used || errors.waiting.used) {
		poll(polls, watched(polls, signals), -1);
		hear_signals(signals);
		source_pump(&input, &guest, 0);
		if (!link_receive(&guest, from_guest, NULL) && status < 0)
			return false;
		sink_flush(&output, &guest, 0);
		sink_flush(&errors, &guest, 0);
		if (!link_flush(&guest) && status < 0)
			return false;
	}
	return true;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return -1;
	set_nonblocking(fd);
	return fd;
}

static void send_start(char **records)
{
	struct buffer description = {};

	for (; *records; records++)
		buffer_add(&description, *records, strlen(*records) + 1);
	link_send(&guest, 0, FRAME_START, description.bytes, description.used);
}

int run_client(const char *socket_, char **records)
{
	int signals = signals_of_interest();
	struct termios before, raw;
	bool terminal = !tcgetattr(0, &before);

	guest.fd = connect_to(socket_);
	if (guest.fd < 0)
		return fail(socket_);
	input = source_of(0, FRAME_INPUT);
	output = sink_of(1, FRAME_OUTPUT);
	errors = sink_of(2, FRAME_ERRORS);
	if (terminal) {
		raw = before;
		cfmakeraw(&raw);
		tcsetattr(0, TCSANOW, &raw);
	}
	send_start(records);
	if (terminal)
		send_size();
	if (!talk(signals))
		fprintf(stderr, "whit: the virtual machine has ended\n");
	if (terminal)
		tcsetattr(0, TCSANOW, &before);
	/* A machine that ends takes its commands along, and may have no time left to say so. */
	return status < 0 ? KILLED : status;
}
