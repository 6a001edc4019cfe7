/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints where somebody listens: the kernel's tables of sockets, each behind a line of its own, and an end; and again
 * for each byte that it reads. Run in a sandbox, whose sockets nobody sees from outside; started from a descriptor, so
 * that nothing has to be in the sandbox for it.
 */
#include <stddef.h>

#include "bare/bare.h"

#define AT_FDCWD -100

/* Said at once where there is room: who asks waits, and is woken for each piece. */
static char said[65536];
static size_t length;

static void say(void)
{
	call(SYS_write, 1, (long)said, length);
	length = 0;
}

static void print(const char *text)
{
	if (length > sizeof(said) / 2)
		say();
	while (*text)
		said[length++] = *text++;
}

static void copy(const char *path)
{
	long size, file = call(SYS_openat, AT_FDCWD, (long)path, 0);

	while (file >= 0 && (size = call(SYS_read, file, (long)(said + length), sizeof(said) - length)) > 0) {
		length += size;
		if (length > sizeof(said) / 2)
			say();
	}
	if (file >= 0)
		call(SYS_close, file, 0, 0);
}

static void print_tables(void)
{
	static const char *const tables[] = { "tcp", "tcp6", "udp", "udp6" };

	for (size_t at = 0; at < sizeof(tables) / sizeof(*tables); at++) {
		char path[] = "/proc/net/\0\0\0\0";

		for (size_t one = 0; tables[at][one]; one++)
			path[10 + one] = tables[at][one];
		print("table ");
		print(tables[at]);
		print("\n");
		copy(path);
	}
	print("table end\n");
	say();
}

void _start(void)
{
	char byte;

	do
		print_tables();
	while (call(SYS_read, 0, (long)&byte, 1) == 1);
	call(SYS_exit_group, 0, 0, 0);
}
