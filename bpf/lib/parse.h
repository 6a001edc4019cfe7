/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to struct packet. All bounds are checked here, by bpf_skb_load_bytes and against the lengths that the
 * headers name; what is wrong in itself is a drop reason.
 *
 * Fragments: also the first of a fragmented packet is refused, because the others could not be told from it. The path
 * MTU is the same on all links of a node, and TCP finds out that of the world by itself.
 */
#ifndef WHIT_PARSE_H
#define WHIT_PARSE_H

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "address.h"
#include "drops.h"
#include "packet.h"

#define IP_MORE_FRAGMENTS 0x2000
#define IP_FRAGMENT_OFFSET 0x1fff

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13

/* RFC 792. <linux/icmp.h> and <linux/if_arp.h> draw in headers of the C library, which does not know this target. */
struct icmp {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id; /* of an echo */
	__be16 sequence;
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

/* RFC 826 for IPv4 on Ethernet. */
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
	packet->kind = PACKET_ARP;
	set_ipv4(&packet->tuple.source, arp.sender);
	set_ipv4(&packet->tuple.destination, arp.target);
	return DROP_NONE;
}

static __always_inline enum drop_reason parse_tcp(struct packet *packet, __u32 room)
{
	struct tcphdr tcp;

	if (room < sizeof(tcp) || bpf_skb_load_bytes(packet->skb, packet->l4_offset, &tcp, sizeof(tcp)))
		return DROP_MALFORMED;
	if (tcp.doff < sizeof(tcp) / 4 || tcp.doff * 4U > room)
		return DROP_MALFORMED;
	packet->tuple.source_port = tcp.source;
	packet->tuple.destination_port = tcp.dest;
	packet->tcp_flags = ((__u8 *)&tcp)[TCP_FLAGS_OFFSET];
	return DROP_NONE;
}

static __always_inline enum drop_reason parse_udp(struct packet *packet, __u32 room)
{
	struct udphdr udp;

	if (room < sizeof(udp) || bpf_skb_load_bytes(packet->skb, packet->l4_offset, &udp, sizeof(udp)))
		return DROP_MALFORMED;
	if (bpf_ntohs(udp.len) < sizeof(udp) || bpf_ntohs(udp.len) > room)
		return DROP_MALFORMED;
	packet->tuple.source_port = udp.source;
	packet->tuple.destination_port = udp.dest;
	return DROP_NONE;
}

static __always_inline bool is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

static __always_inline bool is_icmp_echo(__u8 type)
{
	return type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY;
}

static __always_inline enum drop_reason parse_icmp(struct packet *packet, __u32 room)
{
	struct icmp icmp;

	if (room < sizeof(icmp) || bpf_skb_load_bytes(packet->skb, packet->l4_offset, &icmp, sizeof(icmp)))
		return DROP_MALFORMED;
	if (is_icmp_error(icmp.type))
		packet->kind = PACKET_ICMP_ERROR;
	if (is_icmp_echo(icmp.type))
		packet->tuple.source_port = packet->tuple.destination_port = icmp.id;
	return DROP_NONE;
}

static __always_inline enum drop_reason parse_l4(struct packet *packet, __u32 room)
{
	switch (packet->tuple.protocol) {
	case IPPROTO_TCP:
		return parse_tcp(packet, room);
	case IPPROTO_UDP:
		return parse_udp(packet, room);
	case IPPROTO_ICMP:
		return parse_icmp(packet, room);
	default:
		return DROP_NONE; /* a flow without ports */
	}
}

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
	if (ip.frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET))
		return DROP_FRAGMENT;
	packet->l4_offset = IP_OFFSET + head;
	return parse_l4(packet, total - head);
}

/* Not followed yet; the addresses are for the event. */
static __always_inline enum drop_reason parse_ipv6(struct packet *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(packet->skb, ETH_HLEN, &ip, sizeof(ip)))
		return DROP_MALFORMED;
	__builtin_memcpy(&packet->tuple.source, &ip.saddr, sizeof(struct address));
	__builtin_memcpy(&packet->tuple.destination, &ip.daddr, sizeof(struct address));
	packet->tuple.protocol = ip.nexthdr;
	return DROP_UNSUPPORTED_PROTOCOL;
}

static __always_inline enum drop_reason parse(struct packet *packet)
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
