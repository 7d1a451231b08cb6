/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* What is guarded, and for whom. */
#ifndef POSTERN_GUARDS_H
#define POSTERN_GUARDS_H

#include "kernel.h"

/* An IPv6 address, or a v4-mapped one: one path for both families. */
struct address {
	__be32 word[4];
};

enum pod_class {
	POD_UNKNOWN = 0,
	POD_PLAIN = 1,   /* touched by exclusive guards alone */
	POD_GUARDED = 2, /* and stays so */
};

/* Whom a listener belongs to: a pod, or the one command of a run. */
struct pod {
	__u64 netns; /* cookie of its network namespace; 0: the node's */
	__u32 index; /* of its counters and tuples; 0: the run's, or nobody's */
	enum pod_class class;
	__be16 port; /* of its listeners; 0: there are none */
	__u16 pad[3];
};

enum guard_flag {
	GUARD_SET = 1 << 0,    /* always: 0 is what is not guarded */
	GUARD_REFUSE = 1 << 1, /* refused, not redirected */
	GUARD_TARGET = 1 << 2, /* refused to the user's other processes, and to
				* pods that nobody knows yet, as well */
	GUARD_EXCLUSIVE = 1 << 3, /* refused to pods that are not guarded as well */
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

/* Why something was refused. */
enum why {
	WHY_REFUSED = 1, /* the guard says so, or nobody listens for this pod */
	WHY_UNKNOWN,     /* a Target, and the pod is not known yet */
	WHY_EXCLUSIVE,   /* an exclusive Target, and the pod is not guarded */
	WHY_FOREIGN,     /* the socket is of another network namespace */
	WHY_FULL,        /* more connects under way than the pod's share */
	WHY_PROTOCOL,    /* not TCP */
	WHY_LISTENER,    /* straight to the listener, or its port */
	WHY_PACKET,      /* a packet that went around connect */
	WHY_UNIX,        /* a unix socket of a Target */
};

enum counter {
	SEEN,       /* connects to guarded destinations */
	REDIRECTED, /* of these, arrived at the listener */
	REFUSED,    /* connects, binds, datagrams */
	DROPPED,    /* packets that went around connect */
	OTHERS,     /* refused to other processes */
	UNTOLD,     /* refusals that are in no ring */
	COUNTERS,
};

/* Counts: COUNTERS of them for each index of a pod -> times, one copy a CPU.
 * Written by every program, read by the agent, which also says for how many pods
 * there is room (MAX_PODS for a node). Cannot be full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

/* Atomic: a task that is preempted between reading and writing would undo what
 * others counted on its CPU meanwhile. */
static ALWAYS_INLINE void count(__u32 pod, enum counter counter)
{
	__u32 key = pod * COUNTERS + counter;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
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

static ALWAYS_INLINE bool is_listener(const struct pod *pod, const struct address *a, __be16 port)
{
	return pod->port && port == pod->port && is_loopback(a);
}

/* Flags of a destination; 0: not guarded. The guard of this port says what
 * happens, either says whether it is a Target, and an exclusive one. */
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
		flags |= flags ? *guard & (GUARD_TARGET | GUARD_EXCLUSIVE) : *guard;
	return flags;
}

#endif
