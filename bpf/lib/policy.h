/* SPDX-License-Identifier: Apache-2.0 */
/*
 * May this initiator reach this responder? Two directions, each with exactly two look-ups: what is said of this very
 * peer, and what is said of every peer. Which of a peer's entries holds (the longest port prefix) the maps decide; of
 * the two, the higher precedence does, and at the same precedence a deny. If there is neither, nothing selects the
 * subject, which is then free.
 */
#ifndef WHIT_POLICY_H
#define WHIT_POLICY_H

#include "drops.h"
#include "maps.h"

static __always_inline const struct policy_value *
decisive(const struct policy_value *left, const struct policy_value *right)
{
	if (!left || !right)
		return left ? left : right;
	if (left->precedence != right->precedence)
		return left->precedence > right->precedence ? left : right;
	return left->verdict == VERDICT_ALLOW && right->verdict != VERDICT_ALLOW ? right : left;
}

/* The entry with the longest prefix of the key, which is a whole one. */
static __always_inline const struct policy_value *longest(const struct policy_key *key)
{
	const struct policy_value *exact = bpf_map_lookup_elem(&exact_policies, key);

	return exact ? exact : bpf_map_lookup_elem(&policies, key);
}

/* Returns whether it may. VERDICT_REDIRECT is not known here yet and counts as a deny. */
static __always_inline bool ruled(struct policy_key *key, __u32 *rule, __u8 *flags)
{
	const struct policy_value *of_peer, *of_all, *value;

	of_peer = longest(key);
	key->peer = 0;
	of_all = longest(key);
	value = decisive(of_peer, of_all);
	if (!value)
		return true;
	*rule = value->rule;
	if (value->verdict == VERDICT_ALLOW)
		return true;
	*flags |= value->flags & POLICY_AUDIT;
	return value->flags & POLICY_AUDIT;
}

/*
 * Both directions for the identities and the protocol of `event`, into its rules and flags. The world, the node and its
 * resolver are nobody's subjects, so they need no case of their own. A global function, which the verifier looks at
 * once and not for each of its callers.
 */
__noinline enum drop_reason judge(struct flow_event *event, __be16 port)
{
	struct policy_key key = { .prefix_length = POLICY_PREFIX_EXACT, .port = port };

	if (!event)
		return DROP_INTERNAL;
	key.subject = event->source_identity;
	key.peer = event->destination_identity;
	key.direction = DIRECTION_EGRESS;
	key.protocol = event->protocol;
	if (!ruled(&key, &event->egress_rule, &event->flags))
		return DROP_POLICY_EGRESS;
	key.subject = event->destination_identity;
	key.peer = event->source_identity;
	key.direction = DIRECTION_INGRESS;
	if (!ruled(&key, &event->ingress_rule, &event->flags))
		return DROP_POLICY_INGRESS;
	return DROP_NONE;
}

#endif
