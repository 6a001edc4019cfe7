/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "channel/records.h"

#define MOST_GROUPS 1024
#define MOST_CAPABILITIES 64
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127
#define IN 0
#define OUT 1

static void fail(const char *what)
{
	int code = errno == ENOENT || errno == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE;

	fprintf(stderr, "%s: %m\n", what);
	_exit(code);
}

static unsigned long long number(const char *records, size_t length, const char *key, int base)
{
	return strtoull(record(records, length, key, "0"), NULL, base);
}

/* The values of a key that comes many times, as exec takes them. */
static char **values(const char *records, size_t length, const char *key)
{
	const char *position = NULL, *value;
	char **found;
	size_t count = 0;

	while (next_record(records, length, key, &position))
		count++;
	found = calloc(count + 1, sizeof(*found));
	if (!found)
		fail("memory");
	position = NULL;
	for (size_t at = 0; (value = next_record(records, length, key, &position)); at++)
		found[at] = (char *)value;
	return found;
}

static void set_limits(const char *records, size_t length)
{
	unsigned long soft, hard;

	if (sscanf(record(records, length, "nofile", ""), "%lu:%lu", &soft, &hard) == 2)
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){ soft, hard });
}

static void set_user(const char *records, size_t length)
{
	const char *position = NULL, *value;
	gid_t groups[MOST_GROUPS];
	size_t count = 0;

	while (count < MOST_GROUPS && (value = next_record(records, length, "group", &position)))
		groups[count++] = strtoul(value, NULL, 10);
	gid_t group = number(records, length, "gid", 10);
	uid_t user = number(records, length, "uid", 10);
	if (setgroups(count, groups) || setresgid(group, group, group) || setresuid(user, user, user))
		fail("change of user");
}

static void set_capabilities(unsigned long long permitted, unsigned long long ambient)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = {};

	for (int half = 0; half < 2; half++) {
		data[half].permitted = data[half].effective = permitted >> (32 * half);
		data[half].inheritable = ambient >> (32 * half);
	}
	if (syscall(SYS_capset, &header, data))
		fail("capabilities");
	for (int one = 0; one < MOST_CAPABILITIES; one++)
		if (ambient >> one & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, one, 0, 0))
			fail("ambient capabilities");
}

static void give_up_power(const char *records, size_t length)
{
	unsigned long long bounding = number(records, length, "bounding", 16);

	for (int one = 0; one < MOST_CAPABILITIES; one++)
		if (!(bounding >> one & 1) && prctl(PR_CAPBSET_READ, one) == 1 && prctl(PR_CAPBSET_DROP, one))
			fail("bounding capabilities");
	prctl(PR_SET_KEEPCAPS, 1);
	set_user(records, length);
	set_capabilities(number(records, length, "permitted", 16), number(records, length, "ambient", 16));
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fail("no new privileges");
}

static void reset_signals(void)
{
	sigset_t none;

	for (int one = 1; one < NSIG; one++)
		signal(one, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become(const char *records, size_t length, int group)
{
	char **words = values(records, length, "arg");
	const char *place = record(records, length, "cwd", "/");

	if (group >= 0 && write(group, "0", 1) != 1)
		fail("control group");
	reset_signals();
	set_limits(records, length);
	give_up_power(records, length);
	umask(022);
	if (chdir(place))
		fail(place);
	clearenv();
	for (char **one = values(records, length, "env"); *one; one++)
		putenv(*one);
	if (!words[0]) {
		errno = ENOENT;
		fail("no command");
	}
	execvp(words[0], words);
	fail(words[0]);
	_exit(NOT_FOUND);
}

static bool start_on_terminal(struct process *process, const char *records, size_t length, int group)
{
	unsigned rows = 24, columns = 80;
	struct winsize size;
	int master;

	sscanf(record(records, length, "terminal", ""), "%u:%u", &rows, &columns);
	size = (struct winsize){ .ws_row = rows, .ws_col = columns };
	process->pid = forkpty(&master, NULL, NULL, &size);
	if (!process->pid) {
		fchown(0, number(records, length, "uid", 10), 5);
		become(records, length, group);
	}
	if (process->pid < 0)
		return false;
	fcntl(master, F_SETFD, FD_CLOEXEC);
	process->terminal = master;
	process->output = fcntl(master, F_DUPFD_CLOEXEC, 0);
	process->input = fcntl(master, F_DUPFD_CLOEXEC, 0);
	process->errors = -1;
	return true;
}

static bool make_pipes(int pipes[3][2])
{
	for (int at = 0; at < 3; at++)
		if (pipe2(pipes[at], O_CLOEXEC)) {
			while (at--) {
				close(pipes[at][IN]);
				close(pipes[at][OUT]);
			}
			return false;
		}
	return true;
}

static bool start_on_pipes(struct process *process, const char *records, size_t length, int group)
{
	int pipes[3][2];

	if (!make_pipes(pipes))
		return false;
	process->pid = fork();
	if (!process->pid) {
		setsid();
		for (int at = 0; at < 3; at++) {
			int inside = pipes[at][at == 0 ? IN : OUT];

			/* Whoever runs it may open /dev/stdout, which asks for the right to. */
			fchown(inside, number(records, length, "uid", 10), -1);
			dup2(inside, at);
		}
		become(records, length, group);
	}
	process->input = pipes[0][OUT];
	process->output = pipes[1][IN];
	process->errors = pipes[2][IN];
	process->terminal = -1;
	close(pipes[0][IN]);
	close(pipes[1][OUT]);
	close(pipes[2][OUT]);
	if (process->pid < 0) {
		close(process->input);
		close(process->output);
		close(process->errors);
	}
	return process->pid > 0;
}

static bool start_on_console(struct process *process, const char *records, size_t length, int group)
{
	*process = (struct process){ .input = -1, .output = -1, .errors = -1, .terminal = -1, .pid = fork() };
	if (process->pid)
		return process->pid > 0;
	setsid();
	for (int at = 0; at < 3; at++)
		fchown(at, number(records, length, "uid", 10), -1);
	become(records, length, group);
}

bool process_start(struct process *process, const char *records, size_t length, int group)
{
	if (record(records, length, "console", NULL))
		return start_on_console(process, records, length, group);
	if (record(records, length, "terminal", NULL))
		return start_on_terminal(process, records, length, group);
	return start_on_pipes(process, records, length, group);
}

void terminal_resize(int terminal, const struct size *size)
{
	struct winsize wanted = { .ws_row = size->rows, .ws_col = size->columns };

	if (terminal >= 0)
		ioctl(terminal, TIOCSWINSZ, &wanted);
}
