/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the root of a guest comes from. The record `root` says it:
 *
 *   shared          from the host (virtiofs, tag "root"); also if there is no such record
 *   memory          /image of the first root
 *   erofs:SERIAL    the virtio disk with this serial number, what is written goes to memory
 *   disk:SERIAL     the same disk, an ext4 that is written to
 *   verity          as erofs, of the slot with the version that the kernel's command line names (slots.h)
 *
 * The record `state` names a partition of that disk that is kept; each record `keep` is PLACE=NAME, a directory of it and where it is
 * seen.
 */
#ifndef WHIT_ROOT_H
#define WHIT_ROOT_H

#include <stdbool.h>
#include <stddef.h>

/* Mount it at `place`, a directory that is there. False: it was not done, and why was printed. */
bool root_mount(const char *records, size_t length, const char *place);

/* Bind what is kept below `place`, the root. */
bool root_keep(const char *records, size_t length, const char *place);

#endif
