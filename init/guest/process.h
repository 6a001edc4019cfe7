/* SPDX-License-Identifier: Apache-2.0 */
/* Starts a process as its records say, with pipes, a terminal, or on the console. */
#ifndef WHIT_PROCESS_H
#define WHIT_PROCESS_H

#include <stddef.h>
#include <sys/types.h>

#include "channel/wire.h"

struct process {
	pid_t pid;
	int input, output, errors; /* our ends; of a terminal, `errors` is -1, on the console all are */
	int terminal;		   /* its master, or -1 */
};

/*
 * In a session of its own, and in the control group of this descriptor (see group.h), if there is one. False: nothing was
 * started, and errno says why.
 */
bool process_start(struct process *process, const char *records, size_t length, int group);
void terminal_resize(int terminal, const struct size *size);

#endif
