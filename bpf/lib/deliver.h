/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a judged packet goes: to an instance of this node past the stack, back to the link it was asked from, or into
 * the node's stack. The time to live is not decremented on the way past the stack: the node is no hop between its
 * instances, and no loop is possible, because a packet is redirected once.
 */
#ifndef WHIT_DELIVER_H
#define WHIT_DELIVER_H

#include "event.h"
#include "identity.h"
#include "warm.h"

/* Destination and source, in the order of the Ethernet header. */
struct macs {
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

static __always_inline int deliver_to_stack(const struct packet *packet)
{
	hop(packet, HOP_STACK, 0, 0);
	if (packet->hook != HOOK_TO_INSTANCE)
		packet->skb->mark = (packet->skb->mark & ~mark_mask) | (mark & mark_mask);
	return TC_ACT_OK;
}

static __noinline long store_endpoint_macs(const struct packet *packet, const struct endpoint_value *endpoint)
{
	struct macs macs;

	__builtin_memcpy(macs.destination, endpoint->mac, ETH_ALEN);
	__builtin_memcpy(macs.source, endpoint->host_mac, ETH_ALEN);
	return bpf_skb_store_bytes(packet->skb, 0, &macs, sizeof(macs), 0);
}

static __always_inline int deliver_to_endpoint(const struct packet *packet, struct endpoint_value *endpoint)
{
	if (!packet->through_stack && store_endpoint_macs(packet, endpoint))
		return drop(packet, DROP_REWRITE_FAILED);
	if ((endpoint->flags & ENDPOINT_WARM) && knock(packet, endpoint))
		return drop(packet, DROP_HELD);
	if (packet->through_stack) {
		/* With TC_ACT_OK the kernel makes this the tc_index, and pieces inherit it. */
		packet->skb->tc_classid = TC_INDEX_JUDGED;
		return deliver_to_stack(packet);
	}
	hop(packet, HOP_INSTANCE, endpoint->ifindex, 0);
	if (redirect_peer && !(endpoint->flags & ENDPOINT_TAP))
		return bpf_redirect_peer(endpoint->ifindex, 0);
	packet->skb->tc_index = TC_INDEX_JUDGED;
	return bpf_redirect(endpoint->ifindex, 0);
}

/* Only from ingress hooks. `uplink` is the link by which the answer to the outside leaves, or 0. */
static __noinline int deliver(const struct packet *packet, __u32 uplink)
{
	struct endpoint_value *endpoint = endpoint_of(&packet->tuple.destination);

	if (endpoint)
		return deliver_to_endpoint(packet, endpoint);
	if (uplink) {
		hop(packet, HOP_OUTSIDE, uplink, 0);
		packet->skb->tc_index = TC_INDEX_JUDGED;
		/* Past routing and FORWARD chains, which know nothing of this flow; the neighbour is looked up. */
		return bpf_redirect_neigh(uplink, NULL, 0, 0);
	}
	if (leads_nowhere(&packet->tuple.destination, identity_of(&packet->tuple.destination)))
		return drop(packet, DROP_UNKNOWN_ENDPOINT);
	return deliver_to_stack(packet);
}

#endif
