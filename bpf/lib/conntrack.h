/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows: two entries each, one for the initiator's way, keyed by the tuple as the initiator sends it, and one for the
 * reply's way, keyed by the tuple as the responder sends it.
 *
 * A TCP packet in the middle of a connection that has no entry (the map was full, the node restarted) begins a flow as
 * a first packet does: policy is asked, and if a service is in between, a backend is picked anew, which resets the
 * connection unless it is the old one. TCP entries serve for as long as they are there, time-out or not, because a
 * connection may be silent for longer than any clock of ours; only a SYN takes an idle one over.
 */
#ifndef WHIT_CONNTRACK_H
#define WHIT_CONNTRACK_H

#include "edge.h"
#include "event.h"
#include "parse.h"
#include "policy.h"
#include "trace.h"

static __always_inline struct flow_value *flow_of(const struct packet *packet)
{
	return bpf_map_lookup_elem(&flows, &packet->tuple);
}

/* What user space says for all packets: the generation, and whether this one is traced. */
static __always_inline void recall_state(struct packet *packet)
{
	__u32 zero = 0;
	const struct datapath_state *found = bpf_map_lookup_elem(&state, &zero);
	const __u32 *trace = NULL;

	if (!found)
		return;
	packet->generation = found->generation;
	if (found->tracing)
		trace = bpf_map_lookup_elem(&traces, &packet->tuple);
	if (!trace)
		return;
	packet->trace = *trace;
	/* Here, where it is known to be traced: asking again would have the verifier walk all the rest once more. */
	tell_hop(packet, HOP_ENTERED, 0, 0);
	if (packet->hook == HOOK_FROM_INSTANCE)
		tell_hop(packet, HOP_SENDER, packet->identity, 0);
}

static __always_inline bool is_tracing(void)
{
	__u32 zero = 0;
	const struct datapath_state *found = bpf_map_lookup_elem(&state, &zero);

	return found && found->tracing;
}

static __always_inline void
tell_judged(const struct packet *packet, const struct flow_event *event, enum drop_reason reason)
{
	bool egress = reason != DROP_POLICY_EGRESS;

	hop(packet, HOP_EGRESS, event->egress_rule, egress ? VERDICT_ALLOW : VERDICT_DENY);
	if (egress)
		hop(packet, HOP_INGRESS, event->ingress_rule, reason ? VERDICT_DENY : VERDICT_ALLOW);
}

/* The key of a flow's other entry, given the key and the value of one. */
static __always_inline struct flow_key opposite(const struct flow_key *tuple, const struct flow_value *flow)
{
	struct flow_key way = {
		.source = tuple->destination,
		.destination = tuple->source,
		.source_port = tuple->destination_port,
		.destination_port = tuple->source_port,
		.protocol = tuple->protocol,
	};

	if (flow->flags & FLOW_REPLY) {
		way.destination = flow->translation;
		way.destination_port = flow->translation_port;
	} else {
		way.source = flow->translation;
		way.source_port = flow->translation_port;
	}
	/* Both ends are the instance; on either way the service stands for the one who is far. */
	if (flow->flags & FLOW_HAIRPIN) {
		if (flow->flags & FLOW_REPLY)
			way.source = tuple->source;
		else
			way.destination = tuple->destination;
	}
	return way;
}

static __always_inline __u64 timeout_of(const struct flow_value *flow, __u8 protocol)
{
	bool established = flow->flags & FLOW_ESTABLISHED;

	switch (protocol) {
	case IPPROTO_TCP:
		if (flow->flags & FLOW_CLOSING)
			return tcp_closing_timeout_ns;
		return established || (flow->flags & FLOW_DENIED) ? tcp_established_timeout_ns : tcp_syn_timeout_ns;
	case IPPROTO_UDP:
		return established ? udp_established_timeout_ns : udp_timeout_ns;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return icmp_timeout_ns;
	default:
		return other_timeout_ns;
	}
}

/* Signed, because another CPU may have seen a packet of the flow a moment after our clock was read. */
static __always_inline bool is_over(const struct packet *packet, const struct flow_value *flow)
{
	__s64 silent = packet->now_ns - flow->last_seen_ns;

	return silent > (__s64)timeout_of(flow, packet->tuple.protocol);
}

static __always_inline bool is_syn(const struct packet *packet)
{
	return (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Whether the tuple is used again for something new. */
static __always_inline bool begins_anew(const struct packet *packet, const struct flow_value *flow)
{
	if (packet->tuple.protocol == IPPROTO_TCP)
		return is_syn(packet) && ((flow->flags & (FLOW_CLOSING | FLOW_DENIED)) || is_over(packet, flow));
	return is_over(packet, flow);
}

/*
 * Two flows of one client may not share the way back: one to a backend itself, one to it through a service, from the
 * same port. The one that was there first is left in peace.
 */
static __always_inline bool
is_taken(const struct packet *packet, const struct flow_key *way, const struct flow_value *wanted)
{
	const struct flow_value *found = bpf_map_lookup_elem(&flows, way);

	if (!found || (found->flags & (FLOW_CLOSING | FLOW_DENIED)) || is_over(packet, found))
		return false;
	return !same_address(&found->translation, &wanted->translation) ||
	       found->translation_port != wanted->translation_port;
}

/* An instance that was given itself as a backend. Of who is outside and is that, the stack translates the source. */
static __always_inline bool is_hairpin(const struct packet *packet, const struct flow_event *event)
{
	return packet->hook != HOOK_FROM_UPLINK && same_address(&event->source, &event->destination);
}

/* The entry of the initiator's way; NULL cannot be. */
static __always_inline struct flow_value *
entry_of(const struct packet *packet, const struct flow_event *event, __u32 backend)
{
	__u32 zero = 0;
	struct flow_value *flow = bpf_map_lookup_elem(&new_flow, &zero);

	if (!flow)
		return NULL;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->last_seen_ns = packet->now_ns;
	flow->began_ns = packet->now_ns;
	flow->translation = event->destination;
	flow->translation_port = event->destination_port;
	flow->flags = packet->hook == HOOK_FROM_UPLINK ? FLOW_UPLINK : 0;
	if (is_hairpin(packet, event))
		flow->flags |= FLOW_HAIRPIN;
	if (!same_address(&event->destination, &event->service) || event->destination_port != event->service_port)
		flow->flags |= FLOW_TRANSLATED;
	flow->ifindex = packet->skb->ifindex;
	flow->backend = backend;
	flow->initiator = event->source_identity;
	flow->responder = event->destination_identity;
	flow->egress_rule = event->egress_rule;
	flow->ingress_rule = event->ingress_rule;
	flow->generation = packet->generation;
	flow->policy_port = policy_port(event);
	return flow;
}

/*
 * Who is its own backend and asks without ports (a ping), or from the port that it asks, sends answers that look as its
 * questions do. What is to be done with both is the same, so one entry serves.
 */
static __always_inline bool answers_itself(const struct flow_key *tuple, const struct flow_value *flow)
{
	return (flow->flags & FLOW_HAIRPIN) && tuple->source_port == tuple->destination_port &&
	       tuple->source_port == flow->translation_port;
}

/* Enter a flow that was allowed, in both ways or in none. Its first packet is counted as all others are, by touch. */
static __noinline enum drop_reason
remember(const struct packet *packet, const struct flow_event *event, __u32 backend)
{
	struct flow_value *flow = entry_of(packet, event, backend);
	enum drop_reason reason = DROP_CONNTRACK_FULL;
	struct flow_key way;

	if (!flow)
		return DROP_INTERNAL;
	way = opposite(&packet->tuple, flow);
	if (bpf_map_update_elem(&flows, &packet->tuple, flow, BPF_ANY))
		return DROP_CONNTRACK_FULL;
	if (answers_itself(&packet->tuple, flow))
		return DROP_NONE;
	flow->translation = event->service;
	flow->translation_port = event->service_port;
	flow->flags |= FLOW_REPLY;
	trace_also(packet, &way);
	if (is_taken(packet, &way, flow))
		reason = DROP_FLOW_TAKEN;
	else if (!bpf_map_update_elem(&flows, &way, flow, BPF_ANY))
		return DROP_NONE;
	bpf_map_delete_elem(&flows, &packet->tuple);
	return reason;
}

/* Who has asked, for a packet of the reply's way that is not translated yet. */
static __always_inline struct address initiator_of(const struct packet *packet, const struct flow_value *flow)
{
	return flow->flags & FLOW_HAIRPIN ? packet->tuple.source : packet->tuple.destination;
}

/* The way back of a flow that was known before it was traced. */
static __noinline void trace_opposite(const struct packet *packet, const struct flow_value *flow)
{
	struct flow_key way = opposite(&packet->tuple, flow);

	trace_also(packet, &way);
}

static __noinline void forget(const struct packet *packet, const struct flow_value *flow)
{
	struct flow_key way = opposite(&packet->tuple, flow);

	bpf_map_delete_elem(&flows, &way);
	bpf_map_delete_elem(&flows, &packet->tuple);
}

static __always_inline void
describe_flow(const struct packet *packet, const struct flow_value *flow, struct flow_event *event)
{
	struct flow_key way = opposite(&packet->tuple, flow);
	bool reply = flow->flags & FLOW_REPLY;
	const struct flow_key *asked = reply ? &way : &packet->tuple;
	const struct flow_key *answer = reply ? &packet->tuple : &way;

	describe(packet, event);
	event->source = asked->source;
	event->source_port = asked->source_port;
	event->service = asked->destination;
	event->service_port = asked->destination_port;
	event->destination = answer->source;
	event->destination_port = answer->source_port;
	event->source_identity = flow->initiator;
	event->destination_identity = flow->responder;
}

/* A connection is over: what it came to, once. `flow` is the way that ended it. */
static __noinline void
report_end(const struct packet *packet, const struct flow_value *flow, const struct flow_value *other)
{
	struct end_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	bool reply = flow->flags & FLOW_REPLY;
	const struct flow_value *forth = reply ? other : flow, *back = reply ? flow : other;

	if (!event) {
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, sizeof(*event));
		return;
	}
	event->time_ns = packet->now_ns;
	event->kind = EVENT_END;
	event->hook = packet->hook;
	event->flow_flags = flow->flags;
	event->ifindex = packet->skb->ifindex;
	event->source = reply ? initiator_of(packet, flow) : packet->tuple.source;
	event->destination = reply ? packet->tuple.source : flow->translation;
	event->source_port = reply ? packet->tuple.destination_port : packet->tuple.source_port;
	event->destination_port = reply ? packet->tuple.source_port : flow->translation_port;
	event->protocol = packet->tuple.protocol;
	event->reset = !!(packet->tcp_flags & TCP_RST);
	event->pad = 0;
	event->source_identity = flow->initiator;
	event->destination_identity = flow->responder;
	event->duration_ns = packet->now_ns - flow->began_ns;
	event->packets = forth->packets;
	event->bytes = forth->bytes;
	event->reply_packets = back->packets;
	event->reply_bytes = back->bytes;
	event->rtt_us = back->rtt_us ? back->rtt_us : forth->rtt_us;
	event->retransmits = forth->retransmits + back->retransmits;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* Set flags in both entries. A FIN sets FLOW_CLOSING only if the other side has sent one too. */
static __noinline void turn(const struct packet *packet, struct flow_value *flow, __u16 flags)
{
	struct flow_key way = opposite(&packet->tuple, flow);
	struct flow_value *other = bpf_map_lookup_elem(&flows, &way);

	if (flags & FLOW_FIN) {
		flow->flags |= FLOW_FIN;
		flags = other && !(other->flags & FLOW_FIN) ? 0 : FLOW_CLOSING;
	}
	if (other && (flags & ~flow->flags & FLOW_CLOSING))
		report_end(packet, flow, other);
	flow->flags |= flags;
	if (other)
		other->flags |= flags;
}

/* Whether the backend of a flow that is translated has been taken away, or is down. Asked when the generation differs. */
static __always_inline bool has_lost_backend(const struct flow_value *flow)
{
	const struct backend_value *backend;

	if ((flow->flags & FLOW_REPLY) || !flow->backend)
		return false;
	backend = bpf_map_lookup_elem(&backends, &flow->backend);
	return !backend || backend->state == BACKEND_DOWN || !same_address(&backend->address, &flow->translation);
}

/*
 * Policy came to deny the flow. The entries of TCP stay: its ends send what was not acknowledged again, and without
 * them what the responder sends would begin a flow the other way round, which policy may allow.
 */
static __always_inline void end_denied(const struct packet *packet, struct flow_value *flow)
{
	if (packet->tuple.protocol != IPPROTO_TCP) {
		forget(packet, flow);
		return;
	}
	flow->last_seen_ns = packet->now_ns;
	turn(packet, flow, FLOW_DENIED);
}

/* Policy is not what it was when this entry was allowed: ask again. Returns TC_ACT_OK, or the end of the packet. */
static __noinline int recheck(const struct packet *packet, struct flow_value *flow)
{
	struct flow_event event = {};
	enum drop_reason reason;

	describe_flow(packet, flow, &event);
	reason = judge(&event, flow->policy_port);
	tell_judged(packet, &event, reason);
	if (reason) {
		end_denied(packet, flow);
		return drop_reported(packet, &event, reason);
	}
	flow->flags &= ~FLOW_DENIED;
	flow->egress_rule = event.egress_rule;
	flow->ingress_rule = event.ingress_rule;
	flow->generation = packet->generation;
	if ((event.flags & POLICY_AUDIT) && !(flow->flags & FLOW_REPLY))
		report(&event);
	return TC_ACT_OK;
}

/* A packet of a flow has come by: count it, and follow the state of the connection. */
static __always_inline struct edge_value *touch(const struct packet *packet, struct flow_value *flow)
{
	__u32 segments = packet->skb->gso_segs ? packet->skb->gso_segs : 1;
	struct edge_value *edge = edge_of(packet, flow);

	flow->last_seen_ns = packet->now_ns;
	__sync_fetch_and_add(&flow->packets, segments);
	__sync_fetch_and_add(&flow->bytes, packet->length);
	if (edge)
		count_packet(edge, packet, flow, segments);
	if ((flow->flags & (FLOW_REPLY | FLOW_ESTABLISHED)) == FLOW_REPLY)
		turn(packet, flow, FLOW_ESTABLISHED);
	if (packet->tcp_flags & TCP_RST)
		turn(packet, flow, FLOW_CLOSING);
	else if ((packet->tcp_flags & TCP_FIN) && !(flow->flags & FLOW_FIN))
		turn(packet, flow, FLOW_FIN);
	return edge;
}

#endif
