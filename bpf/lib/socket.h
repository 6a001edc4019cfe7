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

static __always_inline int refuse_socket(struct bpf_sock_addr *ctx, const struct socket_value *asked, __u32 identity)
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

	set_ipv4(&event.source, 0);
	count_drop(DROP_NO_BACKEND, HOOK_SOCKET, 0);
	report(&event);
	bpf_set_retval(-ECONNREFUSED);
	return SOCKET_REFUSE;
}

/* Sends a socket that asks for a service to a backend instead, and keeps what it asked for. */
static __always_inline int balance_socket(struct bpf_sock_addr *ctx)
{
	struct socket_value socket = { .port = ctx->user_port };
	struct address nobody = {}; /* the process is no instance, so every backend will do */
	const struct frontend_value *frontend;
	const struct backend_value *backend;
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 identity, number = 0;

	if (!is_of_node(ctx) || (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_UDP))
		return SOCKET_PROCEED;
	set_ipv4(&socket.address, ctx->user_ip4);
	identity = identity_of(&socket.address);
	frontend = frontend_of(&socket.address, socket.port, ctx->protocol, identity);
	if (!frontend)
		return SOCKET_PROCEED;
	backend = pick_backend(frontend, &nobody, &number);
	if (!backend)
		return refuse_socket(ctx, &socket, identity);
	socket.backend = backend->address;
	socket.backend_port = backend->port ? backend->port : socket.port;
	bpf_map_update_elem(&sockets, &cookie, &socket, BPF_ANY);
	ctx->user_ip4 = socket.backend.words[3];
	ctx->user_port = socket.backend_port;
	return SOCKET_PROCEED;
}

/* Shows a process the address that it asked for, where the kernel names the backend. */
static __always_inline int restore_socket(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	const struct socket_value *socket = bpf_map_lookup_elem(&sockets, &cookie);

	if (!is_of_node(ctx) || !socket || socket->backend.words[3] != ctx->user_ip4 ||
	    socket->backend_port != (__be16)ctx->user_port)
		return SOCKET_PROCEED;
	ctx->user_ip4 = socket->address.words[3];
	ctx->user_port = socket->port;
	return SOCKET_PROCEED;
}

#endif
