//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Leads the connections of a node's guarded pods to the agent, and closes the
 * ways around. Attached to the root of all cgroups: these programs run for every
 * process of the node. */
#include "kernel.h"
#include "pods.h"
#include "sections.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf_get_netns_cookie for packets, Linux 6.15. Without it a packet's pod is told
 * by the cgroup of the socket's maker alone. */
const volatile bool has_packet_netns = false;

/* A pod's connections on their way; as large as the agent says. */
struct pod_tuples {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, sizeof(struct tuple));
	__uint(value_size, sizeof(struct origin));
};

/* Index of a guarded pod -> its tuples: each pod has a map of its own, and with
 * it its share. ARRAY_OF_MAPS, written by the agent, read by connect and sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__array(values, struct pod_tuples);
} tuples SEC(".maps");

static ALWAYS_INLINE void *tuples_of(__u32 pod)
{
	return bpf_map_lookup_elem(&tuples, &pod);
}

/* More than there can be connections to one listener: it has one address, and a
 * client some 28,000 ports. */
enum { MAX_HELD = 32768 };

/* Records that a pod's sockets hold: index -> how many. They are paid for by the
 * gate's memory, some 400 bytes each. ARRAY, written by connect, sockops and
 * sock_release; full: connect refuses. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, __u64);
} held SEC(".maps");

static ALWAYS_INLINE bool hold(__u32 pod)
{
	__u64 *n = bpf_map_lookup_elem(&held, &pod);

	if (!n || (long long)*n >= MAX_HELD)
		return false;
	__sync_fetch_and_add(n, 1);
	return true;
}

static ALWAYS_INLINE void unhold(struct origin *o)
{
	__u32 pod = o->pod;
	__u64 *n = bpf_map_lookup_elem(&held, &pod);

	if (!n || !o->held)
		return;
	o->held = false;
	__sync_fetch_and_add(n, -1);
}

/* The last process has closed the socket. What is still to be said on it may need
 * its record. */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	struct origin *o = bpf_sk_storage_get(&client, sk, NULL, 0);

	if (o)
		unhold(o);
	return PROCEED;
}

static ALWAYS_INLINE bool is_fed(void)
{
	struct node *node = the_node();

	return node && node->fed;
}

static ALWAYS_INLINE bool is_postern(void)
{
	return is_agent(bpf_get_current_cgroup_id());
}

static ALWAYS_INLINE enum standing standing_of(const struct node *node, const struct pod *pod)
{
	if (pod->class == POD_PLAIN)
		return PLAIN;
	return node->fed ? GUARDED : CLOSED;
}

/* The pod's cgroup is one or two below the pods': burstable and besteffort pods
 * have a cgroup of their class between (Kubernetes, "cgroup v2" and the kubelet's
 * pkg/kubelet/cm/pod_container_manager_linux.go). */
static ALWAYS_INLINE struct pod *pod_of_task(const struct node *node, __u64 *owner)
{
	struct pod *pod;

	*owner = bpf_get_current_ancestor_cgroup_id(node->pods_level + 1);
	pod = bpf_map_lookup_elem(&host_pods, owner);
	if (pod)
		return pod;
	*owner = bpf_get_current_ancestor_cgroup_id(node->pods_level + 2);
	pod = bpf_map_lookup_elem(&host_pods, owner);
	if (!pod)
		*owner = 0;
	return pod;
}

static ALWAYS_INLINE struct pod *pod_of_packet(const struct node *node, struct __sk_buff *skb)
{
	__u64 owner = bpf_skb_ancestor_cgroup_id(skb, node->pods_level + 1);
	struct pod *pod = bpf_map_lookup_elem(&host_pods, &owner);

	if (pod)
		return pod;
	owner = bpf_skb_ancestor_cgroup_id(skb, node->pods_level + 2);
	return bpf_map_lookup_elem(&host_pods, &owner);
}

/* A task in the cgroup of one pod, with a socket in the namespace of another one
 * or of nobody: 127.0.0.1 is not its listener there. */
static ALWAYS_INLINE struct caller foreigner(struct pod *task, struct pod *socket, __u64 owner)
{
	struct caller c = { .standing = PLAIN, .pod = task, .owner = owner };

	if (task->class == POD_GUARDED || (socket && socket->class == POD_GUARDED))
		c.standing = FOREIGN;
	return c;
}

/* By the socket's network namespace, which is the pod's; on the node's network by
 * the task's cgroup. Where both are known they must agree. A process from
 * elsewhere in a pod's namespace counts as the pod's. */
static ALWAYS_INLINE struct caller caller_of(struct bpf_sock_addr *ctx)
{
	struct caller c = { .standing = FREE };
	struct node *node = the_node();
	struct pod *task = NULL, *socket;
	bool inside;
	__u64 netns;

	if (!node)
		return c;
	if (is_postern()) {
		c.standing = AGENT;
		return c;
	}
	netns = bpf_get_netns_cookie(ctx);
	socket = bpf_map_lookup_elem(&pods, &netns);
	inside = bpf_get_current_ancestor_cgroup_id(node->pods_level) == node->pods_cgroup;
	if (inside)
		task = pod_of_task(node, &c.owner);
	if (socket && task && socket->index != task->index)
		return foreigner(task, socket, c.owner);
	c.pod = socket;
	if (!socket && task) {
		if (task->netns || netns != node->netns)
			return foreigner(task, NULL, c.owner);
		c.pod = task;
	}
	if (c.pod)
		c.standing = standing_of(node, c.pod);
	else if (inside)
		c.standing = UNKNOWN;
	return c;
}

/* For every packet that a socket of the node sends. Most are nobody's or a plain
 * pod's: two look-ups, and a helper for the former. By BPF statistics (Linux 6.18,
 * a busy machine of two CPUs) a run took 0.24 us for nobody's, 0.5 us for a plain
 * pod's, 0.7 us for a guarded one's; connect 0.5 to 1.3 us where nothing matched,
 * sockops 0.14 us. */
static ALWAYS_INLINE struct caller sender_of(struct __sk_buff *skb)
{
	struct caller c = { .standing = FREE };
	struct node *node = the_node();
	__u64 netns = 0;

	if (!node)
		return c;
	if (has_packet_netns) {
		netns = bpf_get_netns_cookie(skb);
		c.pod = bpf_map_lookup_elem(&pods, &netns);
	}
	if (!c.pod) {
		if (bpf_skb_ancestor_cgroup_id(skb, node->pods_level) != node->pods_cgroup)
			return c;
		c.pod = pod_of_packet(node, skb);
	}
	if (c.pod && c.pod->class == POD_PLAIN && !node->exclusive)
		return c;
	if (is_agent(bpf_skb_cgroup_id(skb))) {
		c.standing = AGENT;
		return c;
	}
	if (!c.pod)
		c.standing = UNKNOWN;
	else if (netns && netns != (c.pod->netns ? c.pod->netns : node->netns))
		c = foreigner(c.pod, NULL, 0);
	else
		c.standing = standing_of(node, c.pod);
	return c;
}

static ALWAYS_INLINE bool is_made_inside(struct __sk_buff *skb)
{
	struct node *node = the_node();

	return !node || bpf_skb_ancestor_cgroup_id(skb, node->pods_level) == node->pods_cgroup;
}

/* Index of the pod whose listener has the port in a namespace; 0: none. */
static ALWAYS_INLINE __u32 keeper_of(__u64 netns, __be16 port)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, &netns);
	struct node *node = the_node();
	__u32 *host;

	if (!port)
		return 0;
	if (pod)
		return pod->port == port ? pod->index : 0;
	if (!node || netns != node->netns)
		return 0;
	host = bpf_map_lookup_elem(&host_ports, &port);
	return host ? *host : 0;
}

static ALWAYS_INLINE bool is_kept(struct bpf_sock_addr *ctx, __be16 port)
{
	return keeper_of(bpf_get_netns_cookie(ctx), port) != 0;
}

static ALWAYS_INLINE bool is_accepted(struct bpf_sock_ops *op, __u32 *pod)
{
	*pod = keeper_of(bpf_get_netns_cookie(op), htons(op->local_port));
	return *pod != 0;
}

static ALWAYS_INLINE void report_call(struct bpf_sock_addr *ctx, const struct caller *c,
				      const struct address *a, enum why why)
{
	struct refusal r = { .addr = *a, .why = why };

	if (why != WHY_UNIX)
		r.port = ctx->user_port;
	r.netns = bpf_get_netns_cookie(ctx);
	r.cgroup = bpf_get_current_cgroup_id();
	r.pod = c->pod ? c->pod->index : 0;
	r.tgid = bpf_get_current_pid_tgid() >> 32;
	r.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(r.comm, sizeof(r.comm));
	tell(&r);
}

static ALWAYS_INLINE void report_packet(struct __sk_buff *skb, const struct caller *c,
					const struct destination *d)
{
	struct refusal r = { .addr = d->addr, .port = d->port, .why = WHY_PACKET };

	if (has_packet_netns)
		r.netns = bpf_get_netns_cookie(skb);
	r.cgroup = bpf_skb_cgroup_id(skb);
	r.pod = c->pod ? c->pod->index : 0;
	tell(&r);
}
