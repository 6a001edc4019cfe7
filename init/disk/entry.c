/* SPDX-License-Identifier: Apache-2.0 */
/* Source: Microsoft's FAT specification of 2005, of which no more is read than what mkfs.fat and firmware write. */
#include "disk/entry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512
#define ENTRY 32
#define LETTERS 13
#define DELETED 0xe5
#define LONG_NAME 0x0f
#define LAST_PART 0x40
#define END 0x0ffffff8
#define LONGEST_CHAIN 4096

struct fat {
	int disk;
	uint64_t table, data;
	uint32_t root, cluster; /* bytes of one */
};

static unsigned char sector_[SECTOR] __attribute__((aligned(4096)));

static unsigned char *read_sector(int disk, uint64_t place)
{
	return pread(disk, sector_, SECTOR, place) == SECTOR ? sector_ : NULL;
}

static uint32_t number(const unsigned char *bytes, int size)
{
	uint32_t found = 0;

	while (size--)
		found = found << 8 | bytes[size];
	return found;
}

static bool fat_open(struct fat *fat, int disk)
{
	const unsigned char *head = read_sector(disk, 0);

	if (!head || head[510] != 0x55 || memcmp(head + 82, "FAT32", 5) || number(head + 11, 2) != SECTOR)
		return false;
	fat->disk = disk;
	fat->table = (uint64_t)number(head + 14, 2) * SECTOR;
	fat->data = fat->table + (uint64_t)head[16] * number(head + 36, 4) * SECTOR;
	fat->root = number(head + 44, 4);
	fat->cluster = head[13] * SECTOR;
	return fat->cluster;
}

static uint32_t next_cluster(const struct fat *fat, uint32_t cluster)
{
	uint64_t place = fat->table + (uint64_t)cluster * 4;
	const unsigned char *bytes = read_sector(fat->disk, place / SECTOR * SECTOR);

	return bytes ? number(bytes + place % SECTOR, 4) & 0x0fffffff : END;
}

/* Until `visit` returns true, for each entry of a directory; then its sector is what read_sector has read last. */
static bool walk(const struct fat *fat, uint32_t cluster, void *context,
		 bool (*visit)(void *context, const unsigned char *entry, uint64_t place))
{
	for (int count = 0; cluster >= 2 && cluster < END && count < LONGEST_CHAIN; count++) {
		uint64_t begin = fat->data + (uint64_t)(cluster - 2) * fat->cluster;

		for (uint64_t place = begin; place < begin + fat->cluster; place += ENTRY) {
			const unsigned char *bytes = read_sector(fat->disk, place / SECTOR * SECTOR);

			if (!bytes || !bytes[place % SECTOR])
				return false;
			if (visit(context, bytes + place % SECTOR, place))
				return true;
		}
		cluster = next_cluster(fat, cluster);
	}
	return false;
}

struct directory {
	const char *name; /* eleven letters */
	uint32_t cluster;
};

static bool is_directory(void *context, const unsigned char *entry, uint64_t place)
{
	struct directory *wanted = context;

	(void)place;
	if (entry[0] == DELETED || entry[11] == LONG_NAME || !(entry[11] & 0x10) || memcmp(entry, wanted->name, 11))
		return false;
	wanted->cluster = number(entry + 20, 2) << 16 | number(entry + 26, 2);
	return true;
}

struct search {
	const char *version;
	struct entry *entry;
};

static void add_letters(struct entry *entry, const unsigned char *part, uint64_t place)
{
	static const unsigned char places[LETTERS] = { 1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30 };
	size_t first = ((part[0] & 0x1f) - 1) * LETTERS;

	if (part[0] & LAST_PART)
		memset(entry->name, 0, sizeof(entry->name));
	for (size_t at = 0; at < LETTERS && first + at < LONGEST_NAME - 1; at++) {
		unsigned char letter = part[places[at]];

		entry->name[first + at] = letter == 0xff ? 0 : letter;
		entry->place[first + at] = place + places[at];
	}
}

static bool is_version(void *context, const unsigned char *entry, uint64_t place)
{
	struct search *search = context;
	char version[33];
	int end = 0;

	if (entry[0] != DELETED && entry[11] == LONG_NAME) {
		add_letters(search->entry, entry, place);
		return false;
	}
	if (entry[0] != DELETED &&
	    sscanf(search->entry->name, "whit_%*5[0-9]_%32[0-9a-f]+%3d-%3d.efi%n", version, &search->entry->left,
		   &search->entry->done, &end) == 3 && end && !strcmp(version, search->version))
		return true;
	search->entry->name[0] = 0;
	return false;
}

bool entry_find(int esp, const char *version, struct entry *entry)
{
	struct directory efi = { .name = "EFI        " }, linux_ = { .name = "LINUX      " };
	struct search search = { version, entry };
	struct fat fat;

	memset(entry, 0, sizeof(*entry));
	errno = ENOENT;
	return fat_open(&fat, esp) && walk(&fat, fat.root, &efi, is_directory) &&
	       walk(&fat, efi.cluster, &linux_, is_directory) && walk(&fat, linux_.cluster, &search, is_version);
}

bool entry_set(int esp, const struct entry *entry, int left)
{
	const char *plus = strchr(entry->name, '+'), *dash = strchr(plus, '-');
	size_t last = dash - entry->name - 1, first = plus - entry->name + 1;
	uint64_t place = entry->place[first] / SECTOR * SECTOR;

	if (!read_sector(esp, place))
		return false;
	for (size_t at = first; entry->name[at] != '.'; at++) {
		/* As the name is 13 letters a part, and the digits begin with the 44th, they all lie in the same one. */
		if (entry->place[at] / SECTOR * SECTOR != place) {
			errno = EINVAL;
			return false;
		}
		if (at != last + 1)
			sector_[entry->place[at] % SECTOR] = at == last ? '0' + left : '0';
	}
	return pwrite(esp, sector_, SECTOR, place) == SECTOR && !fsync(esp);
}
