/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of drops, by reason and hook; of events that found the ring full, too. */
#ifndef WHIT_DROP_H
#define WHIT_DROP_H

#include "drops.h"
#include "maps.h"

static __always_inline void count_drop(enum drop_reason reason, __u8 hook, __u32 length)
{
	struct drop_key key = { .reason = reason, .hook = hook };
	struct drop_value *found = bpf_map_lookup_elem(&drops, &key);
	struct drop_value first = { .packets = 1, .bytes = length };

	if (found) {
		found->packets++;
		found->bytes += length;
	} else {
		bpf_map_update_elem(&drops, &key, &first, BPF_ANY);
	}
}

#endif
