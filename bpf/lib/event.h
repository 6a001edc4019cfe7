/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people see: one event for each flow that is let through and for each drop, and counters of drops.
 *
 * struct flow_event is also the record in which a verdict is worked out, so nothing is copied to report it. Source is
 * always the initiator of the flow, also if it is an answer that is dropped.
 */
#ifndef WHIT_EVENT_H
#define WHIT_EVENT_H

#include <linux/pkt_cls.h>

#include "drops.h"
#include "maps.h"
#include "packet.h"

static __always_inline void count_drop(enum drop_reason reason, __u8 hook, __u32 length)
{
	struct drop_key key = { .reason = reason, .hook = hook };
	struct drop_value *found = bpf_map_lookup_elem(&drops, &key);
	struct drop_value first = { .packets = 1, .bytes = length };

	if (found) {
		found->packets++;
		found->bytes += length;
	} else {
		bpf_map_update_elem(&drops, &key, &first, BPF_ANY);
	}
}

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

/* Neighbour discovery and its like, which hosts send without being asked: reports of it would drown all others. */
static __always_inline bool is_chatter(const struct packet *packet, enum drop_reason reason)
{
	return packet->multicast && (reason == DROP_UNSUPPORTED_PROTOCOL || reason == DROP_UNKNOWN_ENDPOINT);
}

/* The only end of a packet: counted, and reported unless it is chatter. */
static __noinline int drop_reported(const struct packet *packet, struct flow_event *event, enum drop_reason reason)
{
	count_drop(reason, packet->hook, packet->length);
	event->reason = reason;
	if (!is_chatter(packet, reason))
		report(event);
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
