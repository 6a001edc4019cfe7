/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the headers of a connection tell about its health: segments that are sent again, and the time from a segment to
 * its acknowledgement. One segment a way is timed, at most every SAMPLE_NS; one that was sent again is not (Karn and
 * Partridge, SIGCOMM 1987). Seen at the node's side, so the first sample, of the handshake, is the responder's alone.
 */
#ifndef WHIT_TCP_H
#define WHIT_TCP_H

#include "conntrack.h"
#include "edge.h"

#define SAMPLE_NS 100000000ULL

/* How much of the sequence a segment takes. A GSO packet counts as one. */
static __always_inline __u32 sequence_length(const struct packet *packet)
{
	return packet->l4_length - packet->l4_head + !!(packet->tcp_flags & TCP_SYN) + !!(packet->tcp_flags & TCP_FIN);
}

/*
 * Have the other way look out for what acknowledges this segment; or no longer, if `end` was sent again. If the map was
 * full and the answers' entry has made room, answers are dropped, and the initiator sends again: without an entry of its
 * own, its next packet begins the flow anew, and both ways are there again.
 */
static __noinline void await(const struct packet *packet, const struct flow_value *flow, __u32 end, bool again)
{
	struct flow_key way = opposite(&packet->tuple, flow);
	struct flow_value *other = bpf_map_lookup_elem(&flows, &way);

	if (!other && again && !(flow->flags & FLOW_REPLY))
		bpf_map_delete_elem(&flows, &packet->tuple);
	if (!other)
		return;
	other->sampled_sequence = end;
	other->sampled_ns = again ? 0 : packet->now_ns;
}

/* Whether the segment has been here before. */
static __always_inline bool
follow_sequence(const struct packet *packet, struct flow_value *flow, struct edge_value *edge)
{
	__u32 length = sequence_length(packet), end = packet->sequence + length;

	if (!length)
		return false;
	/* The first one is compared with nothing; a probe of keep-alive lies one byte before what is next. */
	if (flow->next_sequence && (__s32)(end - flow->next_sequence) <= 0) {
		flow->retransmits++;
		if (edge)
			edge->retransmits++;
		await(packet, flow, end, true);
		return true;
	}
	flow->next_sequence = end;
	if (packet->now_ns < flow->next_sample_ns)
		return false;
	flow->next_sample_ns = packet->now_ns + SAMPLE_NS;
	await(packet, flow, end, false);
	return false;
}

static __always_inline void
follow_acknowledgement(const struct packet *packet, struct flow_value *flow, struct edge_value *edge)
{
	if (!flow->sampled_ns || !(packet->tcp_flags & TCP_ACK) ||
	    (__s32)(packet->acknowledged - flow->sampled_sequence) < 0)
		return;
	flow->rtt_us = (packet->now_ns - flow->sampled_ns) / 1000;
	flow->sampled_ns = 0;
	if (!edge)
		return;
	edge->rtt_us += flow->rtt_us;
	edge->rtt_samples++;
}

/* Returns whether the segment has been here before. */
static __always_inline bool
follow_connection(const struct packet *packet, struct flow_value *flow, struct edge_value *edge)
{
	follow_acknowledgement(packet, flow, edge);
	if (edge && (packet->tcp_flags & TCP_RST))
		edge->resets++;
	return follow_sequence(packet, flow, edge);
}

#endif
