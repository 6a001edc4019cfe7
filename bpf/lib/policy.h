/* SPDX-License-Identifier: Apache-2.0 */
/* Policy: two look-ups a direction, whatever the number of rules. */
#ifndef WHIT_POLICY_H
#define WHIT_POLICY_H

#include "maps.h"
#include "packet.h"

static __always_inline __u32 identity_of(const struct address *address)
{
	struct identity_key key = { .prefix_length = 128, .address = *address };
	struct identity_value *value = bpf_map_lookup_elem(&identities, &key);

	return value ? value->identity : IDENTITY_WORLD;
}

struct judgement {
	__u32 rule;
	__u8 allowed;
	__u8 audit;
	__u16 pad;
};

static __always_inline const struct policy_value *stronger(const struct policy_value *one,
							   const struct policy_value *other)
{
	if (!one || !other)
		return one ? one : other;
	if (one->precedence != other->precedence)
		return one->precedence > other->precedence ? one : other;
	return one->verdict == VERDICT_DENY ? one : other;
}

/*
 * Of the entry for the peer and the one for every peer the stronger decides; without any, nothing selects the subject.
 * `key` asks about a peer, and is changed.
 */
static __noinline void judge(struct policy_key *key, struct judgement *judgement)
{
	const struct policy_value *exact, *any, *found;

	if (!key || !judgement)
		return;
	exact = bpf_map_lookup_elem(&policies, key);
	key->peer = 0;
	any = bpf_map_lookup_elem(&policies, key);
	found = stronger(exact, any);
	judgement->rule = found ? found->rule : 0;
	judgement->allowed = !found || found->verdict != VERDICT_DENY;
	judgement->audit = 0;
	if (found && !judgement->allowed && (found->flags & POLICY_AUDIT)) {
		judgement->allowed = 1;
		judgement->audit = 1;
	}
}

#endif
