/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people see: one event for each flow that is let through and for each drop.
 *
 * struct flow_event is also the record in which a verdict is worked out, so nothing is copied to report it. Source is
 * always the initiator of the flow, also if it is an answer that is dropped.
 */
#ifndef WHIT_EVENT_H
#define WHIT_EVENT_H

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>

#include "drop.h"
#include "edge.h"
#include "maps.h"
#include "packet.h"
#include "trace.h"

/* A ring that is full loses the event, never the packet. */
static __always_inline void report(struct flow_event *event)
{
	event->time_ns = bpf_ktime_get_ns();
	event->kind = EVENT_FLOW;
	event->verdict = event->reason ? VERDICT_DENY : VERDICT_ALLOW;
	if (bpf_ringbuf_output(&events, event, sizeof(*event), BPF_RB_NO_WAKEUP))
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, sizeof(*event));
}

/* What the packet alone tells: nothing is translated, nobody has ruled. */
static __always_inline void describe(const struct packet *packet, struct flow_event *event)
{
	event->source = packet->tuple.source;
	event->destination = packet->tuple.destination;
	event->service = packet->tuple.destination;
	event->source_port = packet->tuple.source_port;
	event->destination_port = packet->tuple.destination_port;
	event->service_port = packet->tuple.destination_port;
	event->protocol = packet->tuple.protocol;
	event->icmp_type = packet->icmp_type;
	event->icmp_code = packet->icmp_code;
	event->source_identity = packet->identity;
	event->ifindex = packet->skb->ifindex;
	event->length = packet->length;
	event->hook = packet->hook;
}

/* What policy is asked about: the port, or the type and code of ICMP; other protocols have nothing of the kind. */
static __always_inline __be16 policy_port(const struct flow_event *event)
{
	switch (event->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return event->destination_port;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return bpf_htons(event->icmp_type << 8 | event->icmp_code);
	default:
		return 0;
	}
}

/*
 * Neighbour discovery and its like, which hosts send without being asked: reports of it would drown all others. What is
 * held was reported as let through.
 */
static __always_inline bool is_chatter(const struct packet *packet, enum drop_reason reason)
{
	if (reason == DROP_HELD)
		return true;
	return packet->multicast && (reason == DROP_UNSUPPORTED_PROTOCOL || reason == DROP_UNKNOWN_ENDPOINT);
}

/* The only end of a packet: counted, and reported unless it is chatter. */
static __noinline int drop_reported(const struct packet *packet, struct flow_event *event, enum drop_reason reason)
{
	count_drop(reason, packet->hook, packet->length);
	hop(packet, HOP_DROPPED, reason, 0);
	if (reason == DROP_POLICY_EGRESS || reason == DROP_POLICY_INGRESS)
		count_denied(event, policy_port(event));
	event->reason = reason;
	if (!is_chatter(packet, reason))
		report(event);
	/*
	 * A sender on this node that hears of a drop takes it for its own queue being full, tries every 0.5 s and gives up
	 * after 6 s (tcp_retransmit_timer). Sent to a link that there is not, it is gone without a word; TCX knows no
	 * TC_ACT_STOLEN.
	 */
	if (reason == DROP_HELD)
		return bpf_redirect(0, 0);
	return TC_ACT_SHOT;
}

/* For what is dropped before there was a verdict to work out. */
static __noinline int drop(const struct packet *packet, enum drop_reason reason)
{
	struct flow_event event = {};

	describe(packet, &event);
	return drop_reported(packet, &event, reason);
}

#endif
