/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine whose file asks for this gets it or is not started: so no disk, two of them, or something in it that is not
 * honoured is a failure. Labels: ECMA-119 8.4.7; Microsoft's FAT specification of 2005, 3.1 to 3.3.
 */
#include "first_boot/nocloud.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/files.h"
#include "first_boot/cloud_config.h"
#include "setup/place.h"

#define LABEL "cidata"
#define PLACE "/run/whit/cidata"
#define MOST (4u << 20) /* of a file in it */
#define PATIENCE 100	/* tenths of a second for the disk to appear */

struct found {
	char device[300];
	const char *kind; /* of its file system; NULL: there is none */
	bool twice;
};

static bool fail(char *report, size_t room, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(report, room, format, arguments);
	va_end(arguments);
	return false;
}

/* A label as both have it: filled up with spaces, in whatever letters. */
static bool is_label(const unsigned char *label, size_t size)
{
	size_t length = strlen(LABEL);

	for (size_t at = length; at < size; at++)
		if (label[at] != ' ')
			return false;
	return !strncasecmp((const char *)label, LABEL, length);
}

static const char *kind_of(int disk)
{
	unsigned char head[512], volume[128];

	if (pread(disk, volume, sizeof(volume), 16 * 2048) == sizeof(volume) && !memcmp(volume, "\1CD001", 6))
		return is_label(volume + 40, 32) ? "iso9660" : NULL;
	if (pread(disk, head, sizeof(head), 0) != sizeof(head) || head[510] != 0x55 || head[511] != 0xaa)
		return NULL;
	if (!memcmp(head + 82, "FAT32", 5))
		return is_label(head + 71, 11) ? "vfat" : NULL;
	return !memcmp(head + 54, "FAT", 3) && is_label(head + 43, 11) ? "vfat" : NULL;
}

static void look_at(const char *name, struct found *found)
{
	char device[300];
	const char *kind;
	int disk;

	snprintf(device, sizeof(device), "/dev/%s", name);
	disk = open(device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (disk < 0)
		return;
	kind = kind_of(disk);
	close(disk);
	if (!kind)
		return;
	found->twice = found->kind;
	found->kind = kind;
	snprintf(found->device, sizeof(found->device), "%s", device);
}

/* Disks and their partitions. */
static struct found look(void)
{
	struct found found = {};
	DIR *directory = opendir("/sys/class/block");
	struct dirent *entry;

	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] != '.')
			look_at(entry->d_name, &found);
	if (directory)
		closedir(directory);
	return found;
}

static bool mount_it(char *report, size_t room)
{
	struct found found = look();

	for (int tries = 0; !found.kind && tries < PATIENCE; tries++) {
		usleep(100000);
		found = look();
	}
	if (!found.kind)
		return fail(report, room, "there is no disk labelled " LABEL);
	if (found.twice)
		return fail(report, room, "more than one disk is labelled " LABEL);
	make_directories(PLACE);
	if (mount(found.device, PLACE, found.kind, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return fail(report, room, "%s cannot be mounted: %s", found.device, strerror(errno));
	return true;
}

/* A whole file as text; NULL: it is not there, or none. */
static char *read_file(const char *name)
{
	char path[64], *text = calloc(1, MOST + 1);
	size_t used = 0;
	ssize_t got = 1;
	int file;

	snprintf(path, sizeof(path), PLACE "/%s", name);
	file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	while (file >= 0 && got > 0 && used <= MOST) {
		got = read(file, text + used, MOST + 1 - used);
		used += got > 0 ? got : 0;
	}
	if (file >= 0)
		close(file);
	if (file >= 0 && !got && used <= MOST && strlen(text) == used)
		return text;
	free(text);
	return NULL;
}

/* Whether there is nothing in a file, or none. */
static bool is_empty(const char *name)
{
	struct stat found;
	char path[64];

	snprintf(path, sizeof(path), PLACE "/%s", name);
	return stat(path, &found) ? errno == ENOENT : !found.st_size;
}

static bool read_all(struct buffer *entries, char *report, size_t room)
{
	static const char *const others[] = { "network-config", "vendor-data" };
	char *user_data = read_file("user-data"), *meta_data = read_file("meta-data");

	for (size_t at = 0; at < 2; at++)
		if (!is_empty(others[at]))
			return fail(report, room, "%s of the disk " LABEL " is not honoured", others[at]);
	if (!user_data || !meta_data)
		return fail(report, room, "the disk " LABEL " has no %s that can be read",
			    user_data ? "meta-data" : "user-data");
	return cloud_config_read(user_data, meta_data, entries, report, room);
}

char *nocloud_read(size_t *size, char *report, size_t room)
{
	struct buffer entries = {};
	bool done;

	if (!mount_it(report, room))
		return NULL;
	done = read_all(&entries, report, room);
	umount(PLACE);
	*size = entries.used;
	return done ? entries.bytes : NULL;
}
