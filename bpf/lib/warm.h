/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances that sleep while nobody asks for them. Where a packet is to be handed to one, user space is told by the
 * control ring. A frozen one gets its packet: its own kernel queues it, and answers a SYN. Of one that has no process
 * (ENDPOINT_HELD) the kernel would refuse: user space gets the packet as it would have been delivered, and delivers it
 * once somebody listens. It is judged, remembered and translated by then, and not judged again.
 */
#ifndef WHIT_WARM_H
#define WHIT_WARM_H

#include "conntrack.h"
#include "maps.h"

/* The kernel of the instance answers ICMP by itself, and resets what belongs to no connection. */
static __always_inline bool is_knock(const struct packet *packet, const struct endpoint_value *endpoint)
{
	if (packet->tuple.protocol == IPPROTO_ICMP || packet->tuple.protocol == IPPROTO_ICMPV6)
		return false;
	if (endpoint->flags & ENDPOINT_HELD)
		return packet->tuple.protocol != IPPROTO_TCP || is_syn(packet);
	return endpoint->flags & ENDPOINT_ASLEEP;
}

/* The whole packet, if it fits; its length is 0 otherwise. */
static __always_inline void enclose(const struct packet *packet, struct wake_event *event)
{
	__u64 length = packet->skb->len;

	/* The verifier loses the bounds of what the compiler has folded into one comparison. */
	asm volatile("" : "+r"(length));
	if (length < ETH_HLEN || length > HELD_BYTES)
		return;
	if (!bpf_skb_load_bytes(packet->skb, 0, event->packet, length))
		event->length = length;
}

static __noinline bool tell_knock(const struct packet *packet, const struct endpoint_value *endpoint)
{
	struct wake_event *event = bpf_ringbuf_reserve(&control, sizeof(*event), 0);

	if (!event) {
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, sizeof(*event));
		return false;
	}
	event->time_ns = packet->now_ns;
	event->kind = EVENT_WAKE;
	event->hook = packet->hook;
	event->length = 0;
	event->ifindex = endpoint->ifindex;
	if (endpoint->flags & ENDPOINT_HELD)
		enclose(packet, event);
	bpf_ringbuf_submit(event, BPF_RB_FORCE_WAKEUP);
	return true;
}

/* For each packet to an instance that may sleep. True: it is not to be delivered now. */
static __noinline bool knock(const struct packet *packet, struct endpoint_value *endpoint)
{
	__u64 *last = bpf_map_lookup_elem(&activity, &endpoint->ifindex);
	bool held = endpoint->flags & ENDPOINT_HELD;

	if (last)
		*last = packet->now_ns;
	if (!is_knock(packet, endpoint))
		return false;
	/* Once is enough, until user space sets the flag again; if there was no room, the next packet says it. */
	if (tell_knock(packet, endpoint) && !held)
		endpoint->flags &= ~ENDPOINT_ASLEEP;
	return held;
}

#endif
