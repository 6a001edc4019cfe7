/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells a client at once that nobody serves it, in the name of whom it asked: a reset for TCP (RFC 9293, 3.10.7.1),
 * port unreachable for UDP (RFC 792). The packet in hand is made into the answer and goes back by the link it came by.
 *
 * A packet with IP options gets no answer. Where none can be made the packet ends as `end` says: it is dropped already.
 */
#ifndef WHIT_ANSWER_H
#define WHIT_ANSWER_H

#include "deliver.h"
#include "parse.h"

#define ANSWER_TTL 64
#define ICMP_PORT_UNREACHABLE 3
#define UDP_HEAD 8 /* as much of layer 4 as an ICMP error has to carry */

/* From layer 3 on. */
struct tcp_answer {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct icmp_answer {
	struct iphdr ip;
	struct icmp icmp;
	struct iphdr asked;
	__u8 udp[UDP_HEAD];
};

/* What TCP's checksum covers besides the segment. */
struct pseudo_header {
	__be32 source;
	__be32 destination;
	__u8 zero;
	__u8 protocol;
	__be16 length;
};

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Back to the sender. */
static __always_inline void answer_ip(const struct iphdr *asked, __u8 protocol, __u16 length, struct iphdr *ip)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(length);
	ip->ttl = ANSWER_TTL;
	ip->protocol = protocol;
	ip->saddr = asked->daddr;
	ip->daddr = asked->saddr;
	ip->check = folded(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

/* Put `answer` in the place of all that follows the Ethernet header, and send it back. */
static __always_inline int send_back(const struct packet *packet, const void *answer, __u32 length, int end)
{
	struct macs macs;

	if (bpf_skb_load_bytes(packet->skb, 0, &macs, sizeof(macs)))
		return end;
	__builtin_memcpy(macs.source, macs.destination, ETH_ALEN);
	__builtin_memcpy(macs.destination, packet->mac, ETH_ALEN);
	if (bpf_skb_change_tail(packet->skb, IP_OFFSET + length, 0) ||
	    bpf_skb_store_bytes(packet->skb, 0, &macs, sizeof(macs), 0) ||
	    bpf_skb_store_bytes(packet->skb, IP_OFFSET, answer, length, 0))
		return end;
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

static __noinline int answer_tcp(const struct packet *packet, const struct iphdr *asked, int end)
{
	struct tcp_answer answer = {};
	struct pseudo_header pseudo = {};
	struct tcphdr tcp;
	__u32 payload;

	if (bpf_skb_load_bytes(packet->skb, packet->l4_offset, &tcp, sizeof(tcp)) || tcp.rst)
		return end;
	answer_ip(asked, IPPROTO_TCP, sizeof(answer), &answer.ip);
	payload = bpf_ntohs(asked->tot_len) - sizeof(*asked) - tcp.doff * 4U;
	reset_of(&tcp, payload, &answer.tcp);
	pseudo.source = asked->daddr;
	pseudo.destination = asked->saddr;
	pseudo.protocol = IPPROTO_TCP;
	pseudo.length = bpf_htons(sizeof(answer.tcp));
	answer.tcp.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&answer.tcp, sizeof(answer.tcp),
						bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0)));
	return send_back(packet, &answer, sizeof(answer), end);
}

static __noinline int answer_udp(const struct packet *packet, const struct iphdr *asked, int end)
{
	struct icmp_answer answer = { .asked = *asked };

	if (bpf_skb_load_bytes(packet->skb, packet->l4_offset, answer.udp, sizeof(answer.udp)))
		return end;
	answer_ip(asked, IPPROTO_ICMP, sizeof(answer), &answer.ip);
	answer.icmp.type = ICMP_UNREACHABLE;
	answer.icmp.code = ICMP_PORT_UNREACHABLE;
	answer.icmp.checksum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&answer.icmp,
						    sizeof(answer) - sizeof(answer.ip), 0));
	return send_back(packet, &answer, sizeof(answer), end);
}

/* Nobody takes the flow: the packet is counted and reported as dropped, and the client told. */
static __noinline int refuse(const struct packet *packet, struct flow_event *event)
{
	int end = drop_reported(packet, event, DROP_NO_BACKEND);
	struct iphdr asked;

	if (bpf_skb_load_bytes(packet->skb, IP_OFFSET, &asked, sizeof(asked)) || asked.ihl != sizeof(asked) / 4)
		return end;
	if (asked.protocol == IPPROTO_TCP)
		return answer_tcp(packet, &asked, end);
	if (asked.protocol == IPPROTO_UDP)
		return answer_udp(packet, &asked, end);
	return end;
}

#endif
