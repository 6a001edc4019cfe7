/* SPDX-License-Identifier: Apache-2.0 */
/* A device that cannot be changed unseen: dm-verity over two partitions, as the kernel's command line says. */
#ifndef WHIT_VERITY_H
#define WHIT_VERITY_H

#include <stdbool.h>
#include <stddef.h>

/* What the command line says: "whit.verity=ROOTHASH:BLOCKS:SALT", all in hex but BLOCKS, of 4096 bytes. */
struct verity {
	char root_hash[65];
	char salt[65];
	unsigned long long blocks;
};

bool verity_read(struct verity *verity);
/* The device's path. A block that is not what it was ends the machine. False: it could not be set up; errno says why. */
bool verity_open(const struct verity *verity, const char *data, const char *tree, char *device, size_t size);

#endif
