//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* On the node's end of every link of a guarded pod: drops what is on its way to
 * a guarded destination and was not sent by Postern itself, whatever made the
 * packet. Packet sockets pass no hook of a cgroup and need not pass a queue of
 * the pod's namespace, but everything that leaves it arrives here. An object of
 * its own, as it has nothing to do with sockets' hooks. */
#include "kernel.h"
#include "pods.h"
#include "tcx_frame.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* include/uapi/linux/bpf.h, enum tcx_action_base; the same numbers for a
 * classifier (include/uapi/linux/pkt_cls.h): the next program, and not accepted. */
enum { NEXT = -1, DROP = 2 };

/* Links: index of the device at the node's end -> pod. Written by the agent
 * before the program is attached there, and read by it to count. HASH: some links
 * for each of MAX_PODS; full: the link is reported uncovered. A device without an
 * entry is a guarded pod's all the same. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * MAX_PODS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct pod);
} links SEC(".maps");

/* Ports at which this node takes packets out of datagrams (devices of kind vxlan,
 * geneve): port -> 1. What is inside leaves the device as if another node had sent
 * it, and a socket without any privilege can put it there. Written by the agent,
 * read by the program. HASH; full: the agent's Cover fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __be16);
	__type(value, __u8);
} tunnels SEC(".maps");

static ALWAYS_INLINE bool is_guarded(const struct destination *d)
{
	struct node *node = the_node();

	if (!node || !node->fed)
		return true;
	if (d->protocol == IPPROTO_UDP && bpf_map_lookup_elem(&tunnels, &d->port))
		return true;
	return find(&d->addr, d->port);
}

static ALWAYS_INLINE bool is_made_inside(struct __sk_buff *skb)
{
	struct node *node = the_node();

	return !node || bpf_skb_ancestor_cgroup_id(skb, node->pods_level) == node->pods_cgroup;
}

static ALWAYS_INLINE void record(struct __sk_buff *skb, const struct destination *d)
{
	struct refusal r = { .addr = d->addr, .port = d->port, .why = WHY_PACKET };
	__u32 device = skb->ifindex;
	struct pod *pod = bpf_map_lookup_elem(&links, &device);

	if (pod) {
		r.netns = pod->netns;
		r.pod = pod->index;
	}
	r.cgroup = bpf_skb_cgroup_id(skb);
	count(r.pod, DROPPED);
	tell(&r);
}

/* A veth pair leaves a packet its socket. The cgroup is that of whoever made the
 * socket: no mark, and no capability to change it. */
static ALWAYS_INLINE int on_ingress(struct __sk_buff *skb)
{
	struct destination d = {};
	enum packet kind = read_frame(skb, &d);

	if (kind == PACKET_OTHER)
		return NEXT;
	if (kind == PACKET_PORTS && (!is_guarded(&d) || is_end(skb, &d)))
		return NEXT;
	if (is_agent(bpf_skb_cgroup_id(skb)))
		return NEXT;
	record(skb, &d);
	return DROP;
}

SEC("tc")
int cover(struct __sk_buff *skb)
{
	return on_ingress(skb);
}
