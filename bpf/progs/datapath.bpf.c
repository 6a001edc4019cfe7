/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datapath: what happens to each packet of an instance, and to each that comes from outside. Each program reads as
 * its pipeline; the steps are in lib/, one header for each job.
 *
 * TC_ACT_OK ends what is attached to a link. From a link of the host, a packet that is none of ours goes on to the next
 * program there (TC_ACT_UNSPEC): another agent's, or somebody else's.
 */
#include "config.h"
#include "maps.h"

#include "answer.h"
#include "conntrack.h"
#include "deliver.h"
#include "event.h"
#include "fragment.h"
#include "http.h"
#include "icmp_error.h"
#include "identity.h"
#include "limit.h"
#include "mtu.h"
#include "parse.h"
#include "rewrite.h"
#include "service.h"
#include "socket.h"
#include "tcp.h"
#include "warm.h"

char LICENSE[] SEC("license") = "Apache-2.0";

/* The service behind a destination, if it is one that this hook looks for. */
static __always_inline const struct frontend_value *asked_for(const struct packet *packet)
{
	const struct flow_key *asked = &packet->tuple;
	__u32 identity;

	if (packet->hook == HOOK_TO_INSTANCE)
		return NULL;
	identity = identity_of(&asked->destination);
	/* From outside only the node's own addresses are asked. */
	if (packet->hook == HOOK_FROM_UPLINK && identity != IDENTITY_HOST)
		return NULL;
	return frontend_of(&asked->destination, asked->destination_port, asked->protocol, identity);
}

/* Put the backend that is to answer into `event`. */
static __always_inline enum drop_reason
balance(const struct packet *packet, const struct frontend_value *frontend, struct flow_event *event, __u32 *number)
{
	const struct backend_value *backend;

	*number = pick_backend(frontend, &packet->tuple);
	backend = bpf_map_lookup_elem(&backends, number);
	if (!backend || !is_same_family(&backend->address, &packet->tuple.destination))
		return DROP_NO_BACKEND;
	event->destination = backend->address;
	if (backend->port && translates_ports(packet->tuple.protocol))
		event->destination_port = backend->port;
	return DROP_NONE;
}

/* Counted and reported as dropped here; answered by the caller, whose stack has room for that. */
static __always_inline int refuse(struct packet *packet, struct flow_event *event, enum drop_reason reason)
{
	packet->refused = 1;
	return drop_reported(packet, event, reason);
}

/* The first packet of a flow: who asks whom, may it, remember, tell. TC_ACT_OK if so, else the packet's end. */
static __noinline int admit(struct packet *packet)
{
	const struct frontend_value *frontend = asked_for(packet);
	__u32 backend = 0;
	struct flow_event event = {};
	enum drop_reason reason;

	describe(packet, &event);
	if (frontend && balance(packet, frontend, &event, &backend))
		return refuse(packet, &event, DROP_NO_BACKEND);
	if (!event.source_identity)
		event.source_identity = identity_of(&event.source);
	event.destination_identity = identity_of(&event.destination);
	if (leads_nowhere(&event.destination, event.destination_identity))
		return drop_reported(packet, &event, DROP_UNKNOWN_ENDPOINT);
	if (backend)
		hop(packet, HOP_SERVICE, frontend ? frontend->service : 0, backend);
	reason = judge(&event, policy_port(&event));
	tell_judged(packet, &event, reason);
	if (!reason)
		reason = remember(packet, &event, backend);
	if (reason)
		return drop_reported(packet, &event, reason);
	hop(packet, HOP_REMEMBERED, 0, 0);
	report(&event);
	return TC_ACT_OK;
}

/* A connection cannot go on with another backend, and is told. */
static __noinline int refuse_lost(struct packet *packet, const struct flow_value *flow)
{
	struct flow_event event = {};

	describe_flow(packet, flow, &event);
	return refuse(packet, &event, DROP_BACKEND_GONE);
}

/* The entry of the packet's flow, made if this is its first packet. NULL: the packet has met its end, in `end`. */
static __always_inline struct flow_value *known_or_admitted(struct packet *packet, int *end)
{
	struct flow_value *flow = flow_of(packet);

	if (flow && !begins_anew(packet, flow)) {
		if (packet->trace)
			trace_opposite(packet, flow);
		hop(packet, HOP_KNOWN, flow->flags, 0);
		if (flow->generation == packet->generation)
			return flow;
		if (!has_lost_backend(flow)) {
			*end = recheck(packet, flow);
			return *end == TC_ACT_OK ? flow : NULL;
		}
		if (packet->tuple.protocol == IPPROTO_TCP && !is_syn(packet)) {
			*end = refuse_lost(packet, flow);
			return NULL;
		}
	}
	*end = admit(packet);
	if (*end != TC_ACT_OK)
		return NULL;
	flow = flow_of(packet);
	if (!flow)
		*end = drop(packet, DROP_CONNTRACK_FULL);
	return flow;
}

/* What goes by of a connection, for those who look. */
static __noinline void observe(const struct packet *packet, struct flow_value *flow, struct edge_value *edge)
{
	bool again = follow_connection(packet, flow, edge);

	/* What is sent again was seen already, and may be answered by now. */
	if (observe_http && !again)
		follow_http(packet, flow);
}

/* Count, translate, and send on its way. */
static __always_inline int forward(struct packet *packet, struct flow_value *flow)
{
	__u32 mtu = exceeded_mtu(packet, flow);
	enum drop_reason reason = DROP_NONE;
	struct edge_value *edge;

	/* The stack would not take from us what has the node's own address as its source: that is answered, DF or not. */
	if (mtu && (packet->dont_fragment || uplink_of(flow)))
		return refuse_size(packet, mtu);
	packet->through_stack = !!mtu;
	edge = touch(packet, flow);
	if (packet->tuple.protocol == IPPROTO_TCP && packet->l4_head)
		observe(packet, flow, edge);
	if (flow->flags & FLOW_TRANSLATED) {
		reason = translate(packet, flow);
		trace_also(packet, &packet->tuple);
		hop(packet, HOP_TRANSLATED, 0, 0);
	}
	if (reason)
		return drop(packet, reason);
	return packet->hook == HOOK_TO_INSTANCE ? TC_ACT_OK : deliver(packet, uplink_of(flow));
}

/* An ICMP error goes the way of the flow that it is about. */
static __noinline int forward_error(struct packet *packet)
{
	struct carried carried = {};
	const struct flow_value *flow = flow_of_error(packet, &carried);
	enum drop_reason reason;

	if (!flow)
		return packet->hook == HOOK_FROM_UPLINK ? TC_ACT_UNSPEC : drop(packet, DROP_UNRELATED_ERROR);
	reason = translate_error(packet, &carried, flow);
	if (reason)
		return drop(packet, reason);
	return packet->hook == HOOK_TO_INSTANCE ? TC_ACT_OK : deliver(packet, uplink_of(flow));
}

static __always_inline int forward_flow(struct packet *packet)
{
	enum drop_reason reason = packet->fragment ? follow_fragment(packet) : DROP_NONE;
	int end = TC_ACT_OK;
	struct flow_value *flow;

	if (reason)
		return drop(packet, reason);
	if (packet->kind == PACKET_ICMP_ERROR)
		return forward_error(packet);
	recall_state(packet);
	flow = known_or_admitted(packet, &end);
	if (packet->refused)
		return tell_refused(packet, end);
	return flow ? forward(packet, flow) : end;
}

SEC("tc")
int from_instance(struct __sk_buff *skb)
{
	struct packet packet = begin(skb, HOOK_FROM_INSTANCE);
	enum drop_reason reason = parse(&packet);

	skb->tc_index = 0;
	if (reason)
		return drop(&packet, reason);
	if (packet.kind == PACKET_NEIGHBOUR)
		return is_own_neighbour(&packet) ? TC_ACT_OK : drop(&packet, DROP_SPOOFED_ADDRESS);
	if (!is_own_address(&packet))
		return drop(&packet, DROP_SPOOFED_ADDRESS);
	if (exceeds_limit(&packet))
		return drop(&packet, DROP_BANDWIDTH);
	return forward_flow(&packet);
}

/* A packet that was judged where it came from goes by once more: nothing is left to do but to tell it. */
static __noinline int pass_judged(struct packet *packet)
{
	if (is_tracing() && !parse(packet))
		recall_state(packet);
	return TC_ACT_OK;
}

SEC("tc")
int to_instance(struct __sk_buff *skb)
{
	struct packet packet = begin(skb, HOOK_TO_INSTANCE);
	struct endpoint_value *endpoint;
	enum drop_reason reason;
	int end;

	if (skb->tc_index == TC_INDEX_JUDGED)
		return pass_judged(&packet);
	reason = parse(&packet);
	if (reason)
		return drop(&packet, reason);
	if (packet.kind == PACKET_NEIGHBOUR)
		return TC_ACT_OK;
	endpoint = endpoint_of(&packet.tuple.destination);
	if (!endpoint)
		return drop(&packet, DROP_UNKNOWN_ENDPOINT);
	end = forward_flow(&packet);
	if (end == TC_ACT_OK && (endpoint->flags & ENDPOINT_WARM) && knock(&packet, endpoint))
		return drop(&packet, DROP_HELD);
	return end;
}

/* Of what comes from outside, only flows to services are ours; the rest is the stack's, and to_instance's after it. */
static __noinline bool is_ours(struct packet *packet)
{
	const struct flow_value *flow = flow_of(packet);

	if (packet->tuple.protocol != IPPROTO_TCP && packet->tuple.protocol != IPPROTO_UDP)
		return false;
	if (flow && !begins_anew(packet, flow))
		return (flow->flags & (FLOW_UPLINK | FLOW_REPLY)) == FLOW_UPLINK;
	if (packet->tuple.protocol == IPPROTO_TCP && !is_syn(packet))
		return false;
	return asked_for(packet);
}

/* Nobody outside has an address of the node; past the stack, nothing else would notice. */
static __noinline bool is_forged(struct packet *packet)
{
	packet->identity = identity_of(&packet->tuple.source);
	return packet->identity == IDENTITY_HOST || packet->identity == IDENTITY_RESOLVER;
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	struct packet packet = begin(skb, HOOK_FROM_UPLINK);

	skb->tc_index = 0;
	if (skb->pkt_type != PACKET_TO_US || parse(&packet) || packet.kind == PACKET_NEIGHBOUR)
		return TC_ACT_UNSPEC;
	if (in_pool(&packet.tuple.source))
		return drop(&packet, DROP_SPOOFED_ADDRESS);
	if (packet.kind == PACKET_ICMP_ERROR)
		return forward_error(&packet);
	if (packet.fragment && follow_fragment(&packet))
		return TC_ACT_UNSPEC;
	if (!is_ours(&packet))
		return TC_ACT_UNSPEC;
	if (is_forged(&packet))
		return drop(&packet, DROP_SPOOFED_ADDRESS);
	return forward_flow(&packet);
}

/* The way back of a flow from outside to a backend that is no instance, whose answers come by the stack. */
static __noinline struct flow_value *answered(const struct packet *packet)
{
	const __u16 wanted = FLOW_UPLINK | FLOW_REPLY | FLOW_TRANSLATED;
	struct flow_value *flow = flow_of(packet);

	if (!flow || (flow->flags & wanted) != wanted)
		return NULL;
	if (packet->tuple.protocol != IPPROTO_TCP)
		return is_over(packet, flow) ? NULL : flow;
	if (!(packet->tcp_flags & TCP_SYN) || !(flow->flags & FLOW_CLOSING))
		return flow;
	/* The client's port again, with which it has asked the backend itself. */
	forget(packet, flow);
	return NULL;
}

/* An error about a packet of such a flow; those about all others are the stack's. */
static __noinline int answer_with_error(struct packet *packet)
{
	struct carried carried = {};
	const struct flow_value *flow = flow_of_error(packet, &carried);

	if (!flow || (flow->flags & (FLOW_UPLINK | FLOW_REPLY)) != (FLOW_UPLINK | FLOW_REPLY))
		return TC_ACT_UNSPEC;
	return translate_error(packet, &carried, flow) ? drop(packet, DROP_REWRITE_FAILED) : TC_ACT_UNSPEC;
}

/* An answer comes from whom the client asked. */
static __noinline int answer_outside(struct packet *packet, struct flow_value *flow)
{
	struct edge_value *edge = touch(packet, flow);

	if (packet->tuple.protocol == IPPROTO_TCP && packet->l4_head)
		observe(packet, flow, edge);
	if (translate(packet, flow))
		return drop(packet, DROP_REWRITE_FAILED);
	trace_also(packet, &packet->tuple);
	hop(packet, HOP_TRANSLATED, 0, 0);
	hop(packet, HOP_OUTSIDE, packet->skb->ifindex, 0);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int to_uplink(struct __sk_buff *skb)
{
	struct packet packet = begin(skb, HOOK_TO_UPLINK);
	struct flow_value *flow;

	if (skb->tc_index == TC_INDEX_JUDGED || parse(&packet) || packet.kind == PACKET_NEIGHBOUR)
		return TC_ACT_UNSPEC;
	if (packet.kind == PACKET_ICMP_ERROR)
		return answer_with_error(&packet);
	if (packet.fragment && follow_fragment(&packet))
		return TC_ACT_UNSPEC;
	flow = answered(&packet);
	if (!flow)
		return TC_ACT_UNSPEC;
	recall_state(&packet);
	return answer_outside(&packet, flow);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return balance_socket(ctx, false);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return balance_socket(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_socket(ctx, false);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore_socket(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return balance_socket(ctx, true);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return balance_socket(ctx, true);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_socket(ctx, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore_socket(ctx, true);
}
