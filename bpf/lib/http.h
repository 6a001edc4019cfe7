/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and answers of HTTP/1 (RFC 9112) in clear text, seen without a proxy: a segment from the initiator that begins
 * with a method is a request, one from the responder that begins with a status line its answer. One request of a
 * connection is followed at a time; of several that are sent without waiting, the first.
 */
#ifndef WHIT_HTTP_H
#define WHIT_HTTP_H

#include "conntrack.h"
#include "edge.h"

#define HTTP_SHORTEST 16 /* of bytes; a request line with the path "/" has as many */
#define STATUS_OFFSET 9
#define SWITCHING_PROTOCOLS 101

/* The first eight bytes of a payload as a number, and which of them a method's name and the space take. */
struct method_name {
	__u64 bytes;
	__u64 mask;
	__u8 length;
	__u8 method;
};

#define NAMED(a, b, c, d, e, f, g, h)                                                                                \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | (__u64)(f) << 40 |  \
	 (__u64)(g) << 48 | (__u64)(h) << 56)
#define FIRST(n) (~0ULL >> (64 - 8 * (n)))

static const struct method_name method_names[] = {
	{ NAMED('G', 'E', 'T', ' ', 0, 0, 0, 0), FIRST(4), 4, HTTP_GET },
	{ NAMED('P', 'O', 'S', 'T', ' ', 0, 0, 0), FIRST(5), 5, HTTP_POST },
	{ NAMED('P', 'U', 'T', ' ', 0, 0, 0, 0), FIRST(4), 4, HTTP_PUT },
	{ NAMED('H', 'E', 'A', 'D', ' ', 0, 0, 0), FIRST(5), 5, HTTP_HEAD },
	{ NAMED('D', 'E', 'L', 'E', 'T', 'E', ' ', 0), FIRST(7), 7, HTTP_DELETE },
	{ NAMED('P', 'A', 'T', 'C', 'H', ' ', 0, 0), FIRST(6), 6, HTTP_PATCH },
	{ NAMED('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '), FIRST(8), 8, HTTP_OPTIONS },
	{ NAMED('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '), FIRST(8), 8, HTTP_CONNECT },
	{ NAMED('T', 'R', 'A', 'C', 'E', ' ', 0, 0), FIRST(6), 6, HTTP_TRACE },
};
#define METHODS (sizeof(method_names) / sizeof(method_names[0]))

static __always_inline bool is_status_line(__u64 start)
{
	return (start & FIRST(7)) == NAMED('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

/* How many bytes of `path` are the path: up to the space before the version, or to where the query begins. */
static __always_inline __u8 path_length(const __u8 *path)
{
	for (__u32 i = 0; i < HTTP_PATH_BYTES; i++)
		if (path[i] == ' ' || path[i] == '?' || path[i] == '\r' || !path[i])
			return i;
	return HTTP_PATH_BYTES;
}

/* Read the path into the entry, where it has room; the stack has none. */
static __always_inline long read_path(const struct packet *packet, struct request_value *request, __u32 length)
{
	__u32 offset = packet->l4_offset + packet->l4_head + length;
	__u64 room = packet->l4_length - packet->l4_head - length;

	if (room > HTTP_PATH_BYTES)
		room = HTTP_PATH_BYTES;
	/* The same number, from 1 on, in a way that the verifier of Linux 6.1 follows; 0 becomes more than there is. */
	asm volatile("" : "+r"(room));
	room = ((room - 1) & (HTTP_PATH_BYTES - 1)) + 1;
	return bpf_skb_load_bytes(packet->skb, offset, request->path, room);
}

static __noinline void
remember_request(const struct packet *packet, const struct flow_value *flow, const struct method_name *name)
{
	static const struct request_value empty = {};
	struct flow_key way = opposite(&packet->tuple, flow);
	struct request_value *request;

	request = bpf_map_lookup_elem(&requests, &way);
	/* The first of several is the one that is answered first; but not one that an earlier connection left behind. */
	if (request && request->began_ns >= flow->began_ns)
		return;
	bpf_map_update_elem(&requests, &way, &empty, BPF_ANY);
	request = bpf_map_lookup_elem(&requests, &way);
	if (!request || read_path(packet, request, name->length))
		return;
	request->began_ns = packet->now_ns;
	request->method = name->method;
	request->path_length = path_length(request->path);
}

static __always_inline void report_answer(const struct packet *packet, const struct flow_value *flow,
					  const struct request_value *request, __u16 status, __u32 latency_us)
{
	struct http_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_drop(DROP_NONE, HOOK_LOST_EVENTS, sizeof(*event));
		return;
	}
	event->time_ns = packet->now_ns;
	event->kind = EVENT_HTTP;
	event->hook = packet->hook;
	event->status = status;
	event->ifindex = packet->skb->ifindex;
	event->source = initiator_of(packet, flow);
	event->destination = packet->tuple.source;
	event->source_port = packet->tuple.destination_port;
	event->destination_port = packet->tuple.source_port;
	event->method = request->method;
	event->path_length = request->path_length;
	event->pad = 0;
	event->source_identity = flow->initiator;
	event->destination_identity = flow->responder;
	event->latency_us = latency_us;
	event->pad2 = 0;
	__builtin_memcpy(event->path, request->path, HTTP_PATH_BYTES);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

/* 0: not three digits. */
static __always_inline __u16 status_at(const struct packet *packet, __u32 offset)
{
	__u8 digits[3];

	if (bpf_skb_load_bytes(packet->skb, offset, digits, sizeof(digits)))
		return 0;
	for (__u32 i = 0; i < sizeof(digits); i++)
		if (digits[i] < '0' || digits[i] > '9')
			return 0;
	return (digits[0] - '0') * 100 + (digits[1] - '0') * 10 + digits[2] - '0';
}

static __noinline void answer_request(const struct packet *packet, const struct flow_value *flow)
{
	__u16 status = status_at(packet, packet->l4_offset + packet->l4_head + STATUS_OFFSET);
	const struct request_value *request = bpf_map_lookup_elem(&requests, &packet->tuple);
	struct edge_value *edge;
	__u32 latency_us;

	/* "Continue" and its like come before the answer. */
	if (!request || request->began_ns < flow->began_ns || status < 100 || (status < 200 && status != SWITCHING_PROTOCOLS))
		return;
	latency_us = (packet->now_ns - request->began_ns) / 1000;
	edge = edge_of(packet, flow);
	if (edge)
		count_request(edge, status, latency_us);
	report_answer(packet, flow, request, status, latency_us);
	bpf_map_delete_elem(&requests, &packet->tuple);
}

/* Before the packet is translated: the entries are found by the tuples on the wire. */
static __noinline void follow_http(const struct packet *packet, const struct flow_value *flow)
{
	__u64 start;

	if (packet->l4_length < packet->l4_head + HTTP_SHORTEST ||
	    bpf_skb_load_bytes(packet->skb, packet->l4_offset + packet->l4_head, &start, sizeof(start)))
		return;
	if (flow->flags & FLOW_REPLY) {
		if (is_status_line(start))
			answer_request(packet, flow);
		return;
	}
	for (__u32 place = 0; place < METHODS; place++)
		if ((start & method_names[place].mask) == method_names[place].bytes) {
			remember_request(packet, flow, &method_names[place]);
			return;
		}
}

#endif
