/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk that a machine runs from, and which of its two versions. The kernel's command line says "whit.version=…";
 * the superblocks of the partitions hash-a and hash-b hold it too, as their UUID.
 */
#ifndef WHIT_SLOTS_H
#define WHIT_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether the command line names a version at all. */
bool slots_asked(void);
/* False: the machine runs from no such disk. To be called before what follows. */
bool slots_find(void);
const char *slots_version(void);
/* The name of the whole disk, as vda. */
const char *slots_disk(void);
/* The device of a partition of that disk, which others may have too. */
bool slots_partition(const char *name, char *device, size_t size);
/* Where it lies on the disk, in bytes. */
bool slots_range(const char *name, uint64_t *begin, uint64_t *end);
/* The slot's letter; 0: there is none. */
char slots_letter(void);
/* Whether this version was never up, and another one has its turn if it does not come up. */
bool slots_on_trial(void);
/* Once the machine is up: the version may be booted as often as it likes. */
void slots_commit(void);
bool slots_committed(void);
/* Whether somebody did: it is looked for on the disk. */
bool slots_proven(void);

#endif
