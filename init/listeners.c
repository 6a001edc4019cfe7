/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints where somebody listens: the kernel's tables of sockets, each behind a line of its own, and an end; and again
 * for each byte that it reads. Run in a sandbox, whose sockets nobody sees from outside. It is started from a descriptor, so that nothing has to be in the sandbox for it;
 * such a program has no path, which C libraries do not survive.
 */
#include <stddef.h>
#include <sys/syscall.h>

#define AT_FDCWD -100

static long call(long number, long first, long second, long third)
{
	long result;
#if defined(__x86_64__)
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
#else
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second;
	register long x2 __asm__("x2") = third, x3 __asm__("x3") = 0;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	result = x0;
#endif
	return result;
}

static void print(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	call(SYS_write, 1, (long)text, length);
}

static void copy(const char *path)
{
	static char piece[32768];
	long size, file = call(SYS_openat, AT_FDCWD, (long)path, 0);

	while (file >= 0 && (size = call(SYS_read, file, (long)piece, sizeof(piece))) > 0)
		call(SYS_write, 1, (long)piece, size);
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
}

void _start(void)
{
	char byte;

	do
		print_tables();
	while (call(SYS_read, 0, (long)&byte, 1) == 1);
	call(SYS_exit_group, 0, 0, 0);
}
