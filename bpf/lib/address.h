/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of 16 bytes: made from IPv4, compared, looked for in the pool. */
#ifndef WHIT_ADDRESS_H
#define WHIT_ADDRESS_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "config.h"

static __always_inline void set_ipv4(struct address *address, __be32 ipv4)
{
	address->words[0] = 0;
	address->words[1] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = ipv4;
}

static __always_inline bool same_address(const struct address *left, const struct address *right)
{
	return left->words[0] == right->words[0] && left->words[1] == right->words[1] &&
	       left->words[2] == right->words[2] && left->words[3] == right->words[3];
}

static __always_inline bool in_pool(const struct address *address)
{
	return pool_mask && (address->words[3] & pool_mask) == pool;
}

#endif
