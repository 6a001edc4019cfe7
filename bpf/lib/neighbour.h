/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How neighbours find each other: ARP (RFC 826) and neighbour discovery (RFC 4861). All of it is between an instance
 * and the node's stack, its only neighbour; what is held here is that nobody speaks for somebody else.
 */
#ifndef WHIT_NEIGHBOUR_H
#define WHIT_NEIGHBOUR_H

#include "address.h"
#include "drops.h"
#include "packet.h"

/* For IPv4 on Ethernet. <linux/if_arp.h> draws in headers of the C library. */
#define ARP_ETHERNET 1

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

#define ICMPV6_SOLICITATION 135
#define ICMPV6_ADVERTISEMENT 136
#define DISCOVERY_HOP_LIMIT 255

/* What follows the ICMPv6 header's first eight bytes. */
struct discovery_option {
	__u8 type;
	__u8 length; /* in units of eight bytes */
	__u8 mac[ETH_ALEN];
};

#define OPTION_SOURCE_MAC 1
#define OPTION_TARGET_MAC 2
#define DISCOVERY_HEAD 24 /* with the target's address, which is at 8 */
#define OPTIONS_WALKED 4

static __always_inline enum drop_reason parse_arp(struct packet *packet)
{
	struct arp_ipv4 arp;

	if (bpf_skb_load_bytes(packet->skb, ETH_HLEN, &arp, sizeof(arp)))
		return DROP_MALFORMED;
	if (arp.hardware != bpf_htons(ARP_ETHERNET) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_length != ETH_ALEN || arp.protocol_length != sizeof(arp.sender))
		return DROP_MALFORMED;
	/* A frame in whose two headers two senders are named is a lie. */
	if (!same_mac(arp.sender_mac, packet->mac))
		return DROP_SPOOFED_ADDRESS;
	packet->kind = PACKET_NEIGHBOUR;
	set_ipv4(&packet->tuple.source, arp.sender);
	set_ipv4(&packet->tuple.destination, arp.target);
	return DROP_NONE;
}

/* The sender's own MAC, where an option names one. Others, as the nonce of RFC 7527, are passed over. */
static __noinline enum drop_reason check_options(const struct packet *packet)
{
	__u32 offset = packet->l4_offset + DISCOVERY_HEAD, end = packet->l4_offset + packet->l4_length;
	struct discovery_option option;

	for (int i = 0; i < OPTIONS_WALKED; i++) {
		if (offset == end)
			return DROP_NONE;
		if (offset + sizeof(option) > end ||
		    bpf_skb_load_bytes(packet->skb, offset, &option, sizeof(option)) || option.length == 0)
			return DROP_MALFORMED;
		if (option.type == OPTION_SOURCE_MAC || option.type == OPTION_TARGET_MAC) {
			if (option.length != 1)
				return DROP_MALFORMED;
			if (!same_mac(option.mac, packet->mac))
				return DROP_SPOOFED_ADDRESS;
		}
		offset += option.length * 8U;
	}
	return offset == end ? DROP_NONE : DROP_MALFORMED;
}

/*
 * Who a solicitation speaks for is its source, or, when somebody asks whether an address is free (RFC 4862, 5.4.2),
 * its target; an advertisement speaks for its target.
 */
static __always_inline enum drop_reason parse_discovery(struct packet *packet)
{
	struct address target;
	enum drop_reason reason;

	if (packet->fragment || packet->icmp_code || packet->hop_limit != DISCOVERY_HOP_LIMIT ||
	    packet->l4_length < DISCOVERY_HEAD ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset + 8, &target, sizeof(target)))
		return DROP_MALFORMED;
	reason = check_options(packet);
	if (reason)
		return reason;
	if (packet->icmp_type == ICMPV6_ADVERTISEMENT && !is_link_local(&packet->tuple.source) &&
	    !same_address(&packet->tuple.source, &target))
		return DROP_SPOOFED_ADDRESS;
	packet->kind = PACKET_NEIGHBOUR;
	if (packet->icmp_type == ICMPV6_ADVERTISEMENT || is_unspecified(&packet->tuple.source))
		packet->tuple.source = target;
	return DROP_NONE;
}

#endif
