/* SPDX-License-Identifier: Apache-2.0 */
/* The headers of layer 4: TCP, UDP, SCTP, ICMP and ICMPv6. All other protocols are flows without ports. */
#ifndef WHIT_L4_H
#define WHIT_L4_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "drops.h"
#include "neighbour.h"
#include "packet.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13

/* RFC 792 and 4443. <linux/icmp.h> draws in headers of the C library, which does not know this target. */
struct icmp {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id; /* of an echo */
	__be16 sequence;
};

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* RFC 9260, 3.1. The checksum covers the ports, but no address. */
struct sctp {
	__be16 source;
	__be16 dest;
	__u32 tag;
	__u32 checksum;
};

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TOO_BIG 2
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129
#define ICMPV6_LISTENER_QUERY 130
#define ICMPV6_REDIRECT 137
#define ICMPV6_LISTENER_REPORT_2 143

static __always_inline enum drop_reason parse_tcp(struct packet *packet)
{
	struct tcphdr tcp;

	if (packet->l4_length < sizeof(tcp) ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset, &tcp, sizeof(tcp)))
		return DROP_MALFORMED;
	if (tcp.doff < sizeof(tcp) / 4 || tcp.doff * 4U > packet->l4_length)
		return DROP_MALFORMED;
	packet->tuple.source_port = tcp.source;
	packet->tuple.destination_port = tcp.dest;
	packet->l4_head = tcp.doff * 4;
	packet->tcp_flags = ((__u8 *)&tcp)[TCP_FLAGS_OFFSET];
	packet->sequence = bpf_ntohl(tcp.seq);
	packet->acknowledged = bpf_ntohl(tcp.ack_seq);
	return DROP_NONE;
}

/* A first fragment names the length of the whole packet. */
static __always_inline enum drop_reason parse_udp(struct packet *packet)
{
	struct udphdr udp;

	if (packet->l4_length < sizeof(udp) ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset, &udp, sizeof(udp)))
		return DROP_MALFORMED;
	if (bpf_ntohs(udp.len) < sizeof(udp) || (!packet->fragment && bpf_ntohs(udp.len) > packet->l4_length))
		return DROP_MALFORMED;
	packet->l4_head = sizeof(udp);
	packet->tuple.source_port = udp.source;
	packet->tuple.destination_port = udp.dest;
	return DROP_NONE;
}

static __always_inline enum drop_reason parse_sctp(struct packet *packet)
{
	struct sctp sctp;

	if (packet->l4_length < sizeof(sctp) ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset, &sctp, sizeof(sctp)))
		return DROP_MALFORMED;
	packet->tuple.source_port = sctp.source;
	packet->tuple.destination_port = sctp.dest;
	return DROP_NONE;
}

static __always_inline bool is_icmp_error(__u8 type, bool ipv6)
{
	if (ipv6)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER_PROBLEM;
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

static __always_inline bool is_icmp_echo(__u8 type, bool ipv6)
{
	if (ipv6)
		return type == ICMPV6_ECHO_REQUEST || type == ICMPV6_ECHO_REPLY;
	return type == ICMP_ECHO_REQUEST || type == ICMP_ECHO_REPLY;
}

static __always_inline bool is_icmp(__u8 protocol, bool ipv6)
{
	return protocol == (ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Routers' advertisements, redirects and the membership in groups are no business of instances. */
static __always_inline enum drop_reason parse_icmpv6_control(struct packet *packet)
{
	if (packet->icmp_type == ICMPV6_SOLICITATION || packet->icmp_type == ICMPV6_ADVERTISEMENT)
		return parse_discovery(packet);
	if ((packet->icmp_type >= ICMPV6_LISTENER_QUERY && packet->icmp_type <= ICMPV6_REDIRECT) ||
	    packet->icmp_type == ICMPV6_LISTENER_REPORT_2)
		return DROP_UNSUPPORTED_PROTOCOL;
	return DROP_NONE;
}

static __always_inline enum drop_reason parse_icmp(struct packet *packet)
{
	struct icmp icmp;

	if (packet->l4_length < sizeof(icmp) ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset, &icmp, sizeof(icmp)))
		return DROP_MALFORMED;
	packet->icmp_type = icmp.type;
	packet->icmp_code = icmp.code;
	if (is_icmp_error(icmp.type, packet->ipv6)) {
		packet->kind = PACKET_ICMP_ERROR;
		return packet->fragment ? DROP_FRAGMENT : DROP_NONE;
	}
	if (is_icmp_echo(icmp.type, packet->ipv6))
		packet->tuple.source_port = packet->tuple.destination_port = icmp.id;
	return packet->ipv6 ? parse_icmpv6_control(packet) : DROP_NONE;
}

static __always_inline enum drop_reason parse_l4(struct packet *packet)
{
	__u8 protocol = packet->tuple.protocol;

	if (packet->fragment == FRAGMENT_LATER)
		return DROP_NONE; /* it has no such header; fragment.h knows */
	if (protocol == IPPROTO_TCP)
		return parse_tcp(packet);
	if (protocol == IPPROTO_UDP)
		return parse_udp(packet);
	if (protocol == IPPROTO_SCTP)
		return parse_sctp(packet);
	return is_icmp(protocol, packet->ipv6) ? parse_icmp(packet) : DROP_NONE;
}

#endif
