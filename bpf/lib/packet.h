/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing: from bytes to a struct packet. Every bounds check of the datapath is here. */
#ifndef WHIT_PACKET_H
#define WHIT_PACKET_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "drops.h"

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#define IP_OFFSET (sizeof(struct ethhdr))
#define IP_FLAG_MORE_FRAGMENTS 0x2000
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#define IP_OFFSET_MASK 0x1fff

/* linux/icmp.h draws in the C library's headers, which do not know this target. */
struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id;
	__be16 sequence;
};

#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11

enum packet_kind {
	PACKET_FLOW,       /* belongs to a flow by its own tuple */
	PACKET_ICMP_ERROR, /* belongs to the flow of the header that it carries */
	PACKET_ARP,
	PACKET_IPV6, /* dropped; neighbour discovery is so common that it makes no event */
};

struct packet {
	struct flow_key key;
	__u32 l4_offset;
	__u8 source_mac[ETH_ALEN];
	__u16 kind;
	__u8 syn;   /* TCP: opens a connection */
	__u8 fin;   /* TCP: closes it, or breaks it off */
	__u8 ack;
	__u8 pad[3];
};

static __always_inline struct address address_of(__be32 ipv4)
{
	struct address address = { { 0, 0, bpf_htonl(0xffff), ipv4 } };

	return address;
}

static __always_inline int parse_tcp(void *at, void *end, struct packet *packet)
{
	struct tcphdr *tcp = at;

	if ((void *)(tcp + 1) > end)
		return DROP_MALFORMED;
	packet->key.source_port = tcp->source;
	packet->key.destination_port = tcp->dest;
	packet->syn = tcp->syn && !tcp->ack;
	packet->ack = tcp->ack;
	packet->fin = tcp->fin || tcp->rst;
	return DROP_NONE;
}

static __always_inline int parse_udp(void *at, void *end, struct packet *packet)
{
	struct udphdr *udp = at;

	if ((void *)(udp + 1) > end)
		return DROP_MALFORMED;
	packet->key.source_port = udp->source;
	packet->key.destination_port = udp->dest;
	return DROP_NONE;
}

static __always_inline int parse_icmp(void *at, void *end, struct packet *packet)
{
	struct icmphdr *icmp = at;

	if ((void *)(icmp + 1) > end)
		return DROP_MALFORMED;
	if (icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHOREPLY) {
		packet->key.source_port = icmp->id;
		packet->key.destination_port = icmp->id;
		return DROP_NONE;
	}
	if (icmp->type == ICMP_DEST_UNREACH || icmp->type == ICMP_TIME_EXCEEDED)
		packet->kind = PACKET_ICMP_ERROR;
	return DROP_NONE;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = (void *)(long)skb->data + IP_OFFSET;
	__u32 length;
	void *l4;

	if ((void *)(ip + 1) > end)
		return DROP_MALFORMED;
	length = ip->ihl * 4;
	if (ip->version != 4 || length < sizeof(*ip) || bpf_ntohs(ip->tot_len) < length)
		return DROP_MALFORMED;
	packet->key.source = address_of(ip->saddr);
	packet->key.destination = address_of(ip->daddr);
	packet->key.protocol = ip->protocol;
	if (ip->frag_off & bpf_htons(IP_FLAG_MORE_FRAGMENTS | IP_OFFSET_MASK))
		return DROP_FRAGMENT;
	packet->l4_offset = IP_OFFSET + length;
	l4 = (void *)ip + length;
	if (ip->protocol == IPPROTO_TCP)
		return parse_tcp(l4, end, packet);
	if (ip->protocol == IPPROTO_UDP)
		return parse_udp(l4, end, packet);
	if (ip->protocol == IPPROTO_ICMP)
		return parse_icmp(l4, end, packet);
	return DROP_NONE;
}

/* Who an ARP packet says its sender is (RFC 826, for IPv4 over Ethernet). */
struct arp_sender {
	__u8 mac[ETH_ALEN];
	__be32 address;
} __attribute__((packed));

#define ARP_SENDER_OFFSET (sizeof(struct ethhdr) + 8)

static __always_inline int parse_arp(struct __sk_buff *skb, struct packet *packet)
{
	struct arp_sender sender;

	if (bpf_skb_load_bytes(skb, ARP_SENDER_OFFSET, &sender, sizeof(sender)))
		return DROP_MALFORMED;
	packet->kind = PACKET_ARP;
	packet->key.source = address_of(sender.address);
	__builtin_memcpy(packet->source_mac, sender.mac, ETH_ALEN);
	return DROP_NONE;
}

/* Fills `packet`, which must be zero. Returns a drop reason, or DROP_NONE. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *packet)
{
	struct ethhdr *ethernet;

	/* Headers may lie in fragments of a large packet; the longest we read are in the first 74 bytes. */
	if (bpf_skb_pull_data(skb, skb->len < 74 ? skb->len : 74))
		return DROP_MALFORMED;
	ethernet = (void *)(long)skb->data;
	if ((void *)(ethernet + 1) > (void *)(long)skb->data_end)
		return DROP_MALFORMED;
	__builtin_memcpy(packet->source_mac, ethernet->h_source, ETH_ALEN);
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, packet);
	if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
		return parse_arp(skb, packet);
	packet->kind = PACKET_IPV6;
	return DROP_UNSUPPORTED_PROTOCOL;
}

#endif
