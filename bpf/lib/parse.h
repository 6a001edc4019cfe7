/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to struct packet. All bounds are checked here and in what is included here, by bpf_skb_load_bytes and
 * against the lengths that the headers name; what is wrong in itself is a drop reason.
 */
#ifndef WHIT_PARSE_H
#define WHIT_PARSE_H

#include <linux/ip.h>

#include "address.h"
#include "drops.h"
#include "ipv6.h"
#include "l4.h"
#include "neighbour.h"
#include "packet.h"

#define IP_DONT_FRAGMENT 0x4000
#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

static __always_inline enum drop_reason parse_ipv4(struct packet *packet)
{
	struct iphdr ip;
	__u32 total, head;

	if (bpf_skb_load_bytes(packet->skb, IP_OFFSET, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	head = ip.ihl * 4U;
	total = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || head < sizeof(ip) || total < head || packet->length < IP_OFFSET + total)
		return DROP_MALFORMED;
	set_ipv4(&packet->tuple.source, ip.saddr);
	set_ipv4(&packet->tuple.destination, ip.daddr);
	packet->tuple.protocol = ip.protocol;
	packet->fragment_id = ip.id;
	if (ip.frag_off & bpf_htons(IP_FRAGMENT_OFFSET))
		packet->fragment = FRAGMENT_LATER;
	else if (ip.frag_off & bpf_htons(IP_MORE_FRAGMENTS))
		packet->fragment = FRAGMENT_FIRST;
	packet->dont_fragment = !!(ip.frag_off & bpf_htons(IP_DONT_FRAGMENT));
	packet->l4_offset = IP_OFFSET + head;
	packet->l4_length = total - head;
	return parse_l4(packet);
}

/* What hosts tell the link without being asked, and without an address of the mesh. */
static __always_inline bool is_announcement(const struct packet *packet)
{
	return packet->kind == PACKET_FLOW && packet->multicast &&
	       (is_link_local(&packet->tuple.source) || is_unspecified(&packet->tuple.source));
}

static __always_inline enum drop_reason parse_ipv6(struct packet *packet)
{
	struct ipv6hdr ip;
	struct walk walk = { .offset = IP_OFFSET + sizeof(ip) };
	enum drop_reason reason;

	if (bpf_skb_load_bytes(packet->skb, IP_OFFSET, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	__builtin_memcpy(&packet->tuple.source, &ip.saddr, sizeof(struct address));
	__builtin_memcpy(&packet->tuple.destination, &ip.daddr, sizeof(struct address));
	packet->tuple.protocol = walk.header = ip.nexthdr;
	walk.end = walk.offset + bpf_ntohs(ip.payload_len);
	/* The maps would take a v4-mapped address for that of somebody who has it in IPv4. */
	if (ip.version != 6 || packet->length < walk.end || is_ipv4(&packet->tuple.source) ||
	    is_ipv4(&packet->tuple.destination))
		return DROP_MALFORMED;
	packet->ipv6 = packet->dont_fragment = true;
	packet->hop_limit = ip.hop_limit;
	reason = walk_extensions(packet->skb, &walk);
	packet->tuple.protocol = walk.header;
	packet->fragment = walk.fragment;
	packet->fragment_id = walk.fragment_id;
	packet->l4_offset = walk.offset;
	packet->l4_length = walk.end - walk.offset;
	if (!reason)
		reason = parse_l4(packet);
	return !reason && is_announcement(packet) ? DROP_UNSUPPORTED_PROTOCOL : reason;
}

static __noinline enum drop_reason parse(struct packet *packet)
{
	struct ethhdr ethernet;

	if (bpf_skb_load_bytes(packet->skb, 0, &ethernet, sizeof(ethernet)))
		return DROP_MALFORMED;
	__builtin_memcpy(packet->mac, ethernet.h_source, ETH_ALEN);
	packet->multicast = ethernet.h_dest[0] & 1;
	/* The kernel has taken the tag out of the frame: it belongs to a link that is not this one. */
	if (packet->skb->vlan_present)
		return DROP_UNSUPPORTED_PROTOCOL;
	switch (bpf_ntohs(ethernet.h_proto)) {
	case ETH_P_IP:
		return parse_ipv4(packet);
	case ETH_P_ARP:
		return parse_arp(packet);
	case ETH_P_IPV6:
		return parse_ipv6(packet);
	default:
		return DROP_UNSUPPORTED_PROTOCOL;
	}
}

#endif
