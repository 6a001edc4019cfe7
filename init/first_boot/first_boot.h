/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine is told once, on the virtio disk with the serial number "whit-first-boot": the line "whit-first-boot 1",
 * then entries, each of them records that an empty one ends, and `size` bytes. Records: hostname; or kind (file,
 * directory, symlink, link), path, mode (octal), uid, gid, overwrite (1), append (1), target, size; the last has `end`.
 *
 * All of it is done or the boot stops. What was done is remembered in /var/lib/whit, if that outlives the machine's
 * power.
 */
#ifndef WHIT_FIRST_BOOT_H
#define WHIT_FIRST_BOOT_H

#include <stdbool.h>
#include <stddef.h>

enum first_boot { FIRST_BOOT_NONE, FIRST_BOOT_DONE, FIRST_BOOT_FAILED };

/*
 * `nocloud`: without that disk, there has to be one of a cloud (nocloud.h). `report` gets one line: what was done, or
 * what failed.
 */
enum first_boot first_boot(bool nocloud, char *report, size_t size);

#endif
