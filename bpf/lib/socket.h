/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of the node itself are balanced where they name an address: their packets then go straight to a backend,
 * where to_instance asks policy. A socket that its process bound to a loopback address beforehand keeps it, and is not
 * answered. An unconnected UDP socket that asks several services gets back only the address of the last one; answers of
 * the others come from their backends.
 */
#ifndef WHIT_SOCKET_H
#define WHIT_SOCKET_H

#include <linux/errno.h>
#include <linux/in.h>

#include "event.h"
#include "identity.h"
#include "service.h"

#define SOCKET_PROCEED 1
#define SOCKET_REFUSE 0

static __always_inline bool is_of_node(struct bpf_sock_addr *ctx)
{
	return netns_cookie && bpf_get_netns_cookie(ctx) == netns_cookie;
}

/* The peer that the hook speaks of. `ipv6` is the socket's family: its peer may be v4-mapped. */
static __always_inline struct address peer_of(struct bpf_sock_addr *ctx, bool ipv6)
{
	struct address peer;

	if (ipv6) {
		peer.words[0] = ctx->user_ip6[0];
		peer.words[1] = ctx->user_ip6[1];
		peer.words[2] = ctx->user_ip6[2];
		peer.words[3] = ctx->user_ip6[3];
	} else {
		set_ipv4(&peer, ctx->user_ip4);
	}
	return peer;
}

static __always_inline void
set_peer(struct bpf_sock_addr *ctx, bool ipv6, const struct address *peer, __be16 port)
{
	if (ipv6) {
		ctx->user_ip6[0] = peer->words[0];
		ctx->user_ip6[1] = peer->words[1];
		ctx->user_ip6[2] = peer->words[2];
		ctx->user_ip6[3] = peer->words[3];
	} else {
		ctx->user_ip4 = peer->words[3];
	}
	ctx->user_port = port;
}

static __noinline int refuse_socket(struct bpf_sock_addr *ctx, const struct socket_value *asked, __u32 identity)
{
	struct flow_event event = {
		.destination = asked->address,
		.service = asked->address,
		.destination_port = asked->port,
		.service_port = asked->port,
		.protocol = ctx->protocol,
		.source_identity = IDENTITY_HOST,
		.destination_identity = identity,
		.reason = DROP_NO_BACKEND,
		.hook = HOOK_SOCKET,
	};

	event.source = asked->address;
	set_any(&event.source);
	count_drop(DROP_NO_BACKEND, HOOK_SOCKET, 0);
	report(&event);
	bpf_set_retval(-ECONNREFUSED);
	return SOCKET_REFUSE;
}

/* Sends a socket that asks for a service to a backend instead, and keeps what it asked for. */
static __always_inline int balance_socket(struct bpf_sock_addr *ctx, bool ipv6)
{
	struct socket_value socket = { .address = peer_of(ctx, ipv6), .port = ctx->user_port };
	struct flow_key asker = { .protocol = ctx->protocol };
	const struct frontend_value *frontend;
	const struct backend_value *backend;
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 identity, number;

	if (!is_of_node(ctx) || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return SOCKET_PROCEED;
	identity = identity_of(&socket.address);
	frontend = frontend_of(&socket.address, socket.port, ctx->protocol, identity);
	if (!frontend)
		return SOCKET_PROCEED;
	/* It has no address yet: its namespace stands for it. */
	asker.source.words[2] = netns_cookie >> 32;
	asker.source.words[3] = netns_cookie;
	number = pick_backend(frontend, &asker);
	backend = bpf_map_lookup_elem(&backends, &number);
	if (!backend || !is_same_family(&backend->address, &socket.address))
		return refuse_socket(ctx, &socket, identity);
	socket.backend = backend->address;
	socket.backend_port = backend->port ? backend->port : socket.port;
	bpf_map_update_elem(&sockets, &cookie, &socket, BPF_ANY);
	set_peer(ctx, ipv6, &socket.backend, socket.backend_port);
	return SOCKET_PROCEED;
}

/* Shows a process the address that it asked for, where the kernel names the backend. */
static __always_inline int restore_socket(struct bpf_sock_addr *ctx, bool ipv6)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	const struct socket_value *socket = bpf_map_lookup_elem(&sockets, &cookie);
	struct address peer = peer_of(ctx, ipv6);

	if (!is_of_node(ctx) || !socket || !same_address(&socket->backend, &peer) ||
	    socket->backend_port != (__be16)ctx->user_port)
		return SOCKET_PROCEED;
	set_peer(ctx, ipv6, &socket->address, socket->port);
	return SOCKET_PROCEED;
}

#endif
