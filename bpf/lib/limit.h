/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much an instance may send. Its link is busy with each packet for as long as the rate makes it take; a packet that
 * would have to wait for more than the burst is dropped. Two CPUs may let a packet too many through; nothing is locked.
 */
#ifndef WHIT_LIMIT_H
#define WHIT_LIMIT_H

#include "maps.h"
#include "packet.h"

static __always_inline bool exceeds_limit(const struct packet *packet)
{
	__u32 link = packet->skb->ifindex;
	struct limit_value *limit = packet->limited ? bpf_map_lookup_elem(&limits, &link) : NULL;
	__u64 busy_until;

	if (!limit || !limit->bytes_per_second)
		return false;
	busy_until = limit->busy_until_ns > packet->now_ns ? limit->busy_until_ns : packet->now_ns;
	if (busy_until - packet->now_ns > limit->burst_ns)
		return true;
	limit->busy_until_ns = busy_until + packet->length * 1000000000ULL / limit->bytes_per_second;
	return false;
}

#endif
