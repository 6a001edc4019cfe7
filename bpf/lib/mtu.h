/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a packet fits into the link by which it leaves past the stack. Nobody after this asks: what is too long would
 * be lost without a word. bpf_check_mtu would know it of the link itself, but the kernel keeps that for programs under
 * the GPL; so user space writes it down when it attaches to a link.
 */
#ifndef WHIT_MTU_H
#define WHIT_MTU_H

#include "identity.h"
#include "packet.h"

/* Every link carries as much (RFC 791, 3.1), so that small packets need not be asked about. */
#define SMALLEST_MTU 576

/* The link by which an answer to the outside leaves; 0 for all other packets. */
static __always_inline __u32 uplink_of(const struct flow_value *flow)
{
	return (flow->flags & (FLOW_UPLINK | FLOW_REPLY)) == (FLOW_UPLINK | FLOW_REPLY) ? flow->ifindex : 0;
}

/* The link by which a packet leaves that is not translated yet; 0: by the stack, which sees to it itself. */
static __always_inline __u32 next_link(const struct packet *packet, const struct flow_value *flow)
{
	bool forth = (flow->flags & (FLOW_TRANSLATED | FLOW_REPLY)) == FLOW_TRANSLATED;
	const struct endpoint_value *endpoint = endpoint_of(forth ? &flow->translation : &packet->tuple.destination);

	return endpoint ? endpoint->ifindex : uplink_of(flow);
}

/* From the IP header on. What the kernel cuts into segments only later counts as they will. */
static __always_inline __u32 longest_segment(const struct packet *packet)
{
	__u32 payload = packet->skb->gso_size;

	if (!payload)
		return packet->length - IP_OFFSET;
	return packet->l4_offset - IP_OFFSET + packet->l4_head + payload;
}

/* The MTU if the packet, or one of the segments that it will be cut into, is larger; else 0. */
static __noinline __u32 exceeded_mtu(const struct packet *packet, const struct flow_value *flow)
{
	__u32 length = longest_segment(packet), link;
	const __u32 *mtu;

	if (packet->hook == HOOK_TO_INSTANCE || length <= SMALLEST_MTU)
		return 0;
	link = next_link(packet, flow);
	mtu = link ? bpf_map_lookup_elem(&mtus, &link) : NULL;
	return mtu && length > *mtu ? *mtu : 0;
}

#endif
