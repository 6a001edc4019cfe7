/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/group.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLACE "/groups"
#define MOST_ENDING 256
#define PATIENCE 5000 /* ms for all to stand still */

static int instance = -1;		   /* its directory */
static uint32_t ending[MOST_ENDING]; /* channels whose groups are not gone yet */
static unsigned many_ending;

static bool put(int directory, const char *name, const char *text)
{
	int file = openat(directory, name, O_WRONLY | O_CLOEXEC);
	bool done = file >= 0 && write(file, text, strlen(text)) >= 0;

	if (file >= 0)
		close(file);
	return done;
}

bool groups_make(const char *processes)
{
	int top;

	mkdir(PLACE, 0700);
	if (mount("groups", PLACE, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return false;
	top = open(PLACE, O_DIRECTORY | O_CLOEXEC);
	put(top, "cgroup.subtree_control", "+pids +memory");
	mkdirat(top, "instance", 0755);
	instance = openat(top, "instance", O_DIRECTORY | O_CLOEXEC);
	close(top);
	return instance >= 0 && (!*processes || put(instance, "pids.max", processes));
}

int group_open(uint32_t channel)
{
	char path[64];

	snprintf(path, sizeof(path), "%u", channel);
	mkdirat(instance, path, 0755);
	snprintf(path, sizeof(path), "%u/cgroup.procs", channel);
	return openat(instance, path, O_WRONLY | O_CLOEXEC);
}

static bool gone(uint32_t channel)
{
	char path[16];

	snprintf(path, sizeof(path), "%u", channel);
	return !unlinkat(instance, path, AT_REMOVEDIR);
}

static bool stands_still(void)
{
	char text[256] = "";
	int file = openat(instance, "cgroup.events", O_RDONLY | O_CLOEXEC);

	if (file < 0)
		return true;
	(void)!read(file, text, sizeof(text) - 1);
	close(file);
	return strstr(text, "frozen 1");
}

bool groups_freeze(bool still)
{
	if (!put(instance, "cgroup.freeze", still ? "1" : "0"))
		return false;
	for (int tries = 0; still && tries < PATIENCE && !stands_still(); tries++)
		usleep(1000);
	return !still || stands_still();
}

void group_end(uint32_t channel)
{
	char path[64];

	snprintf(path, sizeof(path), "%u/cgroup.kill", channel);
	put(instance, path, "1");
	if (!gone(channel) && many_ending < MOST_ENDING)
		ending[many_ending++] = channel;
}

void groups_sweep(void)
{
	unsigned kept = 0;

	for (unsigned at = 0; at < many_ending; at++)
		if (!gone(ending[at]))
			ending[kept++] = ending[at];
	many_ending = kept;
}

bool groups_ran_out_of_memory(void)
{
	char text[512];
	unsigned killed = 0;
	int file = openat(instance, "memory.events", O_RDONLY | O_CLOEXEC);
	ssize_t size = file < 0 ? 0 : read(file, text, sizeof(text) - 1);
	const char *line;

	if (file >= 0)
		close(file);
	text[size > 0 ? size : 0] = 0;
	line = strstr(text, "oom_kill ");
	return line && sscanf(line, "oom_kill %u", &killed) == 1 && killed;
}
