/* SPDX-License-Identifier: Apache-2.0 */
/* Directories, mounts and links of a machine, as records say them. False: it was not done, and why was printed. */
#ifndef WHIT_PLACE_H
#define WHIT_PLACE_H

#include <stdbool.h>
#include <sys/types.h>

/* TYPE, SOURCE, DESTINATION, FLAGS (hex), PROPAGATION (hex) and DATA, parted by 0x1f. */
bool make_mount(const char *record);
bool bind_directory(const char *from, const char *to, bool read_only);
/* What is written goes to memory, below a directory that is made. */
bool mount_overlay(const char *lower, const char *upper_and_work, const char *to);
/* NAME.WITH.DOTS=VALUE */
bool set_sysctl(const char *setting);
/* NAME, KIND, PEER and whether it is made in the machine's network (1), parted by 0x1f; then it is in that of `pid`. */
bool give_interface(const char *record, pid_t pid);
bool raise_loopback(void);
/* Splits in place; those that are missing are empty. */
void split(char *text, char separator, char **fields, int count);

#endif
