/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every struct that the datapath shares with user space, declared once. The Python side
 * (src/whit/datapath/abi.py) is generated from the BTF of the built objects and compared again at load.
 *
 * Addresses are 16 bytes, IPv4 as v4-mapped (::ffff:a.b.c.d), so that there is one code path for both families.
 * Ports are in network byte order wherever they are named __be16. All structs are free of implicit padding:
 * a hash key with indeterminate bytes would never match.
 */
#ifndef WHIT_ABI_H
#define WHIT_ABI_H

#include <linux/types.h>

/* Raised whenever the layout of a pinned map changes; part of the pin directory's name. */
#define ABI_VERSION 1

struct address {
	__be32 words[4];
};

/* ---- identities: address -> who. The single truth, written before an instance's first packet. ---- */

enum reserved_identity {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,     /* this node's own processes */
	IDENTITY_WORLD = 2,    /* every address that no longer prefix names */
	IDENTITY_RESOLVER = 3, /* the node's name server */
};

struct identity_key {
	__u32 prefix_length; /* 0..128 */
	struct address address;
};

struct identity_value {
	__u32 identity;
};

/* ---- endpoints: address of a local instance -> how to deliver to it ---- */

struct endpoint_key {
	struct address address;
};

struct endpoint_value {
	__u32 ifindex; /* host side of the veth or tap */
	__u32 identity;
	__u8 mac[6];      /* of the instance's interface */
	__u8 host_mac[6]; /* of the host side, which the instance sees as its gateway */
};

/* ---- policy ---- */

enum direction {
	DIRECTION_EGRESS = 0,
	DIRECTION_INGRESS = 1,
};

enum verdict {
	VERDICT_DENY = 0,
	VERDICT_ALLOW = 1,
	VERDICT_REDIRECT = 2, /* to a local proxy port; reserved for L7 */
};

/*
 * Longest prefix match in the order of the fields. Wildcards are only at the tail: `protocol` may be left out only
 * together with `port`, and a range of ports is a set of port prefixes. peer 0 means every peer.
 */
struct policy_key {
	__u32 prefix_length; /* 72: any protocol; 80: any port; 80..96: port prefix */
	__u32 subject;
	__u32 peer;
	__u8 direction;
	__u8 protocol;
	__be16 port;
};

#define POLICY_PREFIX_ANY_PROTOCOL 72
#define POLICY_PREFIX_ANY_PORT 80
#define POLICY_PREFIX_EXACT 96

enum policy_flags {
	POLICY_AUDIT = 1, /* a deny that is reported but let through */
};

struct policy_value {
	__u32 rule;
	__u32 precedence; /* of the entries found for the peer and for every peer, the higher one decides */
	__u8 verdict;
	__u8 flags;
	__be16 redirect_port;
};

/* ---- services ---- */

/* port 0 with protocol 0 is every port of the address; address ::ffff:0.0.0.0 is every address of the node. */
struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct frontend_value {
	__u32 service;
	__u16 backends; /* slots 0 .. backends-1 are valid */
	__u16 flags;
};

struct slot_key {
	__u32 service;
	__u32 slot;
};

enum backend_state {
	BACKEND_ACTIVE = 0,
	BACKEND_DRAINING = 1, /* keeps its flows, takes no new ones */
	BACKEND_DOWN = 2,
};

struct backend_value {
	struct address address;
	__be16 port; /* 0: the port the client asked for */
	__u8 state;
	__u8 pad;
};

/* ---- conntrack: two entries a flow, one for each way, each found by one look-up ---- */

struct flow_key {
	struct address source;
	struct address destination;
	__be16 source_port; /* ICMP echo: the identifier, in both */
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

enum flow_flags {
	FLOW_REPLY = 1,      /* this entry is for packets from responder to initiator */
	FLOW_TRANSLATED = 2, /* rewrite destination (initiator's way) or source (reply's way) to `translation` */
	FLOW_ESTABLISHED = 4,
	FLOW_CLOSING = 8,
	FLOW_UPLINK = 16, /* the initiator is outside: replies leave by `ifindex` */
	FLOW_FIN = 32,    /* TCP: whoever sends this way has finished; closing when both have */
};

struct flow_value {
	__u64 last_seen_ns; /* CLOCK_MONOTONIC */
	__u64 packets;
	__u64 bytes;
	struct address translation; /* without FLOW_TRANSLATED what the packets have there anyway */
	__be16 translation_port;
	__u16 flags;
	__u32 ifindex;
	__u32 backend;
	__u32 initiator; /* identities */
	__u32 responder;
	__u32 egress_rule; /* 0: nothing selects the subject in this direction */
	__u32 ingress_rule;
	__u32 generation; /* of the policy that allowed it; checked again when it differs */
	__be16 policy_port; /* the responder's port after translation, what policy was asked about */
	__u16 pad[3];
};

/* ---- sockets of host processes whose connect() was balanced: cookie -> what the process asked for and got ---- */

/* The last one of a socket that asks for several (unconnected UDP). */
struct socket_value {
	struct address address;
	struct address backend;
	__be16 port;
	__be16 backend_port;
};

/* ---- events ---- */

enum hook {
	HOOK_FROM_INSTANCE = 1, /* TC ingress on the host side of an instance's link */
	HOOK_TO_INSTANCE = 2,   /* TC egress on the same */
	HOOK_FROM_UPLINK = 3,   /* TC ingress on a link of the host */
	HOOK_SOCKET = 4,        /* connect() and sendmsg() of host processes */
	HOOK_LOST_EVENTS = 255, /* not a hook: counts events that found the ring full, in drops with reason 0 */
};

struct flow_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	struct address source;      /* the initiator, also if an answer was dropped */
	struct address destination; /* after translation */
	struct address service;     /* what the initiator asked for; equal to destination if not translated */
	__be16 source_port;
	__be16 destination_port;
	__be16 service_port;
	__u8 protocol;
	__u8 verdict;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 egress_rule;
	__u32 ingress_rule;
	__u32 ifindex;
	__u32 length; /* bytes of the packet that caused it */
	__u16 reason; /* drops.h; 0 if let through */
	__u8 hook;
	__u8 flags; /* enum policy_flags: audit */
	__u32 pad;
};

/* ---- control and counters ---- */

struct datapath_state {
	__u32 generation; /* of the policy maps */
	__u32 pad;
};

struct drop_key {
	__u16 reason;
	__u8 hook;
	__u8 pad;
};

struct drop_value {
	__u64 packets;
	__u64 bytes;
};

#endif
