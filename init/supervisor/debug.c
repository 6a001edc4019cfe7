/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/debug.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/container.h"

#define PROGRAM "/run/whit/debug"
#define LARGEST (16u << 20)
#define REST 500 /* milliseconds between two looks whether somebody is there */
#define PIECE 4096

static int port = -1, file = -1, terminal = -1;
static pid_t shell;
static struct winsize window;
static char header[64], shown[PIECE], typed[PIECE];
static size_t header_used, missing, shown_used, typed_used;
static int64_t rest_until;

void debug_use(int descriptor)
{
	port = descriptor;
}

static void become_shell(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	clearenv();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("TERM", "xterm", 1);
	setenv("PS1", "machine# ", 1);
	execl(PROGRAM, "sh", (char *)NULL);
	_exit(127);
}

static void start_shell(void)
{
	close(file);
	file = -1;
	shell = forkpty(&terminal, NULL, NULL, &window);
	if (!shell)
		become_shell();
	if (shell > 0)
		fcntl(terminal, F_SETFL, O_NONBLOCK);
	fcntl(terminal, F_SETFD, FD_CLOEXEC);
}

static void hang_up(void)
{
	if (shell > 0)
		kill(-shell, SIGKILL);
	if (terminal >= 0)
		close(terminal);
	if (file >= 0)
		close(file);
	terminal = file = -1;
	shell = 0;
	header_used = missing = shown_used = typed_used = 0;
}

void debug_ended(pid_t pid)
{
	static const char words[] = "\r\nwhit: the shell has ended\r\n";

	if (pid != shell || !shell)
		return;
	(void)!write(port, words, sizeof(words) - 1);
	shell = 0;
	hang_up();
}

/* How many of the bytes belong to the line that comes first. */
static size_t take_header(const char *bytes, size_t size)
{
	unsigned rows, columns;
	size_t at = 0;

	while (at < size && header_used < sizeof(header) - 1) {
		header[header_used++] = bytes[at++];
		if (header[header_used - 1] != '\n')
			continue;
		header[header_used] = 0;
		if (sscanf(header, "%u %u %zu", &rows, &columns, &missing) != 3 || missing > LARGEST)
			missing = 0;
		window = (struct winsize){ .ws_row = rows, .ws_col = columns };
		unlink(PROGRAM);
		file = missing ? open(PROGRAM, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700) : -1;
		break;
	}
	return at;
}

static void take_program(const char *bytes, size_t size)
{
	(void)!write(file, bytes, size);
	missing -= size;
	if (!missing)
		start_shell();
}

/* The line, the program, and then what is typed; one piece may have something of each. */
static void take(const char *bytes, size_t size)
{
	if (!shell && file < 0) {
		size_t used = take_header(bytes, size);

		bytes += used;
		size -= used;
	}
	if (file >= 0 && size) {
		size_t used = size < missing ? size : missing;

		take_program(bytes, used);
		bytes += used;
		size -= used;
	}
	if (shell && size <= sizeof(typed) - typed_used) {
		memcpy(typed + typed_used, bytes, size);
		typed_used += size;
	}
}

bool debug_polls(struct pollfd *polls)
{
	bool resting = now() < rest_until, listening = typed_used < sizeof(typed) / 2 && !resting;

	polls[0] = (struct pollfd){ .fd = listening ? port : -1, .events = POLLIN | (shown_used ? POLLOUT : 0) };
	polls[1] = (struct pollfd){ .fd = terminal,
				    .events = (shown_used ? 0 : POLLIN) | (typed_used ? POLLOUT : 0) };
	return resting && port >= 0;
}

static void pass(int to, char *bytes, size_t *used)
{
	ssize_t size = *used && to >= 0 ? write(to, bytes, *used) : 0;

	if (size <= 0)
		return;
	memmove(bytes, bytes + size, *used - size);
	*used -= size;
}

void debug_turn(const struct pollfd *polls)
{
	char piece[PIECE / 2];
	ssize_t size;

	if (port < 0)
		return;
	if (polls[0].revents & POLLHUP) {
		hang_up();
		rest_until = now() + REST;
		return;
	}
	if (polls[0].revents & POLLIN && (size = read(port, piece, sizeof(piece))) > 0)
		take(piece, size);
	pass(terminal, typed, &typed_used);
	if (!shown_used && terminal >= 0 && (size = read(terminal, shown, sizeof(shown))) > 0)
		shown_used = size;
	pass(port, shown, &shown_used);
}
