/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes addresses and ports in place, with all checksums that cover them (RFC 1624). The helpers know packets whose
 * checksum is not finished yet (CHECKSUM_PARTIAL) or was made by the card (CHECKSUM_COMPLETE).
 */
#ifndef WHIT_REWRITE_H
#define WHIT_REWRITE_H

#include <stddef.h>

#include "parse.h"

#define NO_CHECKSUM 0 /* of layer 4: the protocol has none over addresses and ports, or we do not know it */

static __always_inline __u32 l4_checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	default:
		return NO_CHECKSUM;
	}
}

/* An UDP checksum of 0 is none and stays so; one that becomes 0 is written as 0xffff. */
static __always_inline __u64 l4_checksum_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* Replace one address of the IP header at `head`; `field` is its offset there. */
static __always_inline long rewrite_ip(struct __sk_buff *skb, __u32 head, __u32 field, __be32 old, __be32 new)
{
	long failed = bpf_l3_csum_replace(skb, head + offsetof(struct iphdr, check), old, new, sizeof(new));

	return failed ? failed : bpf_skb_store_bytes(skb, head + field, &new, sizeof(new), 0);
}

static __always_inline long
rewrite_address(const struct packet *packet, __u32 field, struct address *current, const struct address *wanted)
{
	__u32 offset = l4_checksum_offset(packet->tuple.protocol);
	__u64 flags = l4_checksum_flags(packet->tuple.protocol) | BPF_F_PSEUDO_HDR | sizeof(__be32);
	__be32 old = current->words[3], new = wanted->words[3];

	*current = *wanted;
	if (offset != NO_CHECKSUM && bpf_l4_csum_replace(packet->skb, packet->l4_offset + offset, old, new, flags))
		return -1;
	return rewrite_ip(packet->skb, IP_OFFSET, field, old, new);
}

/* TCP and UDP have their ports at the same place. */
static __always_inline long rewrite_port(const struct packet *packet, __u32 field, __be16 *current, __be16 wanted)
{
	__u32 offset = l4_checksum_offset(packet->tuple.protocol);
	__u64 flags = l4_checksum_flags(packet->tuple.protocol) | sizeof(__be16);
	__be16 old = *current, new = wanted;

	if (offset == NO_CHECKSUM || old == new)
		return 0;
	*current = new;
	if (bpf_l4_csum_replace(packet->skb, packet->l4_offset + offset, old, new, flags))
		return -1;
	return bpf_skb_store_bytes(packet->skb, packet->l4_offset + field, &new, sizeof(new), 0);
}

/* To the backend on the initiator's way, from the service on the reply's. */
static __noinline enum drop_reason translate(struct packet *packet, const struct flow_value *flow)
{
	struct flow_key *tuple = &packet->tuple;
	long failed;

	if (flow->flags & FLOW_REPLY)
		failed = rewrite_address(packet, offsetof(struct iphdr, saddr), &tuple->source, &flow->translation) ||
			 rewrite_port(packet, offsetof(struct tcphdr, source), &tuple->source_port,
				      flow->translation_port);
	else
		failed = rewrite_address(packet, offsetof(struct iphdr, daddr), &tuple->destination,
					 &flow->translation) ||
			 rewrite_port(packet, offsetof(struct tcphdr, dest), &tuple->destination_port,
				      flow->translation_port);
	return failed ? DROP_REWRITE_FAILED : DROP_NONE;
}

#endif
