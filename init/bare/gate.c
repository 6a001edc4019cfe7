/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a sandbox that is `created`: waits for a byte on descriptor 3, a fifo of the agent's, and becomes
 * the program that its own arguments name, looked for as a runtime looks for it (execvp(3), without the shell for files
 * of unknown format).
 */
#include <errno.h>
#include <stddef.h>

#include "bare/bare.h"

#define GATE 3
#define LONGEST 4096
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127

static void wait_for_byte(void)
{
	char byte;
	long got;

	do
		got = call(SYS_read, GATE, (long)&byte, 1);
	while (got == -EINTR);
	call(SYS_close, GATE, 0, 0);
	if (got != 1)
		call(SYS_exit_group, NOT_EXECUTABLE, 0, 0);
}

static const char *path_of(char **environment)
{
	for (; *environment; environment++) {
		const char *word = *environment;

		if (word[0] == 'P' && word[1] == 'A' && word[2] == 'T' && word[3] == 'H' && word[4] == '=')
			return word + 5;
	}
	return "";
}

static int has_slash(const char *name)
{
	while (*name && *name != '/')
		name++;
	return *name == '/';
}

/* The next directory of `path` with the name behind it; what of the path is left, or NULL if there is none. */
static const char *candidate(const char *path, const char *name, char *made)
{
	size_t length = 0;

	while (*path && *path != ':' && length < LONGEST)
		made[length++] = *path++;
	if (length)
		made[length++] = '/';
	while (*name && length < 2 * LONGEST)
		made[length++] = *name++;
	made[length] = '\0';
	return *path ? path + 1 : NULL;
}

/* Returns only if that failed: the error. */
static long become(char **words, char **environment)
{
	static char made[2 * LONGEST + 1];
	long error, found = -ENOENT;

	if (has_slash(words[0]))
		return call(SYS_execve, (long)words[0], (long)words, (long)environment);
	for (const char *path = path_of(environment); path;) {
		path = candidate(path, words[0], made);
		error = call(SYS_execve, (long)made, (long)words, (long)environment);
		if (error != -ENOENT && error != -ENOTDIR)
			found = error;
	}
	return found;
}

__attribute__((used)) static void first(long *stack)
{
	char **words = (char **)(stack + 1), **environment = words + stack[0] + 1;
	static const char said[] = "the command cannot be started\n";
	long error;

	wait_for_byte();
	error = become(words, environment);
	call(SYS_write, 2, (long)said, sizeof(said) - 1);
	call(SYS_exit_group, error == -ENOENT ? NOT_FOUND : NOT_EXECUTABLE, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall first\n");
#else
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl first\n");
#endif
