/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* What is guarded, and for whom. */
#ifndef POSTERN_GUARDS_H
#define POSTERN_GUARDS_H

#include "kernel.h"

/* An IPv6 address, or a v4-mapped one: one path for both families. */
struct address {
	__be32 word[4];
};

/* The guarded command. */
struct run {
	__u64 command; /* id of its cgroup */
	__u64 netns;   /* cookie of the namespace that the listeners are in */
	__u32 uid;     /* its user */
	__be16 port;   /* of the listeners; 0: there are none */
	__u8 fed;      /* guards are complete; 0: everything is refused */
	__u8 pad;
};

/* Depth of the command's cgroup, postern-<id>/command, below the root. */
enum { COMMAND_LEVEL = 2 };

/* The one guarded command. ARRAY: 0 -> run. Written by the agent; read by every
 * program, and by whoever clears up after a dead agent, who knows a program at
 * the root by it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct run);
} postern_run SEC(".maps");

enum guard_flag {
	GUARD_SET = 1 << 0,    /* always: 0 is what is not guarded */
	GUARD_REFUSE = 1 << 1, /* refused, not redirected */
	GUARD_TARGET = 1 << 2, /* refused to the user's other processes as well */
};

struct guard_key {
	__u32 prefixlen; /* of what follows, in bits: GUARD_EXACT for one address */
	__be16 port;     /* 0: any */
	__u16 pad;
	struct address addr;
};

enum { GUARD_EXACT = 32 + 128 };

/* Guarded destinations: port and prefix -> guard_flag. Written by the agent,
 * read by every program. LPM_TRIE, also for single addresses: two look-ups a
 * connect (this port, any port) where a hash table beside it would need three.
 * 16384 hold what a cluster's databases have of addresses, and cost memory only
 * when used; full: the agent's Set fails and keeps what is there. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct guard_key);
	__type(value, enum guard_flag);
} guards SEC(".maps");

enum counter {
	SEEN,       /* connects to guarded destinations */
	REDIRECTED, /* of these, arrived at the listener */
	REFUSED,    /* connects, binds, datagrams */
	DROPPED,    /* packets that went around connect */
	OTHERS,     /* refused to other processes */
	COUNTERS,
};

/* Counts: counter -> times, one copy a CPU. Written by every program, read by
 * the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

static ALWAYS_INLINE void count(enum counter counter)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &counter);

	if (n)
		(*n)++;
}

static ALWAYS_INLINE struct run *the_run(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&postern_run, &zero);
}

static ALWAYS_INLINE struct address mapped(__be32 ip4)
{
	return (struct address){ .word = { 0, 0, htonl(0xffff), ip4 } };
}

static ALWAYS_INLINE bool is_mapped(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == htonl(0xffff);
}

/* 0.0.0.0 and :: are where the kernel itself puts the loopback address in. */
static ALWAYS_INLINE void name_loopback(struct address *a)
{
	if (a->word[0] || a->word[1] || a->word[3])
		return;
	if (a->word[2] == htonl(0xffff))
		a->word[3] = htonl(0x7f000001);
	else if (!a->word[2])
		a->word[3] = htonl(1);
}

static ALWAYS_INLINE bool is_loopback(const struct address *a)
{
	if (is_mapped(a))
		return ntohl(a->word[3]) >> 24 == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == htonl(1);
}

static ALWAYS_INLINE bool is_listener(const struct run *run, const struct address *a, __be16 port)
{
	return run->port && port == run->port && is_loopback(a);
}

/* Flags of a destination; 0: not guarded. The guard of this port says what
 * happens, either says whether it is a Target. */
static ALWAYS_INLINE __u32 find(const struct address *a, __be16 port)
{
	struct guard_key key = { .prefixlen = GUARD_EXACT, .port = port, .addr = *a };
	enum guard_flag *guard;
	__u32 flags = 0;

	guard = bpf_map_lookup_elem(&guards, &key);
	if (guard)
		flags = *guard;
	key.port = 0;
	guard = bpf_map_lookup_elem(&guards, &key);
	if (guard)
		flags |= flags ? *guard & GUARD_TARGET : *guard;
	return flags;
}

#endif
