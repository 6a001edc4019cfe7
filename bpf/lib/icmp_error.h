/* SPDX-License-Identifier: Apache-2.0 */
/* ICMP errors: each carries the header of the packet that it is about, and belongs to that packet's flow. */
#ifndef WHIT_ICMP_ERROR_H
#define WHIT_ICMP_ERROR_H

#include "conntrack.h"
#include "packet.h"
#include "rewrite.h"

/* The header that an error carries, with as much of the next one as every error must have (RFC 792). */
struct quoted {
	struct iphdr ip;
	__be16 source_port;
	__be16 destination_port;
};

static __always_inline __u32 quoted_offset(const struct packet *packet)
{
	return packet->l4_offset + sizeof(struct icmphdr);
}

/* The other way of the flow that the quoted packet belongs to, NULL if there is none. */
static __noinline struct flow_value *flow_of_error(struct __sk_buff *skb, const struct packet *packet,
						   struct quoted *quoted)
{
	struct flow_key reply = {};

	if (!packet || !quoted)
		return NULL;
	if (bpf_skb_load_bytes(skb, quoted_offset(packet), quoted, sizeof(*quoted)) || quoted->ip.ihl != 5)
		return NULL;
	reply.source = address_of(quoted->ip.daddr);
	reply.destination = address_of(quoted->ip.saddr);
	reply.protocol = quoted->ip.protocol;
	if (reply.protocol == IPPROTO_TCP || reply.protocol == IPPROTO_UDP) {
		reply.source_port = quoted->destination_port;
		reply.destination_port = quoted->source_port;
	}
	return bpf_map_lookup_elem(&flows, &reply);
}

/*
 * The initiator knows the responder by the address that it asked for: put that into the quoted header. The sum over
 * the quoted IP header stays the same, because its own checksum changes with it; only the port is seen by the ICMP one.
 */
static __noinline int rewrite_quoted(struct __sk_buff *skb, const struct packet *packet, const struct quoted *quoted,
				     const struct flow_value *flow)
{
	__u32 ip, port;
	__be32 address;

	if (!packet || !quoted || !flow)
		return -1;
	ip = quoted_offset(packet);
	port = ip + offsetof(struct quoted, destination_port);
	address = flow->translation.words[3];
	if (bpf_l3_csum_replace(skb, ip + offsetof(struct iphdr, check), quoted->ip.daddr, address, sizeof(address)) ||
	    bpf_skb_store_bytes(skb, ip + offsetof(struct iphdr, daddr), &address, sizeof(address), 0))
		return -1;
	if (bpf_l4_csum_replace(skb, packet->l4_offset + offsetof(struct icmphdr, checksum), quoted->destination_port,
				flow->translation_port, sizeof(flow->translation_port)))
		return -1;
	return bpf_skb_store_bytes(skb, port, &flow->translation_port, sizeof(flow->translation_port), 0);
}

/* Make an error fit what its receiver knows of the flow. Returns a drop reason, or DROP_NONE. */
static __always_inline int relate_error(struct __sk_buff *skb, const struct packet *packet)
{
	struct quoted quoted = {};
	struct flow_value *flow = flow_of_error(skb, packet, &quoted);

	if (!flow)
		return DROP_UNRELATED_ERROR;
	if ((flow->flags & FLOW_TRANSLATED) && (flow->flags & FLOW_REPLY) &&
	    rewrite_quoted(skb, packet, &quoted, flow))
		return DROP_REWRITE_FAILED;
	return DROP_NONE;
}

#endif
