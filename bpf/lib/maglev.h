/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backend that follows from who asks: the same tuple leads to the same backend, on every node that has the same table,
 * and to another one only if its own has gone (Eisenbud et al., NSDI 2016). User space makes the tables.
 */
#ifndef WHIT_MAGLEV_H
#define WHIT_MAGLEV_H

#include "maps.h"

/* One round of MurmurHash3 for 32 bits. */
static __always_inline __u32 mixed(__u32 hash, __u32 word)
{
	word *= 0xcc9e2d51;
	word = word << 15 | word >> 17;
	hash ^= word * 0x1b873593;
	hash = hash << 13 | hash >> 19;
	return hash * 5 + 0xe6546b64;
}

/* Of all that tells one flow from another. */
static __always_inline __u32 hash_of(const struct flow_key *tuple)
{
	__u32 hash = tuple->protocol;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = mixed(mixed(hash, tuple->source.words[i]), tuple->destination.words[i]);
	hash = mixed(hash, (__u32)tuple->source_port << 16 | tuple->destination_port);
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* The number of the backend, `further` places behind the one that the tuple leads to; NULL: there is no table. */
static __always_inline const __u32 *maglev_number(__u32 service, __u32 hash, __u32 further)
{
	void *table = bpf_map_lookup_elem(&maglev, &service);
	__u32 place = (hash + further) % MAGLEV_SIZE;

	return table ? bpf_map_lookup_elem(table, &place) : NULL;
}

#endif
