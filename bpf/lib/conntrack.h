/* SPDX-License-Identifier: Apache-2.0 */
/* Flows: two entries each, one for each way, so that every later packet needs one look-up. */
#ifndef WHIT_CONNTRACK_H
#define WHIT_CONNTRACK_H

#include "config.h"
#include "event.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"
#include "service.h"

static __always_inline __u64 timeout_of(const struct flow_value *flow, __u8 protocol)
{
	if (flow->flags & FLOW_CLOSING)
		return timeout_closing;
	if (protocol == IPPROTO_TCP)
		return flow->flags & FLOW_ESTABLISHED ? timeout_established : timeout_opening;
	return timeout_datagram;
}

static __always_inline struct flow_key reversed(const struct flow_key *key)
{
	struct flow_key reverse = {
		.source = key->destination,
		.destination = key->source,
		.source_port = key->destination_port,
		.destination_port = key->source_port,
		.protocol = key->protocol,
	};

	return reverse;
}

/* The flow's entry, unless it is over: a SYN on a flow that closes opens a new one. */
static __always_inline struct flow_value *find_flow(const struct packet *packet)
{
	struct flow_value *flow = bpf_map_lookup_elem(&flows, &packet->key);

	if (!flow)
		return NULL;
	if (bpf_ktime_get_ns() - flow->last_seen_ns > timeout_of(flow, packet->key.protocol))
		return NULL;
	if (packet->syn && (flow->flags & (FLOW_CLOSING | FLOW_REPLY)))
		return NULL;
	return flow;
}

static __always_inline void touch_flow(struct __sk_buff *skb, const struct packet *packet, struct flow_value *flow)
{
	flow->last_seen_ns = bpf_ktime_get_ns();
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, skb->len);
	if (packet->fin)
		flow->flags |= FLOW_CLOSING;
	else if (packet->ack && !packet->syn)
		flow->flags |= FLOW_ESTABLISHED;
}

static __always_inline __u32 generation_now(void)
{
	__u32 zero = 0;
	struct datapath_state *now = bpf_map_lookup_elem(&state, &zero);

	return now ? now->generation : 0;
}

/* What a new flow is made of. */
struct opening {
	struct decision decision;
	struct address translation; /* the backend, if the flow is translated */
	__be16 translation_port;
	__u16 flags;
	__u32 ifindex;
	__u32 backend;
};

/* Remember the flow in both ways. `key` is the tuple as the initiator sent it. */
static __noinline int remember_flow(const struct flow_key *key, const struct opening *opening)
{
	struct flow_value value = {};
	struct flow_key translated, reverse;

	if (!key || !opening)
		return -1;
	translated = *key;
	value.last_seen_ns = bpf_ktime_get_ns();
	value.flags = opening->flags & ~FLOW_REPLY;
	value.ifindex = opening->ifindex;
	value.backend = opening->backend;
	value.initiator = opening->decision.source_identity;
	value.responder = opening->decision.destination_identity;
	value.egress_rule = opening->decision.egress_rule;
	value.ingress_rule = opening->decision.ingress_rule;
	value.generation = generation_now();
	value.translation = opening->translation;
	value.translation_port = opening->translation_port;
	if (opening->flags & FLOW_TRANSLATED) {
		translated.destination = opening->translation;
		translated.destination_port = opening->translation_port;
	}
	value.policy_port = translated.destination_port;
	if (bpf_map_update_elem(&flows, key, &value, BPF_ANY))
		return -1;
	value.flags |= FLOW_REPLY;
	value.translation = key->destination;
	value.translation_port = key->destination_port;
	reverse = reversed(&translated);
	return bpf_map_update_elem(&flows, &reverse, &value, BPF_ANY);
}

#endif
