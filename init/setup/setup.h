/* SPDX-License-Identifier: Apache-2.0 */
/* Makes of a booted kernel the system that the records describe. What cannot be done is said on standard error. */
#ifndef WHIT_SETUP_H
#define WHIT_SETUP_H

#include <stdbool.h>
#include <stddef.h>

/* Before anything else: /proc, /sys, /dev, and the modules that /modules lists. */
void setup_kernel(void);
/* The host name and what is said to the kernel's routing, as far as records say it. */
bool setup_identity(const char *records, size_t length);
/* Files of the root, once it has been entered, while nothing else runs there. */
bool setup_files(const char *records, size_t length);
/* Root, network and settings; the caller lives in the new root afterwards. False: it cannot be run like that. */
bool setup_system(const char *records, size_t length);

#endif
