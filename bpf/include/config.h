/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loader sets before it loads the object. The verifier knows these values, so a branch that one of them
 * closes costs nothing.
 */
#ifndef WHIT_CONFIG_H
#define WHIT_CONFIG_H

#include <linux/types.h>

#include "abi.h"

#define SECOND 1000000000ULL

/* SO_NETNS_COOKIE of the node's namespace: the socket programs act only there. */
const volatile __u64 netns_cookie = 0;

/*
 * What is set in skb->mark of a packet that an instance sends into the node's stack, so that nft rules know it: judged
 * here, to be masqueraded when it leaves. Bits outside the mask are left as they are.
 */
const volatile __u32 mark = 0;
const volatile __u32 mark_mask = 0;

/*
 * 1: hand packets straight to the instance's own side of its link, if that is a veth. 0: send all out of the node's
 * side, as those to a tap (ENDPOINT_TAP); they then meet to_instance, which lets them through (TC_INDEX_JUDGED).
 */
const volatile __u8 redirect_peer = 1;

/*
 * All addresses of instances and services: of this node; of IPv6, of the whole mesh. One of them that nobody has is a
 * drop, never a packet into the node's routing table, and none of them comes in from outside. A mask of 0 is no pool.
 */
const volatile __be32 pool = 0;
const volatile __be32 pool_mask = 0;
const volatile struct address pool6 = {};
const volatile struct address pool6_mask = {};

/* 1: look for HTTP/1 in TCP payloads. */
const volatile __u8 observe_http = 1;

/*
 * After how much silence a flow is over: its tuple then starts a new one. Entries are not deleted by it; the sweeper
 * in user space does so by the same figures. Established is "the responder has answered".
 */
const volatile __u64 tcp_syn_timeout_ns = 60 * SECOND;
const volatile __u64 tcp_established_timeout_ns = 6 * 3600 * SECOND;
const volatile __u64 tcp_closing_timeout_ns = 10 * SECOND;
const volatile __u64 udp_timeout_ns = 60 * SECOND;
const volatile __u64 udp_established_timeout_ns = 180 * SECOND;
const volatile __u64 icmp_timeout_ns = 30 * SECOND;
const volatile __u64 other_timeout_ns = 180 * SECOND;

#endif
