/* SPDX-License-Identifier: Apache-2.0 */
/* A system call, for programs that are started from a descriptor: they have no path, which C libraries do not survive. */
#ifndef WHIT_BARE_H
#define WHIT_BARE_H

#include <sys/syscall.h>

static inline long call(long number, long first, long second, long third)
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

#endif
