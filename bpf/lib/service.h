/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From what a client asked for to a backend that answers it.
 *
 * A client that is a backend of the service it asks is never given itself: the packet would have to come back to where
 * it came from, from an address that its stack takes for its own. It gets another backend, or none.
 */
#ifndef WHIT_SERVICE_H
#define WHIT_SERVICE_H

#include "address.h"
#include "maps.h"

/* How many slots are looked at, from a random one on, for a backend that takes new flows. */
#define SLOTS_TRIED 16

/*
 * What is published under the address and port; else, if the address is the node's own (`identity`), under the port of
 * every address; else under every port of the address.
 */
static __always_inline const struct frontend_value *
frontend_of(const struct address *address, __be16 port, __u8 protocol, __u32 identity)
{
	struct frontend_key key = { .address = *address, .port = port, .protocol = protocol };
	const struct frontend_value *found = bpf_map_lookup_elem(&frontends, &key);

	if (found)
		return found;
	if (identity == IDENTITY_HOST) {
		set_any(&key.address);
		found = bpf_map_lookup_elem(&frontends, &key);
		if (found)
			return found;
		key.address = *address;
	}
	key.port = 0;
	key.protocol = 0;
	return bpf_map_lookup_elem(&frontends, &key);
}

static __always_inline const struct backend_value *backend_at(__u32 service, __u32 slot, __u32 *number)
{
	struct slot_key key = { .service = service, .slot = slot };
	const __u32 *found = bpf_map_lookup_elem(&slots, &key);

	if (!found)
		return NULL;
	*number = *found;
	return bpf_map_lookup_elem(&backends, found);
}

/* A random backend that takes new flows, and its number; NULL if there is none. */
static __noinline const struct backend_value *
pick_backend(const struct frontend_value *frontend, const struct address *client, __u32 *number)
{
	__u32 service = frontend->service, count = frontend->backends, start;
	const struct backend_value *backend;

	if (count == 0)
		return NULL;
	start = bpf_get_prandom_u32() % count;
	for (__u32 tried = 0; tried < SLOTS_TRIED && tried < count; tried++) {
		backend = backend_at(service, (start + tried) % count, number);
		if (backend && backend->state == BACKEND_ACTIVE && !same_address(&backend->address, client))
			return backend;
	}
	return NULL;
}

#endif
