/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Only the first fragment of a packet has ports: what it told is kept for the others, which then pass as it does. One
 * that comes before the first, or long after it, is dropped; on a link of one hop they come in order.
 */
#ifndef WHIT_FRAGMENT_H
#define WHIT_FRAGMENT_H

#include <linux/in6.h>

#include "maps.h"
#include "packet.h"

/* Learn from the first, and give the others their ports. Once the sender is known to be who it says. */
static __noinline enum drop_reason follow_fragment(struct packet *packet)
{
	struct flow_key *tuple = &packet->tuple;
	struct fragment_key key = {
		.source = tuple->source,
		.destination = tuple->destination,
		.id = packet->fragment_id,
		.protocol = packet->ipv6 ? IPPROTO_FRAGMENT : tuple->protocol,
	};
	struct fragment_value first = {
		.source_port = tuple->source_port,
		.destination_port = tuple->destination_port,
		.protocol = tuple->protocol,
		.icmp_type = packet->icmp_type,
		.icmp_code = packet->icmp_code,
	};
	const struct fragment_value *found;

	if (packet->fragment == FRAGMENT_FIRST)
		return bpf_map_update_elem(&fragments, &key, &first, BPF_ANY) ? DROP_FRAGMENT : DROP_NONE;
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found)
		return DROP_FRAGMENT;
	tuple->source_port = found->source_port;
	tuple->destination_port = found->destination_port;
	tuple->protocol = found->protocol;
	packet->icmp_type = found->icmp_type;
	packet->icmp_code = found->icmp_code;
	return DROP_NONE;
}

#endif
