/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a cloud or a hypervisor tells a machine: a disk or CD with a vfat or ISO 9660 file system labelled "cidata", and
 * in it user-data and meta-data (cloud-init, "NoCloud" data source).
 */
#ifndef WHIT_NOCLOUD_H
#define WHIT_NOCLOUD_H

#include <stddef.h>

/* What it says, as a disk for a first boot would (first_boot.h). NULL: `report` says what is wrong. */
char *nocloud_read(size_t *size, char *report, size_t room);

#endif
