/* SPDX-License-Identifier: Apache-2.0 */
/* Where a packet goes that was let through. */
#ifndef WHIT_DELIVER_H
#define WHIT_DELIVER_H

#include <linux/pkt_cls.h>

#include "config.h"
#include "maps.h"
#include "packet.h"

static __always_inline struct endpoint_value *endpoint_of(const struct address *address)
{
	struct endpoint_key key = { .address = *address };

	return bpf_map_lookup_elem(&endpoints, &key);
}

/* Straight into the instance's namespace: its host side sees nothing of it, so everything must be decided before. */
static __always_inline int deliver_local(struct __sk_buff *skb, const struct endpoint_value *endpoint)
{
	if (bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_dest), endpoint->mac, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), endpoint->host_mac, ETH_ALEN, 0))
		return TC_ACT_OK;
	return bpf_redirect_peer(endpoint->ifindex, 0);
}

/* To the host's stack, marked as ours for the host's packet filter. */
static __always_inline int deliver_stack(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~mark_mask) | mark;
	return TC_ACT_OK;
}

#endif
