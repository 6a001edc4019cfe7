/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest is told when it is restored from a file, before anything of the instance runs again. Records (records.h):
 * time (seconds.nanoseconds since 1970), entropy (hex), and, of one that gets another identity, hostname, netlink,
 * file and readonly.
 */
#ifndef WHIT_RESTORED_H
#define WHIT_RESTORED_H

#include <stdbool.h>
#include <stddef.h>

/* False: something was not done, and was complained about. */
bool restored(const char *records, size_t length);

#endif
