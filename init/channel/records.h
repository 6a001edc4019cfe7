/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records: "key=value", each ended by a zero byte. Keys may come more than once.
 *
 * Of a guest: hostname, file (place=content in hex), sysctl (path=value), netlink (a message in hex), readonly (1), bind (place; of the shared root),
 * bind-ro, tmpfs (place=options), pids (how many), root, state and keep (root.h), dhcp (interface). Of a process: arg, env,
 * cwd, uid, gid, group, bounding, permitted, ambient (masks in hex), nofile (soft:hard), terminal (rows:columns), or
 * console (1); stop (signal).
 */
#ifndef WHIT_RECORDS_H
#define WHIT_RECORDS_H

#include <string.h>

/* The value of the next record with this key, or NULL. `position` starts at NULL. */
static inline const char *next_record(const char *records, size_t length, const char *key, const char **position)
{
	const char *end = records + length;
	size_t size = strlen(key);

	for (const char *here = *position ? *position : records; here < end; here += strlen(here) + 1) {
		if (strncmp(here, key, size) || here[size] != '=')
			continue;
		*position = here + strlen(here) + 1;
		return here + size + 1;
	}
	return NULL;
}

static inline const char *record(const char *records, size_t length, const char *key, const char *otherwise)
{
	const char *position = NULL;
	const char *value = next_record(records, length, key, &position);

	return value ? value : otherwise;
}

#endif
