/* SPDX-License-Identifier: Apache-2.0 */
/* Who an address is, which of them are instances of this node, and whether a sender is who it says. */
#ifndef WHIT_IDENTITY_H
#define WHIT_IDENTITY_H

#include "address.h"
#include "maps.h"
#include "packet.h"

#define ADDRESS_BITS 128

static __always_inline __u32 identity_of(const struct address *address)
{
	struct identity_key key = { .prefix_length = ADDRESS_BITS, .address = *address };
	const struct identity_value *found = bpf_map_lookup_elem(&identities, &key);

	return found ? found->identity : IDENTITY_WORLD;
}

static __always_inline struct endpoint_value *endpoint_of(const struct address *address)
{
	return bpf_map_lookup_elem(&endpoints, (const struct endpoint_key *)address);
}

/* An instance sends only from its own address, from its own MAC, over its own link. */
static __always_inline bool is_own_address(struct packet *packet)
{
	const struct endpoint_value *endpoint = endpoint_of(&packet->tuple.source);

	if (!endpoint || endpoint->ifindex != packet->skb->ifindex ||
	    !same_mac(endpoint->mac, packet->mac))
		return false;
	packet->identity = endpoint->identity;
	packet->limited = !!(endpoint->flags & ENDPOINT_LIMITED);
	return true;
}

/*
 * Whoever an instance speaks for in ARP or neighbour discovery: itself, or a link-local address, of which nobody keeps
 * a list and which means nothing beyond its own link; but not the node's, which is its gateway.
 */
static __always_inline bool is_own_neighbour(struct packet *packet)
{
	if (is_link_local(&packet->tuple.source))
		return identity_of(&packet->tuple.source) != IDENTITY_HOST;
	return is_own_address(packet);
}

/* An address of the pool leads to an instance, or to the node's own stack, or nowhere. */
static __always_inline bool leads_nowhere(const struct address *address, __u32 identity)
{
	return in_pool(address) && identity != IDENTITY_HOST && identity != IDENTITY_RESOLVER && !endpoint_of(address);
}

#endif
