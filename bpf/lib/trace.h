/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets of a tuple that stands in `traces` tell of each decision about them. User space enters the tuple as the
 * initiator sends it; the tuples that it becomes, and those of its answers, are entered on the way. As long as nothing
 * is traced it costs a comparison.
 */
#ifndef WHIT_TRACE_H
#define WHIT_TRACE_H

#include "drop.h"
#include "packet.h"

static __noinline void tell_hop(const struct packet *packet, __u8 step, __u32 a, __u32 b)
{
	struct hop_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, sizeof(*event));
		return;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->kind = EVENT_HOP;
	event->hook = packet->hook;
	event->reason = step == HOP_DROPPED ? a : 0;
	event->ifindex = packet->skb->ifindex;
	event->source = packet->tuple.source;
	event->destination = packet->tuple.destination;
	event->source_port = packet->tuple.source_port;
	event->destination_port = packet->tuple.destination_port;
	event->protocol = packet->tuple.protocol;
	event->step = step;
	event->pad = 0;
	event->trace = packet->trace;
	event->a = a;
	event->b = b;
	event->pad2 = 0;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline void hop(const struct packet *packet, __u8 step, __u32 a, __u32 b)
{
	if (packet->trace)
		tell_hop(packet, step, a, b);
}

/* What this packet does under another tuple, or its answer does, is told too. */
static __always_inline void trace_also(const struct packet *packet, const struct flow_key *tuple)
{
	if (packet->trace)
		bpf_map_update_elem(&traces, tuple, &packet->trace, BPF_ANY);
}

#endif
