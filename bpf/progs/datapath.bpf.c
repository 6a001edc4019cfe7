// SPDX-License-Identifier: Apache-2.0
/* The datapath: what every packet of an instance, and every packet for one, meets. */
#include <linux/errno.h>

#include "conntrack.h"
#include "config.h"
#include "deliver.h"
#include "event.h"
#include "icmp_error.h"
#include "packet.h"
#include "policy.h"
#include "rewrite.h"
#include "service.h"

char _license[] SEC("license") = "Apache-2.0";

static __always_inline void begin(struct opening *opening, const struct packet *packet, __u8 hook)
{
	opening->decision.hook = hook;
	opening->decision.service = packet->key.destination;
	opening->decision.service_port = packet->key.destination_port;
}

static __always_inline int refuse(struct __sk_buff *skb, const struct packet *packet, struct opening *opening, int reason)
{
	/* Neighbour discovery would fill the log: packets that are no IPv4 are only counted. */
	bool told = packet->kind != PACKET_IPV6 && packet->kind != PACKET_ARP;

	return drop(skb, told ? &packet->key : NULL, &opening->decision, reason);
}

static __always_inline struct policy_key ask(__u32 subject, __u32 peer, __u8 direction, const struct flow_key *key)
{
	struct policy_key question = {
		.prefix_length = POLICY_PREFIX_EXACT,
		.subject = subject,
		.peer = peer,
		.direction = direction,
		.protocol = key->protocol,
		.port = key->destination_port,
	};

	return question;
}

/* Ask both ends' policy about the flow after translation. Returns a drop reason, or DROP_NONE. */
static __noinline int judge_flow(const struct flow_key *key, struct decision *decision, bool egress, bool ingress)
{
	struct judgement judgement = {};
	struct policy_key question;

	if (!key || !decision)
		return DROP_INTERNAL;
	if (egress) {
		question = ask(decision->source_identity, decision->destination_identity, DIRECTION_EGRESS, key);
		judge(&question, &judgement);
		decision->egress_rule = judgement.rule;
		decision->flags |= judgement.audit ? POLICY_AUDIT : 0;
		if (!judgement.allowed)
			return DROP_POLICY_EGRESS;
	}
	if (ingress) {
		question = ask(decision->destination_identity, decision->source_identity, DIRECTION_INGRESS, key);
		judge(&question, &judgement);
		decision->ingress_rule = judgement.rule;
		decision->flags |= judgement.audit ? POLICY_AUDIT : 0;
		if (!judgement.allowed)
			return DROP_POLICY_INGRESS;
	}
	return DROP_NONE;
}

/* The policy has changed since the flow was let through: is it still? */
static __noinline int judge_again(struct __sk_buff *skb, const struct packet *packet, struct flow_value *flow, __u8 hook)
{
	struct decision decision = { .hook = hook };
	struct flow_key key;
	int reason;

	if (!packet || !flow)
		return DROP_INTERNAL;
	key = packet->key;
	key.destination_port = flow->policy_port;
	decision.service = packet->key.destination;
	decision.source_identity = flow->initiator;
	decision.destination_identity = flow->responder;
	reason = judge_flow(&key, &decision, !(flow->flags & FLOW_UPLINK), true);
	if (reason) {
		drop(skb, &packet->key, &decision, reason);
		bpf_map_delete_elem(&flows, &packet->key);
		return reason;
	}
	flow->egress_rule = decision.egress_rule;
	flow->ingress_rule = decision.ingress_rule;
	flow->generation = generation_now();
	return DROP_NONE;
}

/* To the destination. `uplink`: the link by which the other end, outside, is reached; 0 if it is not outside. */
static __noinline int deliver(struct __sk_buff *skb, const struct address *destination, __u32 uplink)
{
	struct endpoint_value *endpoint;

	if (!destination)
		return TC_ACT_SHOT;
	endpoint = redirect_peer ? endpoint_of(destination) : NULL;
	if (endpoint)
		return deliver_local(skb, endpoint);
	/* The host's stack would take such a reply for a martian: its source is an address of the host. */
	if (uplink)
		return bpf_redirect_neigh(uplink, NULL, 0, 0);
	return deliver_stack(skb);
}

/* A packet of a flow that was let through before. */
static __noinline int continue_flow(struct __sk_buff *skb, struct packet *packet, struct flow_value *flow, __u8 hook)
{
	struct address destination;
	enum side side;

	if (!packet || !flow)
		return TC_ACT_SHOT;
	if (flow->generation != generation_now() && judge_again(skb, packet, flow, hook))
		return TC_ACT_SHOT;
	touch_flow(skb, packet, flow);
	destination = packet->key.destination;
	if (flow->flags & FLOW_TRANSLATED) {
		side = flow->flags & FLOW_REPLY ? SIDE_SOURCE : SIDE_DESTINATION;
		if (side == SIDE_DESTINATION)
			destination = flow->translation;
		if (rewrite(skb, packet, side, &flow->translation, flow->translation_port)) {
			struct decision decision = { .hook = hook };

			return drop(skb, &packet->key, &decision, DROP_REWRITE_FAILED);
		}
	}
	if (hook == HOOK_TO_INSTANCE)
		return TC_ACT_OK;
	return deliver(skb, &destination, flow->flags & FLOW_REPLY ? flow->ifindex : 0);
}

/* Choose a backend for a new flow. Returns a drop reason, or DROP_NONE. */
static __always_inline int balance(const struct packet *packet, const struct frontend_value *frontend,
				   struct opening *opening)
{
	struct backend_value *backend = pick_backend(frontend, &opening->backend);

	if (!backend)
		return DROP_NO_BACKEND;
	opening->translation = backend->address;
	opening->translation_port = backend->port ? backend->port : packet->key.destination_port;
	opening->flags |= FLOW_TRANSLATED;
	return DROP_NONE;
}

/* The first packet of a flow: ask policy, remember, tell, translate. Returns a drop reason, or DROP_NONE. */
static __noinline int open_flow(struct __sk_buff *skb, const struct packet *packet, struct opening *opening, bool egress)
{
	struct flow_key key;
	int reason;

	if (!packet || !opening)
		return DROP_INTERNAL;
	key = packet->key;
	if (opening->flags & FLOW_TRANSLATED) {
		key.destination = opening->translation;
		key.destination_port = opening->translation_port;
	}
	opening->decision.destination_identity = identity_of(&key.destination);
	reason = judge_flow(&key, &opening->decision, egress, !egress || endpoint_of(&key.destination));
	if (!reason && remember_flow(&packet->key, opening))
		reason = DROP_CONNTRACK_FULL;
	if (reason) {
		drop(skb, &key, &opening->decision, reason);
		return reason;
	}
	opening->decision.verdict = VERDICT_ALLOW;
	emit(skb, &key, &opening->decision);
	if ((opening->flags & FLOW_TRANSLATED) &&
	    rewrite(skb, packet, SIDE_DESTINATION, &opening->translation, opening->translation_port)) {
		drop(skb, &key, &opening->decision, DROP_REWRITE_FAILED);
		return DROP_REWRITE_FAILED;
	}
	return DROP_NONE;
}

static __always_inline bool in_pool(const struct address *address)
{
	return pool_mask && (bpf_ntohl(address->words[3]) & pool_mask) == pool;
}

/* An instance, or an address of the node. Nobody else has an address of the pool, whatever policy says of the world. */
static __always_inline bool is_reachable_in_pool(const struct address *address)
{
	__u32 identity;

	if (endpoint_of(address))
		return true;
	identity = identity_of(address);
	return identity == IDENTITY_HOST || identity == IDENTITY_RESOLVER;
}

static __noinline int open_from_instance(struct __sk_buff *skb, const struct packet *packet, struct opening *opening)
{
	const struct frontend_value *frontend;
	struct address destination;
	int reason;

	if (!packet || !opening)
		return TC_ACT_SHOT;
	destination = packet->key.destination;
	frontend = frontend_of_service(&packet->key);
	if (frontend) {
		reason = balance(packet, frontend, opening);
		if (reason)
			return refuse(skb, packet, opening, reason);
		destination = opening->translation;
	} else if (in_pool(&destination) && !is_reachable_in_pool(&destination)) {
		return refuse(skb, packet, opening, DROP_UNKNOWN_ENDPOINT);
	}
	if (open_flow(skb, packet, opening, true))
		return TC_ACT_SHOT;
	return deliver(skb, &destination, 0);
}

/* Only counted if it is dropped: the flow's own packets have told the story. */
static __noinline int pass_error(struct __sk_buff *skb, const struct packet *packet, __u8 hook)
{
	struct decision decision = { .hook = hook };
	int reason;

	if (!packet)
		return TC_ACT_SHOT;
	reason = relate_error(skb, packet);
	if (reason)
		return drop(skb, NULL, &decision, reason);
	return hook == HOOK_FROM_INSTANCE ? deliver(skb, &packet->key.destination, 0) : TC_ACT_OK;
}

/* Address, MAC and link must all be the endpoint's. ARP says address and MAC a second time; those are looked at. */
static __always_inline bool is_sent_by(const struct packet *packet, __u32 ifindex, const struct endpoint_value *endpoint)
{
	int i;

	if (endpoint->ifindex != ifindex)
		return false;
	for (i = 0; i < ETH_ALEN; i++) {
		if (packet->source_mac[i] != endpoint->mac[i])
			return false;
	}
	return true;
}

SEC("tc")
int from_instance(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct opening opening = {};
	struct endpoint_value *endpoint;
	struct flow_value *flow;
	int reason = parse(skb, &packet);

	begin(&opening, &packet, HOOK_FROM_INSTANCE);
	if (reason)
		return refuse(skb, &packet, &opening, reason);
	endpoint = endpoint_of(&packet.key.source);
	if (!endpoint || !is_sent_by(&packet, skb->ifindex, endpoint))
		return refuse(skb, &packet, &opening, DROP_SPOOFED_ADDRESS);
	if (packet.kind == PACKET_ARP)
		return TC_ACT_OK;
	if (packet.kind == PACKET_ICMP_ERROR)
		return pass_error(skb, &packet, HOOK_FROM_INSTANCE);
	flow = find_flow(&packet);
	if (flow)
		return continue_flow(skb, &packet, flow, HOOK_FROM_INSTANCE);
	opening.decision.source_identity = endpoint->identity;
	return open_from_instance(skb, &packet, &opening);
}

SEC("tc")
int to_instance(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct opening opening = {};
	struct flow_value *flow;
	int reason = parse(skb, &packet);

	begin(&opening, &packet, HOOK_TO_INSTANCE);
	if (reason)
		return refuse(skb, &packet, &opening, reason);
	if (packet.kind == PACKET_ARP)
		return TC_ACT_OK;
	if (packet.kind == PACKET_ICMP_ERROR)
		return pass_error(skb, &packet, HOOK_TO_INSTANCE);
	flow = find_flow(&packet);
	if (flow)
		return continue_flow(skb, &packet, flow, HOOK_TO_INSTANCE);
	opening.decision.source_identity = identity_of(&packet.key.source);
	return open_flow(skb, &packet, &opening, false) ? TC_ACT_SHOT : TC_ACT_OK;
}

/* Who is outside has none of our addresses: neither an instance's nor the node's. */
static __always_inline bool is_forged(const struct packet *packet, __u32 identity)
{
	if (packet->kind == PACKET_ARP)
		return false;
	return in_pool(&packet->key.source) || identity == IDENTITY_HOST || identity == IDENTITY_RESOLVER;
}

SEC("tc")
int from_uplink(struct __sk_buff *skb)
{
	const struct frontend_value *frontend;
	struct packet packet = {};
	struct opening opening = {};
	struct flow_value *flow;
	int reason = parse(skb, &packet);

	begin(&opening, &packet, HOOK_FROM_UPLINK);
	opening.decision.source_identity = identity_of(&packet.key.source);
	if (is_forged(&packet, opening.decision.source_identity))
		return refuse(skb, &packet, &opening, DROP_SPOOFED_ADDRESS);
	/* What we do not balance is the host's. */
	if (reason || packet.kind != PACKET_FLOW)
		return TC_ACT_OK;
	if (packet.key.protocol != IPPROTO_TCP && packet.key.protocol != IPPROTO_UDP)
		return TC_ACT_OK;
	flow = find_flow(&packet);
	if (flow)
		return flow->flags & FLOW_TRANSLATED ? continue_flow(skb, &packet, flow, HOOK_FROM_UPLINK) : TC_ACT_OK;
	if (identity_of(&packet.key.destination) != IDENTITY_HOST || (packet.key.protocol == IPPROTO_TCP && !packet.syn))
		return TC_ACT_OK;
	frontend = frontend_of_node(&packet.key);
	if (!frontend)
		return TC_ACT_OK;
	opening.flags = FLOW_UPLINK;
	opening.ifindex = skb->ifindex;
	if (balance(&packet, frontend, &opening))
		return refuse(skb, &packet, &opening, DROP_NO_BACKEND);
	if (open_flow(skb, &packet, &opening, false))
		return TC_ACT_SHOT;
	return deliver(skb, &opening.translation, 0);
}

/* ---- processes of the host: their connect() goes straight to a backend ---- */

static __always_inline bool of_the_host(struct bpf_sock_addr *ctx)
{
	return netns_cookie && bpf_get_netns_cookie(ctx) == netns_cookie;
}

/* Rewrites where the socket goes. Returns 0 if the service has no backend, else 1. */
static __always_inline int balance_socket(struct bpf_sock_addr *ctx)
{
	struct flow_key key = {
		.destination = address_of(ctx->user_ip4),
		.destination_port = (__be16)ctx->user_port,
		.protocol = ctx->protocol,
	};
	struct socket_value asked = { .address = key.destination, .port = key.destination_port };
	const struct frontend_value *frontend = NULL;
	struct backend_value *backend;
	__u64 cookie;
	__u32 id;

	if (identity_of(&key.destination) == IDENTITY_HOST)
		frontend = frontend_of_node(&key);
	if (!frontend)
		frontend = frontend_of_service(&key);
	if (!frontend)
		return 1;
	backend = pick_backend(frontend, &id);
	if (!backend)
		return 0;
	cookie = bpf_get_socket_cookie(ctx);
	bpf_map_update_elem(&sockets, &cookie, &asked, BPF_ANY);
	ctx->user_ip4 = backend->address.words[3];
	ctx->user_port = backend->port ? backend->port : key.destination_port;
	return 1;
}

/* Gives the process the address that it asked for. */
static __always_inline void restore_address(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct socket_value *asked = bpf_map_lookup_elem(&sockets, &cookie);

	if (!asked)
		return;
	ctx->user_ip4 = asked->address.words[3];
	ctx->user_port = asked->port;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	if (!of_the_host(ctx) || balance_socket(ctx))
		return 1;
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	if (!of_the_host(ctx) || balance_socket(ctx))
		return 1;
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	if (of_the_host(ctx))
		restore_address(ctx);
	return 1;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	if (of_the_host(ctx))
		restore_address(ctx);
	return 1;
}
