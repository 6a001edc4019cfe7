/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a packet was dropped. The numbers are part of the interface: append, never renumber, never reuse.
 * X(number, NAME, "what the person reads")
 */
#ifndef WHIT_DROPS_H
#define WHIT_DROPS_H

#define DROP_REASONS(X)                                                                  \
	X(1, POLICY_EGRESS, "the source's policy does not let it reach this peer")       \
	X(2, POLICY_INGRESS, "the destination's policy does not admit this peer")        \
	X(3, SPOOFED_ADDRESS, "source address or MAC is not the instance's own")         \
	X(4, NO_BACKEND, "the service has no backend that takes new flows")              \
	X(5, MALFORMED, "headers are truncated or contradict each other")                \
	X(6, UNSUPPORTED_PROTOCOL, "not a protocol that links of instances carry")       \
	X(7, FRAGMENT, "a fragment whose first part was not seen")                       \
	X(8, CONNTRACK_FULL, "the flow could not be remembered")                         \
	X(9, REWRITE_FAILED, "the packet could not be rewritten")                        \
	X(10, UNKNOWN_ENDPOINT, "a mesh address that no instance has")                   \
	X(11, INTERNAL, "a map of the datapath is missing an entry that must be there")   \
	X(12, UNRELATED_ERROR, "an ICMP error about a packet of no known flow")           \
	X(13, BACKEND_GONE, "the backend of this flow is down or gone")                   \
	X(14, TOO_BIG, "larger than the next link, and not to be fragmented")             \
	X(15, BANDWIDTH, "the instance sends more than its limit")                        \
	X(16, HELD, "kept until the instance that sleeps has been woken")                 \
	X(17, FLOW_TAKEN, "its answers could not be told from those of another flow")

enum drop_reason {
	DROP_NONE = 0,
#define X(number, name, text) DROP_##name = number,
	DROP_REASONS(X)
#undef X
};

#endif
