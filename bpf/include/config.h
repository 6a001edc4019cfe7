/* SPDX-License-Identifier: Apache-2.0 */
/* What differs between agents and machines, set in .rodata before load; the verifier then removes dead branches. */
#ifndef WHIT_CONFIG_H
#define WHIT_CONFIG_H

#include <linux/types.h>

/* Of the host's network namespace: programs at sockets act on its processes only. 0: on no one's. */
const volatile __u64 netns_cookie = 0;

/* Put into skb->mark of packets that an instance sends to the host's stack, so that our nft rules know them. */
const volatile __u32 mark = 0;
const volatile __u32 mark_mask = 0;

/* Deliver by bpf_redirect_peer, past the instance's host side; otherwise through the host's stack. */
const volatile __u8 redirect_peer = 1;

/* The mesh's addresses on this node, host byte order, IPv4. */
const volatile __u32 pool = 0;
const volatile __u32 pool_mask = 0;

/* How long a flow is remembered after its last packet, in ns. */
const volatile __u64 timeout_opening = 60ULL * 1000000000;
const volatile __u64 timeout_established = 6 * 3600ULL * 1000000000;
const volatile __u64 timeout_closing = 10ULL * 1000000000;
const volatile __u64 timeout_datagram = 180ULL * 1000000000;

#endif
