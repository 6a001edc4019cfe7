/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From what a client asked for to a backend that answers it: the one it had before if the service wants that, else one
 * that follows from its tuple or that chance picks. A backend has as many slots as its weight.
 */
#ifndef WHIT_SERVICE_H
#define WHIT_SERVICE_H

#include "address.h"
#include "maglev.h"
#include "maps.h"

/*
 * How many slots are looked at, from the chosen one on, for a backend that takes new flows. User space leaves only such
 * in the slots, so the next ones count only while it is about to do so.
 */
#define SLOTS_TRIED 8
#define SECOND_NS 1000000000ULL

/*
 * What is published under the address and port; else, if the address is the node's own (`identity`), under the port of
 * every address; else under every port of the address.
 */
static __noinline const struct frontend_value *
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

static __always_inline bool is_active(const struct backend_value *backend)
{
	return backend && backend->state == BACKEND_ACTIVE;
}

/* The number of the backend `further` slots behind the one that `hash` leads to; 0: there is none. */
static __always_inline __u32 number_at(const struct frontend_value *frontend, __u32 hash, __u32 further)
{
	struct slot_key key = { .service = frontend->service };
	const __u32 *found;

	if (frontend->flags & FRONTEND_MAGLEV) {
		found = maglev_number(frontend->service, hash, further);
	} else {
		key.slot = (hash + further) % frontend->backends;
		found = bpf_map_lookup_elem(&slots, &key);
	}
	return found ? *found : 0;
}

static __always_inline __u32 chosen(const struct frontend_value *frontend, const struct flow_key *asker)
{
	__u32 hash = frontend->flags & FRONTEND_MAGLEV ? hash_of(asker) : bpf_get_prandom_u32(), number;

	for (__u32 further = 0; further < SLOTS_TRIED; further++) {
		number = number_at(frontend, hash, further);
		if (is_active(bpf_map_lookup_elem(&backends, &number)))
			return number;
	}
	return 0;
}

/* The backend that the client had, if that was not too long ago and it takes new flows; else 0. */
static __always_inline __u32
had_before(const struct frontend_value *frontend, const struct affinity_key *client, __u64 now_ns)
{
	const struct affinity_value *before = bpf_map_lookup_elem(&affinity, client);

	if (!before || now_ns - before->last_used_ns > frontend->affinity_seconds * SECOND_NS)
		return 0;
	return is_active(bpf_map_lookup_elem(&backends, &before->backend)) ? before->backend : 0;
}

/*
 * The number of a backend for a new flow of `asker`; 0: there is none. A global function, which the verifier looks at
 * once and not for each of its callers.
 */
__noinline __u32 pick_backend(const struct frontend_value *frontend, const struct flow_key *asker)
{
	struct affinity_value last = { .last_used_ns = bpf_ktime_get_ns() };
	struct affinity_key client = {};

	if (!frontend || !asker || !frontend->backends)
		return 0;
	if (!(frontend->flags & FRONTEND_AFFINITY))
		return chosen(frontend, asker);
	client.client = asker->source;
	client.service = frontend->service;
	last.backend = had_before(frontend, &client, last.last_used_ns);
	if (!last.backend)
		last.backend = chosen(frontend, asker);
	if (last.backend)
		bpf_map_update_elem(&affinity, &client, &last, BPF_ANY);
	return last.backend;
}

#endif
