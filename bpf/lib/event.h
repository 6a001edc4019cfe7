/* SPDX-License-Identifier: Apache-2.0 */
/* Telling user space: one event per connection verdict, and counters of every drop. */
#ifndef WHIT_EVENT_H
#define WHIT_EVENT_H

#include <linux/pkt_cls.h>
#include "maps.h"
#include "packet.h"

/* What was decided about a packet, as far as it is known. */
struct decision {
	struct address service; /* what the initiator asked for */
	__be16 service_port;
	__u8 hook;
	__u8 flags;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 egress_rule;
	__u32 ingress_rule;
	__u16 reason;
	__u8 verdict;
	__u8 pad;
};

static __always_inline void count_drop(__u16 reason, __u8 hook, __u32 length)
{
	struct drop_key key = { .reason = reason, .hook = hook };
	struct drop_value *value = bpf_map_lookup_elem(&drops, &key);
	struct drop_value first = { .packets = 1, .bytes = length };

	if (value) {
		value->packets += 1;
		value->bytes += length;
		return;
	}
	bpf_map_update_elem(&drops, &key, &first, BPF_NOEXIST);
}

static __noinline void emit(struct __sk_buff *skb, const struct flow_key *key, const struct decision *decision)
{
	struct flow_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, 0);
		return;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->source = key->source;
	event->destination = key->destination;
	event->service = decision->service;
	event->source_port = key->source_port;
	event->destination_port = key->destination_port;
	event->service_port = decision->service_port;
	event->protocol = key->protocol;
	event->verdict = decision->verdict;
	event->source_identity = decision->source_identity;
	event->destination_identity = decision->destination_identity;
	event->egress_rule = decision->egress_rule;
	event->ingress_rule = decision->ingress_rule;
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->reason = decision->reason;
	event->hook = decision->hook;
	event->flags = decision->flags;
	event->pad = 0;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* The only place where a packet ends. */
static __noinline int drop(struct __sk_buff *skb, const struct flow_key *key, struct decision *decision, __u16 reason)
{
	decision->reason = reason;
	decision->verdict = VERDICT_DENY;
	count_drop(reason, decision->hook, skb->len);
	if (key)
		emit(skb, key, decision);
	return TC_ACT_SHOT;
}

#endif
