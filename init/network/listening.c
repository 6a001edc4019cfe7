/* SPDX-License-Identifier: Apache-2.0 */
/* Source: proc(5), /proc/net/tcp. */
#include "network/listening.h"

#include <stdio.h>

#define LISTEN 0x0a

static bool is_in(pid_t pid, const char *table, unsigned port)
{
	char path[64], text[256];
	unsigned local, state;
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/net/%s", pid, table);
	file = fopen(path, "re");
	while (file && !found && fgets(text, sizeof(text), file))
		found = sscanf(text, " %*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2 && local == port &&
			state == LISTEN;
	if (file)
		fclose(file);
	return found;
}

bool is_listening(pid_t pid, unsigned port)
{
	return is_in(pid, "tcp", port) || is_in(pid, "tcp6", port);
}
