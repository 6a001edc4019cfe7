/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of 16 bytes: made from IPv4, told apart, compared, looked for in the pools. */
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

static __always_inline bool is_ipv4(const struct address *address)
{
	return !address->words[0] && !address->words[1] && address->words[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_same_family(const struct address *left, const struct address *right)
{
	return is_ipv4(left) == is_ipv4(right);
}

/* Every address of the same family: 0.0.0.0 or :: */
static __always_inline void set_any(struct address *address)
{
	bool ipv4 = is_ipv4(address);

	*address = (struct address){};
	if (ipv4)
		set_ipv4(address, 0);
}

/* fe80::/10 */
static __always_inline bool is_link_local(const struct address *address)
{
	return (address->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* :: */
static __always_inline bool is_unspecified(const struct address *address)
{
	return !(address->words[0] | address->words[1] | address->words[2] | address->words[3]);
}

static __always_inline bool in_pool6(const struct address *address)
{
	__u32 different = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		different |= (address->words[i] & pool6_mask.words[i]) ^ pool6.words[i];
	return pool6_mask.words[0] && !different;
}

static __always_inline bool in_pool(const struct address *address)
{
	if (!is_ipv4(address))
		return in_pool6(address);
	return pool_mask && (address->words[3] & pool_mask) == pool;
}

#endif
