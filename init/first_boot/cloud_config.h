/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud-config, in the same subset as src/whit/formats/firstboot/cloud_config.py reads it but for gzip: hostname,
 * ssh_authorized_keys, manage_etc_hosts: localhost, write_files. Of meta-data, instance-id and local-hostname. What else
 * there is is refused by name.
 */
#ifndef WHIT_CLOUD_CONFIG_H
#define WHIT_CLOUD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "channel/wire.h"

/* Adds what a disk for a first boot would hold (first_boot.h). Both texts are changed. False: `error` says why. */
bool cloud_config_read(char *user_data, char *meta_data, struct buffer *entries, char *error, size_t room);

#endif
