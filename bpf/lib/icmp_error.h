/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors that speak of a packet of a known flow, such as "fragmentation needed": they pass without policy, and if
 * the flow is translated, so are both headers (RFC 5508, 4.2). An error goes the way of the packets that answer the one
 * it carries: that way's entry says what to rewrite. An error about no known flow is nobody's.
 */
#ifndef WHIT_ICMP_ERROR_H
#define WHIT_ICMP_ERROR_H

#include "conntrack.h"
#include "rewrite.h"

/* The packet that an error carries: where its headers are, and the tuple of those that answer it. */
struct carried {
	struct flow_key answer;
	__u32 ip_offset;
	__u32 l4_offset;
};

static __always_inline bool parse_carried(const struct packet *packet, struct carried *carried)
{
	struct iphdr ip;
	__be16 ports[2] = {}; /* of an ICMP echo: type, code and checksum */

	carried->ip_offset = packet->l4_offset + sizeof(struct icmp);
	if (bpf_skb_load_bytes(packet->skb, carried->ip_offset, &ip, sizeof(ip)) || ip.version != 4 ||
	    ip.ihl < sizeof(ip) / 4)
		return false;
	carried->l4_offset = carried->ip_offset + ip.ihl * 4U;
	carried->answer.protocol = ip.protocol;
	set_ipv4(&carried->answer.source, ip.daddr);
	set_ipv4(&carried->answer.destination, ip.saddr);
	if (ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(packet->skb, carried->l4_offset, ports, sizeof(ports)))
			return false;
	} else if (ip.protocol == IPPROTO_ICMP) {
		if (bpf_skb_load_bytes(packet->skb, carried->l4_offset + offsetof(struct icmp, id), ports,
				       sizeof(ports[0])))
			return false;
		ports[1] = ports[0];
	}
	carried->answer.source_port = ports[1];
	carried->answer.destination_port = ports[0];
	return true;
}

/*
 * The entry that an error is about, or NULL. It must be meant for who sent the packet that it carries; and an instance
 * speaks only of flows of its own, or it could disturb those of others.
 */
static __always_inline struct flow_value *flow_of_error(const struct packet *packet, struct carried *carried)
{
	if (!parse_carried(packet, carried) || !same_address(&packet->tuple.destination, &carried->answer.destination))
		return NULL;
	if (packet->hook == HOOK_FROM_INSTANCE && !same_address(&packet->tuple.source, &carried->answer.source))
		return NULL;
	return bpf_map_lookup_elem(&flows, &carried->answer);
}

/* A 16-bit field of the carried packet, and with it the sum over the whole error. */
static __always_inline long rewrite_carried_word(const struct packet *packet, __u32 offset, __be16 old, __be16 new)
{
	__u32 sum = packet->l4_offset + offsetof(struct icmp, checksum);

	if (old == new)
		return 0;
	if (bpf_l4_csum_replace(packet->skb, sum, old, new, sizeof(new)))
		return -1;
	return bpf_skb_store_bytes(packet->skb, offset, &new, sizeof(new), 0);
}

/* One address and port of the carried packet. */
struct change {
	__be32 old_address, new_address;
	__be16 old_port, new_port;
};

static __always_inline __u16 replaced(__u16 sum, __u16 old, __u16 new)
{
	__u32 total = (__u16)~sum + (__u16)~old + (__u32)new; /* RFC 1624, equation 3 */

	total = (total & 0xffff) + (total >> 16);
	return ~((total & 0xffff) + (total >> 16));
}

/* The carried packet's own checksum of layer 4, if so much is there. Nobody checks it, but it should not lie. */
static __always_inline long
rewrite_carried_checksum(const struct packet *packet, const struct carried *carried, const struct change *change)
{
	__u8 protocol = carried->answer.protocol;
	__u32 offset = carried->l4_offset + l4_checksum_offset(protocol);
	__u16 old, new;

	if (offset + sizeof(old) > packet->length || bpf_skb_load_bytes(packet->skb, offset, &old, sizeof(old)) ||
	    (protocol == IPPROTO_UDP && old == 0))
		return 0;
	new = replaced(old, change->old_address & 0xffff, change->new_address & 0xffff);
	new = replaced(new, change->old_address >> 16, change->new_address >> 16);
	new = replaced(new, change->old_port, change->new_port);
	return rewrite_carried_word(packet, offset, old, new);
}

/* The address in the carried IP header needs no care for the sum of the error: that header's own sum makes up for it. */
static __always_inline long rewrite_carried(const struct packet *packet, const struct carried *carried, bool source,
					    const struct change *change)
{
	__u32 address = source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr);
	__u32 port = source ? offsetof(struct tcphdr, source) : offsetof(struct tcphdr, dest);

	if (rewrite_ip(packet->skb, carried->ip_offset, address, change->old_address, change->new_address))
		return -1;
	if (l4_checksum_offset(carried->answer.protocol) == NO_CHECKSUM)
		return 0;
	if (rewrite_carried_word(packet, carried->l4_offset + port, change->old_port, change->new_port))
		return -1;
	return rewrite_carried_checksum(packet, carried, change);
}

/*
 * The outer header is rewritten as that of every packet of this way (a router on the way keeps its own source), and of
 * the carried one the opposite end, which the receiver knows under its other address.
 */
static __noinline enum drop_reason
translate_error(struct packet *packet, const struct carried *carried, const struct flow_value *flow)
{
	bool reply = flow->flags & FLOW_REPLY;
	struct change change = {
		.old_address = carried->answer.source.words[3],
		.new_address = flow->translation.words[3],
		.old_port = carried->answer.source_port,
		.new_port = flow->translation_port,
	};
	long failed = 0;

	if (!(flow->flags & FLOW_TRANSLATED))
		return DROP_NONE;
	if (!reply) {
		change.old_address = carried->answer.destination.words[3];
		change.old_port = carried->answer.destination_port;
	}
	failed = rewrite_carried(packet, carried, !reply, &change);
	if (!reply)
		failed |= rewrite_address(packet, offsetof(struct iphdr, daddr), &packet->tuple.destination,
					  &flow->translation);
	else if (same_address(&packet->tuple.source, &carried->answer.source))
		failed |= rewrite_address(packet, offsetof(struct iphdr, saddr), &packet->tuple.source,
					  &flow->translation);
	return failed ? DROP_REWRITE_FAILED : DROP_NONE;
}

#endif
