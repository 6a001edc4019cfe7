/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/root.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/files.h"
#include "disk/slots.h"
#include "disk/verity.h"

#define LOWER "/lower"
#define MEMORY "/memory"
#define STATE "/state"
#define PATIENCE 1000 /* hundredths of a second for a disk to appear */

static bool has_line(const char *path, const char *wanted)
{
	char line[512];
	FILE *file = fopen(path, "re");
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		found = !strcmp(line, wanted);
	}
	if (file)
		fclose(file);
	return found;
}

/* The block device whose file in sysfs, `pattern`, has this line; its driver may still be at work. */
static bool find_device(const char *pattern, const char *line, char *device, size_t size)
{
	for (int tries = 0; tries < PATIENCE; tries++, usleep(10000)) {
		glob_t found;

		if (glob(pattern, 0, NULL, &found))
			continue;
		for (size_t at = 0; at < found.gl_pathc; at++) {
			const char *name = found.gl_pathv[at] + strlen("/sys/class/block/");

			if (!has_line(found.gl_pathv[at], line))
				continue;
			snprintf(device, size, "/dev/%.*s", (int)strcspn(name, "/"), name);
			globfree(&found);
			return true;
		}
		globfree(&found);
	}
	errno = ENODEV;
	return complain("find the disk", line);
}

/* A root that cannot be written, with memory over it. */
static bool mount_over(const char *device, const char *place)
{
	mkdir(LOWER, 0700);
	mkdir(MEMORY, 0700);
	if (mount(device, LOWER, "erofs", MS_RDONLY | MS_NODEV, NULL))
		return complain("mount", device);
	if (mount("tmpfs", MEMORY, "tmpfs", MS_NODEV, "mode=700,size=50%"))
		return complain("mount", MEMORY);
	mkdir(MEMORY "/upper", 0755);
	mkdir(MEMORY "/work", 0700);
	if (mount("root", place, "overlay", MS_NODEV, "lowerdir=" LOWER ",upperdir=" MEMORY "/upper,workdir=" MEMORY "/work"))
		return complain("mount", "the root");
	return true;
}

static bool mount_serial(const char *serial, const char *place)
{
	char device[300];

	return find_device("/sys/class/block/*/serial", serial, device, sizeof(device)) && mount_over(device, place);
}

/* Nothing is done in the background that the host would take for work. */
static bool mount_disk(const char *serial, const char *place)
{
	char device[300];

	if (!find_device("/sys/class/block/*/serial", serial, device, sizeof(device)))
		return false;
	return !mount(device, place, "ext4", MS_NODEV, "noinit_itable") || complain("mount", device);
}

/* Partitions of the disk that this version was booted from: another disk may have some of the same names. */
static bool mount_verified(const char *place)
{
	struct verity verity;
	char name[16], data[300], tree[300], device[32];

	if (!verity_read(&verity))
		return complain("read", "whit.verity of the command line");
	if (!slots_find())
		return complain("find", "the disk of this version");
	snprintf(name, sizeof(name), "root-%c", slots_letter());
	if (!slots_partition(name, data, sizeof(data)))
		return complain("find", name);
	snprintf(name, sizeof(name), "hash-%c", slots_letter());
	if (!slots_partition(name, tree, sizeof(tree)))
		return complain("find", name);
	if (!verity_open(&verity, data, tree, device, sizeof(device)))
		return complain("verify", data);
	return mount_over(device, place);
}

bool root_mount(const char *records, size_t length, const char *place)
{
	const char *kind = record(records, length, "root", "shared");

	if (!strcmp(kind, "shared"))
		return !mount("root", place, "virtiofs", MS_NODEV, NULL) || complain("mount", "the shared root");
	if (!strcmp(kind, "memory"))
		return !mount("/image", place, NULL, MS_BIND, NULL) || complain("bind", "the root in memory");
	if (!strncmp(kind, "erofs:", 6))
		return mount_serial(kind + 6, place);
	if (!strncmp(kind, "disk:", 5))
		return mount_disk(kind + 5, place);
	if (!strcmp(kind, "verity"))
		return mount_verified(place);
	errno = EINVAL;
	return complain("find the root", kind);
}

/* A directory that is new is as the root has it. */
static bool keep(const char *value, const char *place)
{
	const char *equals = strchr(value, '=');
	char from[512], to[512];
	struct stat facts;

	if (!equals)
		return true;
	snprintf(to, sizeof(to), "%s%.*s", place, (int)(equals - value), value);
	snprintf(from, sizeof(from), STATE "/%s", equals + 1);
	if (stat(to, &facts))
		return complain("keep", to);
	if (!mkdir(from, 0700) && (chown(from, facts.st_uid, facts.st_gid) || chmod(from, facts.st_mode & 07777)))
		return complain("make", from);
	return !mount(from, to, NULL, MS_BIND, NULL) || complain("bind", to);
}

bool root_keep(const char *records, size_t length, const char *place)
{
	const char *partition = record(records, length, "state", NULL), *position = NULL, *value;
	char device[300];
	bool done = true;

	if (!partition)
		return true;
	mkdir(STATE, 0700);
	if (!slots_partition(partition, device, sizeof(device)))
		return complain("find", partition);
	if (mount(device, STATE, "ext4", MS_NOSUID | MS_NODEV, NULL))
		return complain("mount", device);
	while ((value = next_record(records, length, "keep", &position)))
		done &= keep(value, place);
	return done;
}
