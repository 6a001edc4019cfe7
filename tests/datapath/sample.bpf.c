/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the Python side load: every kind of constant and map, and programs whose work can be counted. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

char _license[] SEC("license") = "GPL";

const volatile __u8 byte = 1;
const volatile __u16 half = 2;
const volatile __be16 port = 0;
const volatile __u32 word = 3;
const volatile __u64 large = 4;
const volatile __s32 negative = 0;
const volatile struct address address = {};

struct constants {
	__u64 large;
	__u32 word;
	__s32 negative;
	__u16 half;
	__be16 port;
	__u8 byte;
	__u8 pad[3];
	struct address address;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct constants);
	__uint(max_entries, 1);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct slot_key);
	__type(value, struct backend_value);
	__uint(max_entries, 10000);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct identity_key);
	__type(value, struct identity_value);
	__uint(max_entries, 10000);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct datapath_state);
	__uint(max_entries, 4);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, struct drop_key);
	__type(value, struct drop_value);
	__uint(max_entries, 100);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

static __always_inline int count(struct __sk_buff *skb, __u16 reason)
{
	struct drop_key key = { .reason = reason };
	struct drop_value *value = bpf_map_lookup_elem(&counters, &key), first = { 1, skb->len };

	if (value) {
		value->packets++;
		value->bytes += skb->len;
	} else {
		bpf_map_update_elem(&counters, &key, &first, BPF_NOEXIST);
	}
	return -1;
}

/* Of the protocol that is set aside for experiments (IEEE 802), so that nothing else on the link is counted. */
static __always_inline int count_experiment(struct __sk_buff *skb, __u16 reason)
{
	return skb->protocol == bpf_htons(0x88b5) ? count(skb, reason) : -1;
}

SEC("tc")
int count_first(struct __sk_buff *skb)
{
	return count_experiment(skb, 1);
}

SEC("tc")
int count_second(struct __sk_buff *skb)
{
	return count_experiment(skb, 2);
}

SEC("tc")
int tell(struct __sk_buff *skb)
{
	struct constants constants = {
		.large = large, .word = word, .negative = negative, .half = half, .port = port, .byte = byte,
	};
	__u32 zero = 0;

	for (int i = 0; i < 4; i++)
		constants.address.words[i] = address.words[i];
	bpf_map_update_elem(&seen, &zero, &constants, 0);
	skb->mark = word;
	return byte;
}

/* A record of 20 or 100 bytes whose first 4 are the packet's number; the last byte of the packet says which, or discard. */
SEC("tc")
int produce(struct __sk_buff *skb)
{
	__u32 number = 0;
	__u8 what = 0;
	__u32 *record;

	if (bpf_skb_load_bytes(skb, 14, &number, 4) || bpf_skb_load_bytes(skb, 18, &what, 1))
		return -1;
	record = what == 1 ? bpf_ringbuf_reserve(&ring, 100, 0) : bpf_ringbuf_reserve(&ring, 20, 0);
	if (!record)
		return 1;
	record[0] = number;
	if (what == 2)
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *context)
{
	return context->user_port != bpf_htons(4242);
}
