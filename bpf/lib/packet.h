/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of the packet in hand. Made by parse.h; the programs hand it from one job to the next. */
#ifndef WHIT_PACKET_H
#define WHIT_PACKET_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

#define IP_OFFSET ETH_HLEN

enum packet_kind {
	PACKET_FLOW = 0,       /* belongs to a flow, which its tuple names */
	PACKET_NEIGHBOUR = 1,  /* ARP or neighbour discovery; the tuple's source is who the sender says to be */
	PACKET_ICMP_ERROR = 2, /* speaks of a packet of a flow, whose head it carries */
};

enum packet_fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1, /* has the header of layer 4 */
	FRAGMENT_LATER = 2,
};

struct packet {
	struct __sk_buff *skb;
	__u64 now_ns;          /* CLOCK_MONOTONIC */
	struct flow_key tuple; /* as it is on the wire; after translation as it is now */
	__u32 length;          /* of the whole frame when it came */
	__u32 l4_offset;
	__u32 l4_length; /* up to the end that the IP header names */
	__u32 fragment_id;
	__u32 sequence; /* of TCP */
	__u32 acknowledged;
	__u32 generation; /* of policies and backends, now */
	__u32 trace;	  /* the number of the trace that wants to know, or 0 */
	__u32 identity; /* of the source where the hook has found it out, or 0 */
	__u8 hook;
	__u8 kind;
	__u8 tcp_flags;
	__u8 multicast; /* of layer 2 */
	__u8 mac[ETH_ALEN]; /* of the sender */
	__u8 ipv6;
	__u8 fragment;
	__u8 icmp_type; /* of ICMP and ICMPv6 */
	__u8 icmp_code;
	__u8 dont_fragment;
	__u8 hop_limit;     /* IPv6 only */
	__u8 l4_head;       /* length of the TCP or UDP header */
	__u8 through_stack; /* the stack is to cut it into pieces */
	__u8 limited;	    /* counts against what its sender may send */
	__u8 refused;	    /* its sender is to be told that nobody takes it */
	__u8 pad[2];
};

static __always_inline struct packet begin(struct __sk_buff *skb, __u8 hook)
{
	struct packet packet = {
		.skb = skb,
		.now_ns = bpf_ktime_get_ns(),
		.length = skb->len,
		.hook = hook,
	};

	return packet;
}

/* clang does not always expand memcmp, and there is no library to call it from. */
static __always_inline bool same_mac(const __u8 *left, const __u8 *right)
{
	__u8 different = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		different |= left[i] ^ right[i];
	return !different;
}

/* skb->pkt_type of a frame to this link's own address: PACKET_HOST of <linux/if_packet.h>. */
#define PACKET_TO_US 0

/* skb->tc_index of what was judged already and only passes to_instance on its way. Nothing else in a node sets it:
 * what comes in is cleared first, because an instance may set it with tc rules of its own. */
#define TC_INDEX_JUDGED 0x5748

#endif
