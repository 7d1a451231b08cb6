//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Ends connections that are older than the guard they would fall under. Needs
 * bpf_sock_destroy (Linux 6.5), hence an object of its own. */
#include "kernel.h"
#include "pods.h"
#include "run.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

extern int bpf_sock_destroy(struct sock_common *sk) __attribute__((section(".ksyms")));

static ALWAYS_INLINE struct address remote(struct sock_common *sk)
{
	struct address a;

	if (sk->skc_family == AF_INET)
		return mapped(sk->skc_daddr);
	a.word[0] = sk->skc_v6_daddr.in6_u.u6_addr32[0];
	a.word[1] = sk->skc_v6_daddr.in6_u.u6_addr32[1];
	a.word[2] = sk->skc_v6_daddr.in6_u.u6_addr32[2];
	a.word[3] = sk->skc_v6_daddr.in6_u.u6_addr32[3];
	return a;
}

/* Id of the ancestor at a level of the cgroup that made the socket; 0: it is not
 * that deep. */
static ALWAYS_INLINE __u64 maker(struct tcp_sock *tp, int at)
{
	struct cgroup *cgroup = NULL, *ancestor = NULL;
	struct kernfs_node *kn = NULL;
	int level = 0;
	__u64 id = 0;

	CORE_READ(&cgroup, &tp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup);
	CORE_READ(&level, &cgroup->level);
	if (at > level)
		return 0;
	CORE_READ(&ancestor, &cgroup->ancestors[at]);
	CORE_READ(&kn, &ancestor->kn);
	CORE_READ(&id, &kn->id);
	return id;
}

static ALWAYS_INLINE __u64 maker_itself(struct tcp_sock *tp)
{
	struct kernfs_node *kn = NULL;
	struct cgroup *cgroup = NULL;
	__u64 id = 0;

	CORE_READ(&cgroup, &tp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup);
	CORE_READ(&kn, &cgroup->kn);
	CORE_READ(&id, &kn->id);
	return id;
}

/* Writes one byte for each connection that it ended. */
SEC("iter/tcp")
int destroy(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct run *run = the_run();
	struct tcp_sock *tp;
	struct address a;
	__u8 one = 1;
	__u32 guard;

	if (!sk || !run || !sk->skc_dport)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk); /* neither a request nor in TIME_WAIT */
	if (!tp)
		return 0;
	a = remote(sk);
	if (is_listener(&run->pod, &a, sk->skc_dport))
		return 0;
	guard = find(&a, sk->skc_dport);
	if (!guard)
		return 0;
	if (maker(tp, COMMAND_LEVEL) != run->command && (ctx->uid != run->uid || !(guard & GUARD_TARGET)))
		return 0;
	if (!bpf_sock_destroy(sk))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}

/* On the node's network by the cgroup that made the socket, else by the
 * namespace. */
static ALWAYS_INLINE struct pod *pod_of_socket(const struct node *node, struct tcp_sock *tp,
					       __u64 netns)
{
	struct pod *pod = bpf_map_lookup_elem(&pods, &netns);
	__u64 owner;

	if (pod)
		return pod;
	owner = maker(tp, node->pods_level + 1);
	pod = bpf_map_lookup_elem(&host_pods, &owner);
	if (pod)
		return pod;
	owner = maker(tp, node->pods_level + 2);
	return bpf_map_lookup_elem(&host_pods, &owner);
}

/* As destroy, for the pods whose sockets are in the namespace of the reader. */
SEC("iter/tcp")
int destroy_pods(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct node *node = the_node();
	struct tcp_sock *tp;
	struct address a;
	struct pod *pod;
	__u8 one = 1;
	__u32 guard;

	if (!sk || !node || !sk->skc_dport)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	a = remote(sk);
	guard = find(&a, sk->skc_dport);
	if (!guard || is_agent(maker_itself(tp)))
		return 0;
	pod = pod_of_socket(node, tp, sk->skc_net.net->net_cookie);
	if (!pod || is_listener(pod, &a, sk->skc_dport))
		return 0;
	if (pod->class == POD_PLAIN && !(guard & GUARD_EXCLUSIVE))
		return 0;
	if (!bpf_sock_destroy(sk))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}
