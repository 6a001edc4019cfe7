/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many tries the loader gives a version: they stand in the name of its program in EFI/Linux of the ESP,
 * "whit_NUMBER_VERSION+LEFT-DONE.efi", which systemd-boot changes at every boot. Here the digits are changed where they
 * lie on the disk, in one sector: a file system would remove the name and make another.
 */
#ifndef WHIT_ENTRY_H
#define WHIT_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#define LONGEST_NAME 160

struct entry {
	int left, done;
	char name[LONGEST_NAME];
	uint64_t place[LONGEST_NAME]; /* of each letter, in bytes from the begin of the partition */
};

/* `esp` was opened with O_DIRECT: nobody else may have an old copy. False: there is no such entry. */
bool entry_find(int esp, const char *version, struct entry *entry);
/* So many tries are left, and none was made. */
bool entry_set(int esp, const struct entry *entry, int left);

#endif
