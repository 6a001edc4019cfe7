/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine itself, without its containers: its root, the file systems that every Linux has, volumes and an address.
 * /system says where the root comes from (root.h), /containers/plan what there is (records: dhcp, rest, nocloud,
 * volume, onboot, service, onshutdown).
 */
#ifndef WHIT_SYSTEM_H
#define WHIT_SYSTEM_H

#include <stdbool.h>

/* False: the machine has no root, and why was printed. */
bool system_enter(void);
/* Volumes, loopback and an address, after the root. */
void system_prepare(void);
/* Whether its disk has two versions, so that booting again may bring the other. */
bool system_has_versions(void);
/* The value of the next record of the plan with this key, or NULL. `position` starts at NULL. */
const char *plan_next(const char *key, const char **position);
/* The first, or nothing. */
const char *plan_value(const char *key);

#endif
