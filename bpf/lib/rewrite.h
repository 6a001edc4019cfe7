/* SPDX-License-Identifier: Apache-2.0 */
/* Network address translation: one address and port of a packet, with its checksums. */
#ifndef WHIT_REWRITE_H
#define WHIT_REWRITE_H



#include "packet.h"

enum side {
	SIDE_SOURCE,
	SIDE_DESTINATION,
};

struct checksum {
	__u32 offset; /* 0: the protocol has none over the addresses */
	__u64 flags;
};

static __always_inline struct checksum checksum_of(const struct packet *packet)
{
	struct checksum none = { 0, 0 };

	if (packet->key.protocol == IPPROTO_TCP)
		return (struct checksum){ packet->l4_offset + offsetof(struct tcphdr, check), 0 };
	if (packet->key.protocol == IPPROTO_UDP)
		/* A UDP checksum of 0 means none, and stays so. */
		return (struct checksum){ packet->l4_offset + offsetof(struct udphdr, check), BPF_F_MARK_MANGLED_0 };
	return none;
}

static __always_inline int rewrite_address(struct __sk_buff *skb, const struct packet *packet, enum side side,
					   __be32 before, __be32 after)
{
	__u32 offset = IP_OFFSET + (side == SIDE_SOURCE ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	struct checksum sum = checksum_of(packet);

	if (before == after)
		return 0;
	if (sum.offset && bpf_l4_csum_replace(skb, sum.offset, before, after, BPF_F_PSEUDO_HDR | sum.flags | sizeof(after)))
		return -1;
	if (bpf_l3_csum_replace(skb, IP_OFFSET + offsetof(struct iphdr, check), before, after, sizeof(after)))
		return -1;
	return bpf_skb_store_bytes(skb, offset, &after, sizeof(after), 0);
}

static __always_inline int rewrite_port(struct __sk_buff *skb, const struct packet *packet, enum side side,
					__be16 before, __be16 after)
{
	/* Both TCP and UDP start with the source port, then the destination port. */
	__u32 offset = packet->l4_offset + (side == SIDE_SOURCE ? 0 : sizeof(after));
	struct checksum sum = checksum_of(packet);

	if (before == after || !sum.offset)
		return 0;
	if (bpf_l4_csum_replace(skb, sum.offset, before, after, sum.flags | sizeof(after)))
		return -1;
	return bpf_skb_store_bytes(skb, offset, &after, sizeof(after), 0);
}

/* Returns 0, or a negative number if the packet is too short or may not be written. */
static __noinline int rewrite(struct __sk_buff *skb, const struct packet *packet, enum side side,
			      const struct address *address, __be16 port)
{
	bool source = side == SIDE_SOURCE;
	__be32 before;
	__be16 before_port;

	if (!packet || !address)
		return -1;
	before = source ? packet->key.source.words[3] : packet->key.destination.words[3];
	before_port = source ? packet->key.source_port : packet->key.destination_port;
	if (rewrite_address(skb, packet, side, before, address->words[3]))
		return -1;
	return rewrite_port(skb, packet, side, before_port, port);
}

#endif
