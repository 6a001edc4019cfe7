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
#define ABI_VERSION 3

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

enum endpoint_flags {
	ENDPOINT_TAP = 1,     /* there is no peer to hand packets to: they leave by the node's side of the link */
	ENDPOINT_LIMITED = 2, /* what it sends is counted against `limits` */
	ENDPOINT_WARM = 4,    /* may sleep: when a packet last came for it stands in `activity` */
	ENDPOINT_ASLEEP = 8,  /* with WARM: user space is told of the next packet, which takes the flag away */
	ENDPOINT_HELD = 16,   /* with WARM: nobody listens yet: user space gets the packets that begin something */
};

struct endpoint_value {
	__u32 ifindex; /* host side of the veth or tap */
	__u32 identity;
	__u32 flags;
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
 * together with `port`, and a range of ports is a set of port prefixes. peer 0 means every peer. For ICMP and ICMPv6
 * the port is type and code, a byte each: the type alone is a prefix of 88. An entry with the whole key is in
 * `exact_policies`, all others are in `policies`.
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

/*
 * port 0 with protocol 0 is every port of the address; ::ffff:0.0.0.0 is every IPv4 address of the node, :: every IPv6
 * one.
 */
struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

enum frontend_flags {
	FRONTEND_MAGLEV = 1,   /* the backend follows from the client's tuple, by the service's table in `maglev` */
	FRONTEND_AFFINITY = 2, /* a client keeps its backend for `affinity_seconds` after it last began a flow */
};

struct frontend_value {
	__u32 service;
	__u16 backends; /* slots 0 .. backends-1 are valid; a backend has as many as its weight */
	__u16 flags;
	__u32 affinity_seconds;
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

/* Slots of a Maglev table (Eisenbud et al., NSDI 2016, section 3.4): a prime, a hundred times 160 backends. */
#define MAGLEV_SIZE 16381

/* ---- affinity: which backend a client was given last ---- */

struct affinity_key {
	struct address client; /* of a process of the node: the cookie of its namespace in the last two words */
	__u32 service;
};

struct affinity_value {
	__u64 last_used_ns; /* CLOCK_MONOTONIC */
	__u32 backend;
	__u32 pad;
};

/* ---- limits: what an instance may send, by the ifindex of the host side of its link ---- */

/* A virtual schedule (ITU-T I.371, GCRA): each packet takes its time, and may be early by so much. */
struct limit_value {
	__u64 bytes_per_second;
	__u64 burst_ns;
	__u64 busy_until_ns; /* kept by the datapath; CLOCK_MONOTONIC */
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
	FLOW_HAIRPIN = 64, /* the initiator is its own backend: to it, its packets come from the service's address */
	FLOW_DENIED = 128, /* TCP: policy came to deny it. Kept, so that what is sent again begins no flow */
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
	__be16 policy_port; /* the responder's port after translation, or ICMP's type and code: what policy was asked */
	__u16 pad;
	__u32 retransmits; /* TCP segments of this way that were seen before */
	__u32 rtt_us;	   /* last measured from a segment of the other way to its acknowledgement; 0: not yet */
	__u32 next_sequence;
	__u32 sampled_sequence;
	__u32 pad2;
	__u64 sampled_ns;     /* when the other way sent `sampled_sequence`; 0: nothing is awaited */
	__u64 next_sample_ns; /* before which this way is not measured again */
	__u64 began_ns;
};

/* ---- fragments: what the first one of a packet told, for the others ---- */

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id; /* as it is on the wire */
	__u8 protocol; /* IPv4; in IPv6 the fragments of one packet need not agree about it, so 44 */
	__u8 pad[3];
};

struct fragment_value {
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad;
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
	HOOK_TO_UPLINK = 5,     /* TC egress on a link of the host */
	HOOK_LOST_EVENTS = 255, /* not a hook: counts events that found the ring full, in drops with reason 0 */
};

/* Every record of the ring begins with the time, the kind, the hook, a drop reason and an ifindex, in these places. */
enum event_kind {
	EVENT_FLOW = 1, /* a flow was let through for the first time, or a packet was dropped */
	EVENT_END = 2,	/* a TCP flow was closed */
	EVENT_HTTP = 3, /* an answer to an HTTP/1 request went by */
	EVENT_HOP = 4,	/* a decision about a traced packet */
	EVENT_WAKE = 5, /* on the control ring: a packet came for an instance that sleeps */
};

struct flow_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u8 kind;
	__u8 hook;
	__u16 reason; /* drops.h; 0 if let through */
	__u32 ifindex;
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
	__u32 length; /* bytes of the packet that caused it */
	__u8 flags;   /* enum policy_flags: audit */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad;
};

struct end_event {
	__u64 time_ns;
	__u8 kind;
	__u8 hook;
	__u16 flow_flags; /* of the way whose packet ended it: FLOW_REPLY tells who reset */
	__u32 ifindex;
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 reset; /* 1: by RST, 0: both sides had finished */
	__u16 pad;
	__u32 source_identity;
	__u32 destination_identity;
	__u64 duration_ns;
	__u64 packets; /* the initiator's way */
	__u64 bytes;
	__u64 reply_packets;
	__u64 reply_bytes;
	__u32 rtt_us;
	__u32 retransmits; /* both ways */
};

enum http_method {
	HTTP_GET = 1,
	HTTP_HEAD = 2,
	HTTP_POST = 3,
	HTTP_PUT = 4,
	HTTP_DELETE = 5,
	HTTP_CONNECT = 6,
	HTTP_OPTIONS = 7,
	HTTP_TRACE = 8,
	HTTP_PATCH = 9,
};

#define HTTP_PATH_BYTES 64

struct http_event {
	__u64 time_ns; /* of the answer's first packet */
	__u8 kind;
	__u8 hook;
	__u16 status;
	__u32 ifindex;
	struct address source; /* the client */
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 method;
	__u8 path_length; /* as far as it was in the first segment and fits; without what follows a question mark */
	__u16 pad;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 latency_us; /* from the request's first packet to the answer's */
	__u32 pad2;
	__u8 path[HTTP_PATH_BYTES];
};

enum hop_step {
	HOP_ENTERED = 1,    /* the tuple as it is on the wire */
	HOP_SENDER = 2,	    /* a: the identity that the link stands for */
	HOP_KNOWN = 3,	    /* the flow has an entry: a: its flags */
	HOP_SERVICE = 4,    /* a: service, b: backend's number */
	HOP_EGRESS = 5,	    /* a: rule, b: verdict */
	HOP_INGRESS = 6,    /* a: rule, b: verdict */
	HOP_REMEMBERED = 7, /* a flow was entered */
	HOP_TRANSLATED = 8, /* the tuple as it is now */
	HOP_INSTANCE = 9,   /* handed to an instance: a: ifindex */
	HOP_STACK = 10,	    /* handed to the node's stack */
	HOP_OUTSIDE = 11,   /* sent out: a: ifindex */
	HOP_DROPPED = 12,   /* reason tells why */
	HOP_ANSWERED = 13,  /* the client was told, by a reset or an ICMP error */
};

struct hop_event {
	__u64 time_ns;
	__u8 kind;
	__u8 hook;
	__u16 reason;
	__u32 ifindex;
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 step;
	__u16 pad;
	__u32 trace; /* the number under which the tuple stands in `traces` */
	__u32 a;
	__u32 b;
	__u32 pad2;
};

/* As long as a packet that is held may be. One that is longer is lost, and its sender's to send again. */
#define HELD_BYTES 512

struct wake_event {
	__u64 time_ns;
	__u8 kind;
	__u8 hook;
	__u16 length;  /* of the packet if it was held; 0: it was delivered, or was too long */
	__u32 ifindex; /* of the link of the instance that it came for */
	__u8 packet[HELD_BYTES];
};

/* A request that was not answered yet, under the tuple of its answer. */
struct request_value {
	__u64 began_ns; /* CLOCK_MONOTONIC */
	__u8 method;
	__u8 path_length;
	__u8 pad[6];
	__u8 path[HTTP_PATH_BYTES];
};

/* ---- edges: counters for each pair of identities, port of the responder and protocol ---- */

/* Bucket i of a latency counts those below 64 us << i; the last one all that are longer. */
#define LATENCY_BUCKETS 16

struct edge_key {
	__u32 source; /* identity of the initiator */
	__u32 destination;
	__be16 port; /* what policy was asked about */
	__u8 protocol;
	__u8 verdict;
};

struct edge_value {
	__u64 flows; /* that began; of a denied edge: packets dropped */
	__u64 packets;
	__u64 bytes;
	__u64 reply_packets;
	__u64 reply_bytes;
	__u64 retransmits;
	__u64 resets;
	__u64 rtt_us; /* sum */
	__u64 rtt_samples;
	__u64 requests; /* HTTP, answered */
	__u64 errors;	/* of them, status 500 and above */
	__u64 latency_us; /* sum */
	__u32 latency[LATENCY_BUCKETS];
};

/* ---- control and counters ---- */

struct datapath_state {
	__u32 generation; /* of policies and backends: a flow of another generation is judged again by its next packet */
	__u32 tracing;	  /* how many tuples stand in `traces`: 0 spares everybody the look-up */
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
