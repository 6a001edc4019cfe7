/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/slots.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/entry.h"
#include "disk/files.h"

#define OPTION "whit.version="
#define BLOCK 4096
#define LINE 128
#define IDENTITY 16 /* where the superblock of a hash tree has its UUID */
#define NEW 3
#define GOOD 5
#define PATIENCE 1000 /* hundredths of a second for the disk to appear */

static char version[33], disk[64], letter;
static struct entry entry;
static int esp = -1;
static bool committed;

static bool read_version(void)
{
	const char *found = kernel_option(OPTION);

	return found && sscanf(found, OPTION "%32[0-9a-f]", version) == 1 && strlen(version) == 32;
}

/* PARTNAME of a file uevent of sysfs. */
static bool read_name(const char *path, char name[LINE])
{
	char line[LINE];
	FILE *file = fopen(path, "re");
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		found = !strncmp(line, "PARTNAME=", 9);
		if (found)
			memmove(name, line + 9, strlen(line + 9) + 1);
	}
	if (file)
		fclose(file);
	return found;
}

static bool has_version(const char *device)
{
	static unsigned char block[BLOCK] __attribute__((aligned(BLOCK)));
	char path[300], text[33];
	int file;
	bool whole;

	snprintf(path, sizeof(path), "/dev/%s", device);
	file = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	whole = file >= 0 && pread(file, block, BLOCK, 0) == BLOCK;
	if (file >= 0)
		close(file);
	for (int at = 0; at < 16; at++)
		snprintf(text + 2 * at, 3, "%02x", block[IDENTITY + at]);
	return whole && !memcmp(block, "verity\0", 8) && !strcmp(text, version);
}

/* /sys/class/block/vda3 leads to …/block/vda/vda3. */
static bool read_disk(const char *device)
{
	char path[300], real[PATH_MAX], *slash;

	snprintf(path, sizeof(path), "/sys/class/block/%s", device);
	if (!realpath(path, real) || !(slash = strrchr(real, '/')))
		return false;
	*slash = 0;
	slash = strrchr(real, '/');
	return slash && snprintf(disk, sizeof(disk), "%s", slash + 1) < (int)sizeof(disk);
}

static bool find_slot(void)
{
	glob_t found;

	if (glob("/sys/class/block/*/uevent", 0, NULL, &found))
		return false;
	for (size_t at = 0; at < found.gl_pathc && !letter; at++) {
		char device[64], name[LINE];

		if (sscanf(found.gl_pathv[at], "/sys/class/block/%63[^/]", device) == 1 &&
		    read_name(found.gl_pathv[at], name) && !strncmp(name, "hash-", 5) && has_version(device) &&
		    read_disk(device))
			letter = name[5];
	}
	globfree(&found);
	return letter;
}

static void open_entry(void)
{
	char device[300];

	if (slots_partition("esp", device, sizeof(device)))
		esp = open(device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (esp < 0 || !entry_find(esp, version, &entry))
		fprintf(stderr, "whit: find version %s on the first partition: %m\n", version);
}

bool slots_asked(void)
{
	return read_version();
}

const char *slots_version(void)
{
	return version;
}

const char *slots_disk(void)
{
	return disk;
}

bool slots_find(void)
{
	if (!read_version())
		return false;
	for (int tries = 0; tries < PATIENCE && !find_slot(); tries++)
		usleep(10000);
	if (letter)
		open_entry();
	else
		fprintf(stderr, "whit: find the disk with version %s: it did not appear\n", version);
	return letter;
}

bool slots_partition(const char *name, char *device, size_t size)
{
	char pattern[200], found_name[LINE];
	glob_t found;
	bool done = false;

	snprintf(pattern, sizeof(pattern), "/sys/class/block/%s/*/uevent", disk);
	errno = ENODEV;
	if (glob(pattern, 0, NULL, &found))
		return false;
	for (size_t at = 0; at < found.gl_pathc && !done; at++) {
		const char *end = strrchr(found.gl_pathv[at], '/'), *begin = end;

		while (begin[-1] != '/')
			begin--;
		done = read_name(found.gl_pathv[at], found_name) && !strcmp(found_name, name);
		if (done)
			snprintf(device, size, "/dev/%.*s", (int)(end - begin), begin);
	}
	globfree(&found);
	return done;
}

static bool read_number(const char *device, const char *name, uint64_t *to)
{
	char path[300];
	FILE *file;
	bool done;

	snprintf(path, sizeof(path), "/sys/class/block/%s/%s", device, name);
	file = fopen(path, "re");
	done = file && fscanf(file, "%" SCNu64, to) == 1;
	if (file)
		fclose(file);
	return done;
}

/* In sysfs, all is in sectors of 512 bytes. */
bool slots_range(const char *name, uint64_t *begin, uint64_t *end)
{
	char device[300];

	if (!slots_partition(name, device, sizeof(device)) || !read_number(device + 5, "start", begin) ||
	    !read_number(device + 5, "size", end))
		return false;
	*end = (*begin + *end) * 512;
	*begin *= 512;
	return true;
}

char slots_letter(void)
{
	return letter;
}

bool slots_on_trial(void)
{
	return entry.name[0] && !committed && entry.left + entry.done == NEW;
}

void slots_commit(void)
{
	if (committed || !entry.name[0])
		return;
	/* Before it was counted, at the first boot of a disk without firmware's help, there is nothing to be said. */
	committed = (entry.left == GOOD && !entry.done) || entry_set(esp, &entry, GOOD);
	if (!committed)
		fprintf(stderr, "whit: keep version %s: %m\n", version);
}

bool slots_committed(void)
{
	return committed;
}

bool slots_proven(void)
{
	struct entry found;

	return entry_find(esp, version, &found) && found.left == GOOD && !found.done;
}
