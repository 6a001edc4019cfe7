/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool complain(const char *what, const char *about)
{
	fprintf(stderr, "whit: cannot %s %s: %m\n", what, about);
	return false;
}

bool make_directories(const char *place)
{
	char path[LONGEST];

	for (size_t at = 1; place[at]; at++) {
		if (place[at] != '/' || at >= sizeof(path))
			continue;
		memcpy(path, place, at);
		path[at] = 0;
		mkdir(path, 0755);
	}
	return !mkdir(place, 0755) || errno == EEXIST || complain("make the directory", place);
}

bool write_text(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	bool written = file >= 0 && write(file, text, strlen(text)) >= 0;
	int error = errno;

	if (file >= 0)
		close(file);
	errno = error;
	return written;
}

const char *kernel_option(const char *option)
{
	static char line[LONGEST];
	FILE *file = fopen("/proc/cmdline", "re");
	const char *found;

	if (!file || !fgets(line, sizeof(line), file))
		line[0] = 0;
	if (file)
		fclose(file);
	found = strstr(line, option);
	while (found && found > line && found[-1] != ' ')
		found = strstr(found + 1, option);
	return found;
}
