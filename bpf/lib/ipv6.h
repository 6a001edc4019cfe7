/* SPDX-License-Identifier: Apache-2.0 */
/* From an IPv6 header to that of layer 4, past what RFC 8200 lets stand between them; up to a bound. */
#ifndef WHIT_IPV6_H
#define WHIT_IPV6_H

#include <linux/in6.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>

#include "drops.h"
#include "packet.h"

#define EXTENSIONS_WALKED 6

/* Where the walk stands. */
struct walk {
	__u32 offset; /* of the header whose number is in `header` */
	__u32 end;
	__be32 fragment_id;
	__u8 header;
	__u8 fragment;
	__u8 pad[2];
};

struct extension {
	__u8 next;
	__u8 length; /* in units of eight bytes, without the first */
	__u8 routing_type;
	__u8 segments_left;
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

#define FRAGMENT_OFFSET 0xfff8
#define FRAGMENT_MORE 1

static __always_inline bool is_extension(__u8 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING || header == IPPROTO_DSTOPTS;
}

/* Who is to be visited on the way past the destination would be out of reach of policy. */
static __always_inline enum drop_reason pass_extension(struct __sk_buff *skb, struct walk *walk)
{
	struct extension extension;

	if (walk->offset + sizeof(extension) > walk->end ||
	    bpf_skb_load_bytes(skb, walk->offset, &extension, sizeof(extension)))
		return DROP_MALFORMED;
	if (walk->header == IPPROTO_ROUTING && extension.segments_left)
		return DROP_UNSUPPORTED_PROTOCOL;
	walk->header = extension.next;
	walk->offset += (extension.length + 1) * 8U;
	return walk->offset > walk->end ? DROP_MALFORMED : DROP_NONE;
}

/* One that holds a whole packet (RFC 6946) is as if it were not there. */
static __always_inline enum drop_reason pass_fragment(struct __sk_buff *skb, struct walk *walk)
{
	struct fragment_header fragment;

	if (walk->fragment || walk->offset + sizeof(fragment) > walk->end ||
	    bpf_skb_load_bytes(skb, walk->offset, &fragment, sizeof(fragment)))
		return DROP_MALFORMED;
	walk->header = fragment.next;
	walk->offset += sizeof(fragment);
	walk->fragment_id = fragment.id;
	if (fragment.offset & bpf_htons(FRAGMENT_OFFSET))
		walk->fragment = FRAGMENT_LATER;
	else if (fragment.offset & bpf_htons(FRAGMENT_MORE))
		walk->fragment = FRAGMENT_FIRST;
	return DROP_NONE;
}

static __noinline enum drop_reason walk_extensions(struct __sk_buff *skb, struct walk *walk)
{
	enum drop_reason reason;

	for (int i = 0; i <= EXTENSIONS_WALKED; i++) {
		if (walk->header == IPPROTO_FRAGMENT)
			reason = pass_fragment(skb, walk);
		else if (is_extension(walk->header))
			reason = pass_extension(skb, walk);
		else
			return DROP_NONE;
		if (reason || walk->fragment == FRAGMENT_LATER)
			return reason;
	}
	return DROP_MALFORMED;
}

#endif
