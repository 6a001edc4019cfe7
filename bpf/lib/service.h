/* SPDX-License-Identifier: Apache-2.0 */
/* Services: from an address and port that stand for a service to one of its backends. */
#ifndef WHIT_SERVICE_H
#define WHIT_SERVICE_H

#include "config.h"
#include "maps.h"
#include "packet.h"

/* How many slots are tried after one that takes no new flows. */
#define SLOTS_TRIED 16

static __always_inline const struct frontend_value *frontend_at(const struct address *address, __be16 port,
								__u8 protocol)
{
	struct frontend_key key = { .address = *address, .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&frontends, &key);
}

/* A service's own address: the port by itself, or every port. */
static __always_inline const struct frontend_value *frontend_of_service(const struct flow_key *key)
{
	const struct frontend_value *found = frontend_at(&key->destination, key->destination_port, key->protocol);

	return found ? found : frontend_at(&key->destination, 0, 0);
}

/* A port published on an address of the node, or on every one. */
static __always_inline const struct frontend_value *frontend_of_node(const struct flow_key *key)
{
	const struct frontend_value *found = frontend_at(&key->destination, key->destination_port, key->protocol);
	struct address any = address_of(0);

	return found ? found : frontend_at(&any, key->destination_port, key->protocol);
}

/* Random choice among the backends that take new flows; NULL if there is none. */
static __noinline struct backend_value *pick_backend(const struct frontend_value *frontend, __u32 *id)
{
	struct slot_key key = {};
	struct backend_value *backend;
	__u32 start, *slot;
	int i;

	if (!frontend || !id || !frontend->backends)
		return NULL;
	key.service = frontend->service;
	start = bpf_get_prandom_u32() % frontend->backends;
	for (i = 0; i < SLOTS_TRIED; i++) {
		if (i >= frontend->backends)
			return NULL;
		key.slot = (start + i) % frontend->backends;
		slot = bpf_map_lookup_elem(&slots, &key);
		if (!slot)
			continue;
		backend = bpf_map_lookup_elem(&backends, slot);
		if (backend && backend->state == BACKEND_ACTIVE) {
			*id = *slot;
			return backend;
		}
	}
	return NULL;
}

#endif
