/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups of a guest: one for the instance, with its limit, and in that one for each channel. So nothing that a
 * command started outlives it, whatever session it went to, and it is known whether memory ran out.
 */
#ifndef WHIT_GROUP_H
#define WHIT_GROUP_H

#include <stdbool.h>
#include <stdint.h>

/* Before the guest enters its root, from which no group can be seen. `processes` as cgroup v2 takes it, or "". */
bool groups_make(const char *processes);
/* Where a process of this channel writes 0 to be in its group; -1 if there is none. To be closed. */
int group_open(uint32_t channel);
/* End all that is in it, and take it away as soon as that has gone. */
void group_end(uint32_t channel);
/* After processes were reaped. */
void groups_sweep(void);
/* Whether the kernel has killed a process of the instance for memory. */
/* Let nothing of the instance run, or all of it. Returns when it stands; false: it does not. */
bool groups_freeze(bool still);
bool groups_ran_out_of_memory(void);

#endif
