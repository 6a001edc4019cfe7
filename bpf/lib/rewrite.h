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

/* Those of SCTP stay as they are: its checksum would have to be made anew over the whole packet. */
static __always_inline bool translates_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* Only in IPv6 does that of ICMP cover the addresses. */
static __always_inline __u32 l4_checksum_offset(__u8 protocol, bool ipv6)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	case IPPROTO_ICMPV6:
		return ipv6 ? offsetof(struct icmp, checksum) : NO_CHECKSUM;
	default:
		return NO_CHECKSUM;
	}
}

static __always_inline __u32 l4_checksum_of(const struct packet *packet)
{
	if (packet->fragment == FRAGMENT_LATER)
		return NO_CHECKSUM;
	return l4_checksum_offset(packet->tuple.protocol, packet->ipv6);
}

/* An UDP checksum of 0 is none and stays so; one that becomes 0 is written as 0xffff. */
static __always_inline __u64 l4_checksum_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

static __always_inline __s64 difference(const struct address *old, const struct address *new)
{
	return bpf_csum_diff((__be32 *)old->words, sizeof(*old), (__be32 *)new->words, sizeof(*new), 0);
}

/* Replace one address of the IP header at `head`, with that header's own checksum. */
static __always_inline long store_address(const struct packet *packet, __u32 head, bool source,
					  const struct address *old, const struct address *new)
{
	__u32 field = source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr);
	__u32 sum = head + offsetof(struct iphdr, check);

	if (packet->ipv6)
		return bpf_skb_store_bytes(packet->skb, head + field, new, sizeof(*new), 0);
	field = source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	if (bpf_l3_csum_replace(packet->skb, sum, old->words[3], new->words[3], sizeof(__be32)))
		return -1;
	return bpf_skb_store_bytes(packet->skb, head + field, &new->words[3], sizeof(__be32), 0);
}

/*
 * The helper takes from a card's sum what it adds to layer 4, as if a checksum of layer 3 made up for the addresses.
 * IPv6 has none: without this the kernel would find the sum wrong and compute it anew.
 */
static __always_inline void mend_card_sum(const struct packet *packet, __s64 changed)
{
	if (packet->ipv6)
		bpf_csum_update(packet->skb, changed);
}

static __always_inline long
rewrite_address(const struct packet *packet, bool source, struct address *current, const struct address *wanted)
{
	__u64 flags = l4_checksum_flags(packet->tuple.protocol) | BPF_F_PSEUDO_HDR;
	__u32 offset = l4_checksum_of(packet);
	__s64 changed = difference(current, wanted);

	if (offset != NO_CHECKSUM &&
	    bpf_l4_csum_replace(packet->skb, packet->l4_offset + offset, 0, changed, flags))
		return -1;
	mend_card_sum(packet, changed);
	if (store_address(packet, IP_OFFSET, source, current, wanted))
		return -1;
	*current = *wanted;
	return 0;
}

/* TCP and UDP have their ports at the same place. */
static __always_inline long rewrite_port(const struct packet *packet, __u32 field, __be16 *current, __be16 wanted)
{
	__u32 offset = l4_checksum_of(packet);
	__u64 flags = l4_checksum_flags(packet->tuple.protocol) | sizeof(__be16);
	__be16 old = *current, new = wanted;

	if (!translates_ports(packet->tuple.protocol) || old == new)
		return 0;
	*current = new;
	if (offset == NO_CHECKSUM)
		return 0; /* not in this fragment */
	if (bpf_l4_csum_replace(packet->skb, packet->l4_offset + offset, old, new, flags))
		return -1;
	return bpf_skb_store_bytes(packet->skb, packet->l4_offset + field, &new, sizeof(new), 0);
}

/*
 * To the backend on the initiator's way, from the service on the reply's. If both are one instance, the other address
 * has to change too: its stack would not take a packet from itself.
 */
static __noinline enum drop_reason translate(struct packet *packet, const struct flow_value *flow)
{
	bool reply = flow->flags & FLOW_REPLY;
	struct flow_key *tuple = &packet->tuple;
	struct address far = reply ? tuple->source : tuple->destination;
	long failed;

	if (reply)
		failed = rewrite_address(packet, true, &tuple->source, &flow->translation) ||
			 rewrite_port(packet, offsetof(struct tcphdr, source), &tuple->source_port,
				      flow->translation_port);
	else
		failed = rewrite_address(packet, false, &tuple->destination, &flow->translation) ||
			 rewrite_port(packet, offsetof(struct tcphdr, dest), &tuple->destination_port,
				      flow->translation_port);
	if (!failed && (flow->flags & FLOW_HAIRPIN))
		failed = rewrite_address(packet, !reply, reply ? &tuple->destination : &tuple->source, &far);
	return failed ? DROP_REWRITE_FAILED : DROP_NONE;
}

#endif
