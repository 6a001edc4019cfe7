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

/* Where the carried packet's IP header ends, and what follows it. False if it is cut off before. */
static __always_inline bool parse_carried_ipv4(const struct packet *packet, struct carried *carried)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(packet->skb, carried->ip_offset, &ip, sizeof(ip)) || ip.version != 4 ||
	    ip.ihl < sizeof(ip) / 4 || (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET)))
		return false;
	carried->l4_offset = carried->ip_offset + ip.ihl * 4U;
	carried->answer.protocol = ip.protocol;
	set_ipv4(&carried->answer.source, ip.daddr);
	set_ipv4(&carried->answer.destination, ip.saddr);
	return true;
}

static __always_inline bool parse_carried_ipv6(const struct packet *packet, struct carried *carried)
{
	struct walk walk = { .offset = carried->ip_offset + sizeof(struct ipv6hdr), .end = packet->length };
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(packet->skb, carried->ip_offset, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	walk.header = ip.nexthdr;
	if (walk_extensions(packet->skb, &walk) || walk.fragment == FRAGMENT_LATER)
		return false;
	carried->l4_offset = walk.offset;
	carried->answer.protocol = walk.header;
	__builtin_memcpy(&carried->answer.source, &ip.daddr, sizeof(struct address));
	__builtin_memcpy(&carried->answer.destination, &ip.saddr, sizeof(struct address));
	return true;
}

static __always_inline bool parse_carried_echo(const struct packet *packet, struct carried *carried)
{
	struct icmp icmp;

	if (bpf_skb_load_bytes(packet->skb, carried->l4_offset, &icmp, sizeof(icmp)))
		return false;
	if (is_icmp_echo(icmp.type, packet->ipv6))
		carried->answer.source_port = carried->answer.destination_port = icmp.id;
	return true;
}

static __always_inline bool parse_carried_ports(const struct packet *packet, struct carried *carried)
{
	__be16 ports[2];

	if (is_icmp(carried->answer.protocol, packet->ipv6))
		return parse_carried_echo(packet, carried);
	if (!has_ports(carried->answer.protocol))
		return true;
	if (bpf_skb_load_bytes(packet->skb, carried->l4_offset, ports, sizeof(ports)))
		return false;
	carried->answer.source_port = ports[1];
	carried->answer.destination_port = ports[0];
	return true;
}

static __always_inline bool parse_carried(const struct packet *packet, struct carried *carried)
{
	bool there;

	carried->ip_offset = packet->l4_offset + sizeof(struct icmp);
	there = packet->ipv6 ? parse_carried_ipv6(packet, carried) : parse_carried_ipv4(packet, carried);
	return there && parse_carried_ports(packet, carried);
}

/*
 * The entry that an error is about, or NULL. It must be meant for who sent the packet that it carries; and an instance
 * speaks only of flows of its own, or it could disturb those of others. Policy is asked about none, so what it has come
 * to deny is no longer spoken of.
 */
static __noinline struct flow_value *flow_of_error(const struct packet *packet, struct carried *carried)
{
	struct flow_value *flow;

	if (!parse_carried(packet, carried) || !same_address(&packet->tuple.destination, &carried->answer.destination))
		return NULL;
	if (packet->hook == HOOK_FROM_INSTANCE && !same_address(&packet->tuple.source, &carried->answer.source))
		return NULL;
	flow = bpf_map_lookup_elem(&flows, &carried->answer);
	return flow && !(flow->flags & FLOW_DENIED) ? flow : NULL;
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

/* One end of the carried packet. */
struct change {
	const struct address *old_address, *new_address;
	__be16 old_port, new_port;
	bool source;
};

/* In IPv4 the sum of the error needs no care: the carried header's own sum makes up for the address. */
static __always_inline long
rewrite_carried_address(const struct packet *packet, const struct carried *carried, const struct change *change)
{
	__u32 sum = packet->l4_offset + offsetof(struct icmp, checksum);

	if (packet->ipv6 &&
	    bpf_l4_csum_replace(packet->skb, sum, 0, difference(change->old_address, change->new_address), 0))
		return -1;
	return store_address(packet, carried->ip_offset, change->source, change->old_address, change->new_address);
}

/* The sum of what `sum` was the checksum of, after the change and folded once: RFC 1624, equation 3. */
static __always_inline __u16 renewed(__u16 sum, __s64 changed, __u16 old, __u16 new)
{
	__u64 total = (__u16)~sum + (__u64)(__u32)changed + (__u16)~old + new;

	total = (total & 0xffff) + (total >> 16);
	total = (total & 0xffff) + (total >> 16);
	return ~((total & 0xffff) + (total >> 16));
}

/* The carried packet's own checksum of layer 4, if so much is there. Nobody checks it, but it should not lie. */
static __always_inline long
rewrite_carried_checksum(const struct packet *packet, const struct carried *carried, const struct change *change)
{
	__u8 protocol = carried->answer.protocol;
	__u32 offset = carried->l4_offset + l4_checksum_offset(protocol, packet->ipv6);
	__s64 changed = difference(change->old_address, change->new_address);
	__u16 old;

	if (offset + sizeof(old) > packet->length || bpf_skb_load_bytes(packet->skb, offset, &old, sizeof(old)) ||
	    (protocol == IPPROTO_UDP && old == 0))
		return 0;
	return rewrite_carried_word(packet, offset, old, renewed(old, changed, change->old_port, change->new_port));
}

static __always_inline long
rewrite_carried(const struct packet *packet, const struct carried *carried, const struct change *change)
{
	__u32 port = change->source ? offsetof(struct tcphdr, source) : offsetof(struct tcphdr, dest);
	__u8 protocol = carried->answer.protocol;

	if (rewrite_carried_address(packet, carried, change))
		return -1;
	if (translates_ports(protocol) &&
	    rewrite_carried_word(packet, carried->l4_offset + port, change->old_port, change->new_port))
		return -1;
	if (l4_checksum_offset(protocol, packet->ipv6) == NO_CHECKSUM)
		return 0;
	return rewrite_carried_checksum(packet, carried, change);
}

/*
 * Both ends of the flow are one instance, which is to see the service's address where its own is, and the other way
 * round: what `change` did at one end of the carried packet is done at its other end and in the outer header.
 */
static __always_inline long
turn_back(struct packet *packet, const struct carried *carried, const struct change *change)
{
	const struct change other = {
		.old_address = change->new_address,
		.new_address = change->old_address,
		.source = !change->source,
	};

	if (rewrite_carried(packet, carried, &other))
		return -1;
	if (change->source)
		return rewrite_address(packet, true, &packet->tuple.source, change->old_address);
	return rewrite_address(packet, false, &packet->tuple.destination, change->old_address);
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
		.old_address = reply ? &carried->answer.source : &carried->answer.destination,
		.new_address = &flow->translation,
		.old_port = reply ? carried->answer.source_port : carried->answer.destination_port,
		.new_port = translates_ports(carried->answer.protocol) ? flow->translation_port : 0,
		.source = !reply,
	};
	long failed;

	if (!(flow->flags & FLOW_TRANSLATED))
		return DROP_NONE;
	if (!translates_ports(carried->answer.protocol))
		change.old_port = 0;
	failed = rewrite_carried(packet, carried, &change);
	if (!reply)
		failed |= rewrite_address(packet, false, &packet->tuple.destination, &flow->translation);
	else if (same_address(&packet->tuple.source, &carried->answer.source))
		failed |= rewrite_address(packet, true, &packet->tuple.source, &flow->translation);
	if (flow->flags & FLOW_HAIRPIN)
		failed |= turn_back(packet, carried, &change);
	return failed ? DROP_REWRITE_FAILED : DROP_NONE;
}

#endif
