/* SPDX-License-Identifier: Apache-2.0 */
#include "first_boot/first_boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel/records.h"
#include "disk/files.h"
#include "first_boot/nocloud.h"
#include "setup/place.h"

#define SERIAL "whit-first-boot"
#define BEGINNING "whit-first-boot 1\n"
#define MARK "/var/lib/whit/first-boot"
#define MOST (96u << 20)

struct entry {
	const char *records;
	size_t length;
	const char *content;
	size_t size;
};

static const char *text_of(const struct entry *entry, const char *key)
{
	return record(entry->records, entry->length, key, "");
}

static bool has_serial(const char *device)
{
	char path[300], serial[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/sys/block/%s/serial", device);
	file = fopen(path, "re");
	if (file && !fgets(serial, sizeof(serial), file))
		serial[0] = 0;
	if (file)
		fclose(file);
	serial[strcspn(serial, "\n")] = 0;
	return !strcmp(serial, SERIAL);
}

static int open_disk(void)
{
	DIR *directory = opendir("/sys/block");
	struct dirent *entry;
	char path[300];
	int found = -1;

	while (found < 0 && directory && (entry = readdir(directory)))
		if (has_serial(entry->d_name)) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			found = open(path, O_RDONLY | O_CLOEXEC);
		}
	if (directory)
		closedir(directory);
	return found;
}

static char *read_all(int disk, size_t *size)
{
	char *bytes = NULL;
	size_t room = 0;
	ssize_t got = 1;

	for (*size = 0; got > 0 && *size < MOST; *size += got) {
		if (room - *size < (1u << 20)) {
			room = room ? 2 * room : 1u << 20;
			bytes = realloc(bytes, room);
		}
		got = bytes ? read(disk, bytes + *size, room - *size) : -1;
		if (got < 0)
			break;
	}
	return bytes;
}

/* The next entry, or false if what is there is none. */
static bool next_entry(const char **here, const char *end, struct entry *entry)
{
	const char *at = *here;

	while (at < end && *at) {
		const char *over = memchr(at, 0, end - at);

		at = over ? over + 1 : end;
	}
	if (at >= end || at == *here)
		return false;
	*entry = (struct entry){ .records = *here, .length = at - *here, .content = at + 1 };
	entry->size = strtoul(text_of(entry, "size"), NULL, 10);
	*here = entry->content + entry->size;
	return entry->size <= (size_t)(end - entry->content);
}

static bool make_parents(const char *path)
{
	char parent[LONGEST];
	char *slash;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return true;
	*slash = 0;
	return make_directories(parent);
}

static bool write_whole(int file, const char *bytes, size_t size)
{
	while (size) {
		ssize_t done = write(file, bytes, size);

		if (done < 0)
			return false;
		bytes += done;
		size -= done;
	}
	return true;
}

static bool own(int file, const struct entry *entry)
{
	mode_t mode = strtoul(text_of(entry, "mode"), NULL, 8);

	return !fchown(file, atoi(text_of(entry, "uid")), atoi(text_of(entry, "gid"))) && !fchmod(file, mode);
}

/* Nobody ever sees half of it. */
static bool write_file(const struct entry *entry, const char *path)
{
	char beside[LONGEST + 8];
	bool done;
	int file;

	snprintf(beside, sizeof(beside), "%s.new", path);
	file = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (file < 0)
		return false;
	done = write_whole(file, entry->content, entry->size) && own(file, entry) && !fsync(file);
	close(file);
	return done && !rename(beside, path);
}

static bool append_file(const struct entry *entry, const char *path)
{
	bool is_new = access(path, F_OK) != 0, done;
	int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (file < 0)
		return false;
	done = write_whole(file, entry->content, entry->size) && (!is_new || own(file, entry));
	close(file);
	return done;
}

static bool make_directory(const struct entry *entry, const char *path)
{
	int file;
	bool done;

	if (mkdir(path, 0700) && errno != EEXIST)
		return false;
	file = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	done = file >= 0 && own(file, entry);
	if (file >= 0)
		close(file);
	return done;
}

static bool make_link(const struct entry *entry, const char *path, bool hard)
{
	const char *target = text_of(entry, "target");

	if (*text_of(entry, "overwrite") == '1')
		unlink(path);
	if (hard)
		return !link(target, path);
	return !symlink(target, path) && !lchown(path, atoi(text_of(entry, "uid")), atoi(text_of(entry, "gid")));
}

static bool apply(const struct entry *entry)
{
	const char *path = text_of(entry, "path"), *kind = text_of(entry, "kind"), *name = text_of(entry, "hostname");
	bool is_file = !strcmp(kind, "file"), append = *text_of(entry, "append") == '1';

	if (*name)
		return !sethostname(name, strlen(name));
	if (!make_parents(path))
		return false;
	if (!strcmp(kind, "directory"))
		return make_directory(entry, path);
	if (append)
		return append_file(entry, path);
	if (*text_of(entry, "overwrite") != '1' && !access(path, F_OK)) {
		errno = EEXIST;
		return false;
	}
	return is_file ? write_file(entry, path) : make_link(entry, path, !strcmp(kind, "link"));
}

static bool apply_all(const char *bytes, size_t size, char *report, size_t room)
{
	const char *here = bytes + strlen(BEGINNING), *end = bytes + size;
	struct entry entry;
	int count = 0;

	if (size < strlen(BEGINNING) || memcmp(bytes, BEGINNING, strlen(BEGINNING))) {
		snprintf(report, room, "what is on the disk is not for a first boot");
		return false;
	}
	while (next_entry(&here, end, &entry)) {
		if (*text_of(&entry, "end")) {
			snprintf(report, room, "%d things were set up", count);
			return true;
		}
		if (!apply(&entry)) {
			snprintf(report, room, "%s%s could not be made: %m", text_of(&entry, "path"),
				 text_of(&entry, "hostname"));
			return false;
		}
		count++;
	}
	snprintf(report, room, "what is on the disk ends too early, after %d things", count);
	return false;
}

enum first_boot first_boot(bool nocloud, char *report, size_t room)
{
	int disk = open_disk(), mark;
	size_t size;
	char *bytes;
	bool done;

	if ((disk < 0 && !nocloud) || !access(MARK, F_OK))
		return FIRST_BOOT_NONE;
	bytes = disk < 0 ? nocloud_read(&size, report, room) : read_all(disk, &size);
	if (disk >= 0)
		close(disk);
	done = bytes && apply_all(bytes, size, report, room);
	free(bytes);
	if (!done)
		return FIRST_BOOT_FAILED;
	make_parents(MARK);
	mark = open(MARK, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
	close(mark);
	return FIRST_BOOT_DONE;
}
