/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells a sender at once what has become of its packet, in the name of whom it asked: a reset for TCP that nobody takes
 * (RFC 9293, 3.10.7.1), port unreachable for UDP, and too big for what the next link does not carry (RFC 792, 1191,
 * 4443). The packet in hand is made into the answer and goes back by the link it came by.
 *
 * A packet with IP options or extension headers, and one that is a fragment, gets no answer. Where none can be made the
 * packet ends as `end` says: it is dropped already.
 */
#ifndef WHIT_ANSWER_H
#define WHIT_ANSWER_H

#include "deliver.h"
#include "parse.h"

#define ANSWER_TTL 64
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMPV6_PORT_UNREACHABLE 4
#define L4_HEAD 8 /* as much of layer 4 as an ICMP error has to carry */

struct icmp_answer {
	struct icmp icmp;
	__u8 asked[sizeof(struct ipv6hdr) + L4_HEAD];
};

/* What checksums cover besides layer 4. That of IPv4 gives the same sum as one with v4-mapped addresses. */
struct pseudo_header {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 protocol;
};

static __always_inline __u32 ip_length(const struct packet *packet)
{
	return packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

static __always_inline bool is_answerable(const struct packet *packet)
{
	return !packet->fragment && !packet->multicast && packet->l4_offset == IP_OFFSET + ip_length(packet);
}

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Of an answer with this protocol and length, to start the sum over the rest with. */
static __noinline __s64 pseudo_sum(const struct packet *packet, __u8 protocol, __u32 length)
{
	struct pseudo_header pseudo = {
		.source = packet->tuple.destination,
		.destination = packet->tuple.source,
		.length = bpf_htonl(length),
		.protocol = bpf_htonl(protocol),
	};

	return bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
}

static __noinline long store_ipv4(const struct packet *packet, __u8 protocol, __u32 length)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.tot_len = bpf_htons(sizeof(ip) + length),
		.ttl = ANSWER_TTL,
		.protocol = protocol,
		.saddr = packet->tuple.destination.words[3],
		.daddr = packet->tuple.source.words[3],
	};

	ip.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	return bpf_skb_store_bytes(packet->skb, IP_OFFSET, &ip, sizeof(ip), 0);
}

static __noinline long store_ipv6(const struct packet *packet, __u8 protocol, __u32 length)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(length),
		.nexthdr = protocol,
		.hop_limit = ANSWER_TTL,
	};

	__builtin_memcpy(&ip.saddr, &packet->tuple.destination, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &packet->tuple.source, sizeof(ip.daddr));
	return bpf_skb_store_bytes(packet->skb, IP_OFFSET, &ip, sizeof(ip), 0);
}

/* Both MAC addresses change places. */
static __noinline long store_macs(const struct packet *packet)
{
	struct macs macs;

	if (bpf_skb_load_bytes(packet->skb, 0, &macs, sizeof(macs)))
		return -1;
	__builtin_memcpy(macs.source, macs.destination, ETH_ALEN);
	__builtin_memcpy(macs.destination, packet->mac, ETH_ALEN);
	return bpf_skb_store_bytes(packet->skb, 0, &macs, sizeof(macs), 0);
}

/* The length, addresses and all else of the frame but layer 4. */
static __always_inline long begin_answer(const struct packet *packet, __u8 protocol, __u32 length)
{
	if (bpf_skb_change_tail(packet->skb, IP_OFFSET + ip_length(packet) + length, 0) || store_macs(packet))
		return -1;
	return packet->ipv6 ? store_ipv6(packet, protocol, length) : store_ipv4(packet, protocol, length);
}

static __always_inline int send_back(const struct packet *packet)
{
	hop(packet, HOP_ANSWERED, 0, 0);
	packet->skb->tc_index = TC_INDEX_JUDGED;
	return bpf_redirect(packet->skb->ifindex, 0);
}

static __always_inline void reset_of(const struct tcphdr *asked, __u32 payload, struct tcphdr *tcp)
{
	tcp->source = asked->dest;
	tcp->dest = asked->source;
	tcp->doff = sizeof(*tcp) / 4;
	tcp->rst = 1;
	if (asked->ack) {
		tcp->seq = asked->ack_seq;
		return;
	}
	tcp->ack = 1;
	tcp->ack_seq = bpf_htonl(bpf_ntohl(asked->seq) + payload + asked->syn + asked->fin);
}

static __noinline int answer_reset(const struct packet *packet, int end)
{
	struct tcphdr asked, tcp = {};
	__s64 sum;

	if (bpf_skb_load_bytes(packet->skb, packet->l4_offset, &asked, sizeof(asked)) || asked.rst)
		return end;
	reset_of(&asked, packet->l4_length - asked.doff * 4U, &tcp);
	sum = pseudo_sum(packet, IPPROTO_TCP, sizeof(tcp));
	tcp.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&tcp, sizeof(tcp), sum));
	if (begin_answer(packet, IPPROTO_TCP, sizeof(tcp)) ||
	    bpf_skb_store_bytes(packet->skb, packet->l4_offset, &tcp, sizeof(tcp), 0))
		return end;
	return send_back(packet);
}

/* `rest` is what the type puts into the last four bytes of its header. */
static __noinline int answer_error(const struct packet *packet, __u8 type, __u8 code, __u32 rest, int end)
{
	struct icmp_answer answer = { .icmp.type = type, .icmp.code = code };
	__u8 protocol = packet->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	__u32 carried = (packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + L4_HEAD;
	__u32 length = sizeof(answer.icmp) + carried;
	__s64 sum = packet->ipv6 ? pseudo_sum(packet, protocol, length) : 0;

	if (bpf_skb_load_bytes(packet->skb, IP_OFFSET, answer.asked, carried))
		return end;
	answer.icmp.id = bpf_htons(rest >> 16);
	answer.icmp.sequence = bpf_htons(rest & 0xffff);
	/* What IPv4 leaves free at the end is zero. */
	answer.icmp.checksum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&answer, sizeof(answer), sum));
	if (begin_answer(packet, protocol, length) ||
	    bpf_skb_store_bytes(packet->skb, packet->l4_offset, &answer, length, 0))
		return end;
	return send_back(packet);
}

/* Nobody takes the flow, and the packet was dropped: the client is told. Returns the packet's end, `end` if it is not. */
static __noinline int tell_refused(const struct packet *packet, int end)
{
	if (!is_answerable(packet))
		return end;
	if (packet->tuple.protocol == IPPROTO_TCP)
		return answer_reset(packet, end);
	if (packet->tuple.protocol != IPPROTO_UDP)
		return end;
	if (packet->ipv6)
		return answer_error(packet, ICMPV6_UNREACHABLE, ICMPV6_PORT_UNREACHABLE, 0, end);
	return answer_error(packet, ICMP_UNREACHABLE, ICMP_PORT_UNREACHABLE, 0, end);
}

/* The same for a packet of a known flow that the next link does not carry. */
static __noinline int refuse_size(const struct packet *packet, __u32 mtu)
{
	int end = drop(packet, DROP_TOO_BIG);

	if (!is_answerable(packet) || packet->l4_length < L4_HEAD)
		return end;
	if (packet->ipv6)
		return answer_error(packet, ICMPV6_TOO_BIG, 0, mtu, end);
	return answer_error(packet, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, mtu, end);
}

#endif
