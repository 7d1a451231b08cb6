/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The pods of a node. */
#ifndef POSTERN_PODS_H
#define POSTERN_PODS_H

#include "guards.h"

/* Counted up when a map's layout changes: a program never meets a map of
 * another one (internal/redirect/takeover.go). */
enum { NODE_ABI = 1 };

/* What is said of the whole node. */
struct node {
	__u32 abi;           /* these two are at their places in every version */
	__u8 pods_path[220]; /* of the pods' cgroup below the root: whose node it is */
	__u64 pods_cgroup;   /* id of the pods' cgroup */
	__u64 netns;         /* cookie of the node's own network namespace */
	__u32 pods_level;    /* depth of the pods' cgroup below the root */
	__u8 fed;            /* guards are complete; 0: guarded pods are refused all */
	__u8 exclusive;      /* one of the guards is: plain pods are looked at */
	__u8 pad[2];
};

/* The node. ARRAY: 0 -> node. Written by the agent; read by every program, and by
 * the next agent, who finds the others of its maps by it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} postern_node SEC(".maps");

/* More than any kubelet runs (its default is 110). */
enum { MAX_PODS = 2048 };

/* Pods by network namespace: cookie -> pod. Written by the agent, read by every
 * program for each packet and connect of the node. HASH; full: the agent's
 * Classify fails, and the pod stays unknown. Not preallocated: a node has far
 * fewer. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct pod);
} pods SEC(".maps");

/* Pods by cgroup: id of the pod's cgroup (not of its containers') -> the same as
 * in pods. The only key of a pod on the node's network; for the others it tells
 * a socket of another namespace. Written, read and full as pods. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct pod);
} host_pods SEC(".maps");

/* What the agent knows of a pod. */
struct member {
	__u64 netns;  /* key in pods; 0: it is on the node's network */
	__u64 cgroup; /* key in host_pods; 0: not known */
	__u8 uid[64]; /* as Kubernetes names it */
};

/* Pods by index: index -> member. No program reads it: it is how agents, of which
 * there are two while one replaces the other, take different indexes and know each
 * other's pods. HASH; full: the agent's Classify fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct member);
} members SEC(".maps");

/* Listeners on the node's network: port -> index of the pod. Pods there share the
 * loopback addresses. Written by the agent; read by bind, connect and sockops.
 * HASH; full: Listen fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be16);
	__type(value, __u32);
} host_ports SEC(".maps");

/* Cgroups of Postern's own containers: id -> 1. What their processes do, and what
 * sockets carry that they made, is not looked at: never a mark or a user, which
 * others could take on. The id is that of the very cgroup, not of one above.
 * Written by the agent, read by every program. HASH: an old and a new agent, of
 * some containers each; full: the agent's Exempt fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u8);
} agents SEC(".maps");

/* A refusal, for the record. */
struct refusal {
	struct address addr; /* as dialled; v4 is v4-mapped */
	__u64 netns;         /* of the socket; 0: not known */
	__u64 cgroup;        /* of the task; for packets, of the socket's maker */
	__u32 pod;           /* index; 0: of no pod that is known */
	__u32 tgid;          /* 0 for packets */
	__u32 uid;
	enum why why;
	__be16 port;
	__u16 pad[3];
	__u8 comm[16];
};

/* Refusals, for the agent's record. RINGBUF: written by every program, read by
 * the agent. Full, or beyond a pod's share: counted (UNTOLD), not told. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} refusals SEC(".maps");

/* What a pod told within the last window. */
struct telling {
	__u64 window;
	__u64 told;
};

/* A pod's share of the ring: index -> telling. ARRAY; written and read by every
 * program. CPUs that write at once lose a count, which is no harm. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, struct telling);
} tellings SEC(".maps");

/* Refusals that a pod may tell in a window of 2^30 ns. */
enum { MAX_TOLD = 32 };

static ALWAYS_INLINE struct node *the_node(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&postern_node, &zero);
}

static ALWAYS_INLINE bool is_agent(__u64 cgroup)
{
	return bpf_map_lookup_elem(&agents, &cgroup) != NULL;
}

static ALWAYS_INLINE bool may_tell(__u32 pod)
{
	struct telling *t = bpf_map_lookup_elem(&tellings, &pod);
	__u64 window = bpf_ktime_get_ns() >> 30;

	if (!t)
		return false;
	if (t->window != window) {
		t->window = window;
		t->told = 0;
	}
	return t->told++ < MAX_TOLD;
}

/* tell puts a refusal into the ring, without waiting. */
static NOINLINE void tell(const struct refusal *r)
{
	if (!may_tell(r->pod) ||
	    bpf_ringbuf_output(&refusals, (void *)r, sizeof(*r), 0))
		count(r->pod, UNTOLD);
}

#endif
