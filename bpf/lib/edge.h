/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters of edges: who asks whom for what, both as identities. One look-up a packet in a map of this CPU's own, so that
 * nobody waits; user space adds the CPUs up. The oldest edges make room for new ones.
 */
#ifndef WHIT_EDGE_H
#define WHIT_EDGE_H

#include "maps.h"
#include "packet.h"

/* Made if it is not there; NULL if there is no room. */
static __always_inline struct edge_value *edge_at(const struct edge_key *key)
{
	static const struct edge_value nothing = {};
	struct edge_value *found = bpf_map_lookup_elem(&edges, key);

	if (found)
		return found;
	bpf_map_update_elem(&edges, key, &nothing, BPF_NOEXIST);
	return bpf_map_lookup_elem(&edges, key);
}

static __always_inline struct edge_value *edge_of(const struct packet *packet, const struct flow_value *flow)
{
	struct edge_key key = {
		.source = flow->initiator,
		.destination = flow->responder,
		.port = flow->policy_port,
		.protocol = packet->tuple.protocol,
		.verdict = VERDICT_ALLOW,
	};

	return edge_at(&key);
}

/* A packet that policy denied. */
static __noinline void count_denied(const struct flow_event *event, __be16 port)
{
	struct edge_key key = {
		.source = event->source_identity,
		.destination = event->destination_identity,
		.port = port,
		.protocol = event->protocol,
		.verdict = VERDICT_DENY,
	};
	struct edge_value *edge = edge_at(&key);

	if (!edge)
		return;
	edge->flows++;
	edge->packets++;
	edge->bytes += event->length;
}

static __always_inline void
count_packet(struct edge_value *edge, const struct packet *packet, const struct flow_value *flow, __u32 segments)
{
	if (flow->flags & FLOW_REPLY) {
		edge->reply_packets += segments;
		edge->reply_bytes += packet->length;
		return;
	}
	if (flow->packets == segments)
		edge->flows++;
	edge->packets += segments;
	edge->bytes += packet->length;
}

static __always_inline void count_request(struct edge_value *edge, __u16 status, __u32 latency_us)
{
	__u32 bucket = 0;

	for (__u32 bound = 64; bucket < LATENCY_BUCKETS - 1 && latency_us >= bound; bound <<= 1)
		bucket++;
	edge->requests++;
	edge->errors += status >= 500;
	edge->latency_us += latency_us;
	if (bucket < LATENCY_BUCKETS)
		edge->latency[bucket]++;
}

#endif
