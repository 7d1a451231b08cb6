//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Ends connections that are older than the guard they would fall under. Needs
 * bpf_sock_destroy (Linux 6.5), hence an object of its own. */
#include "kernel.h"
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

static ALWAYS_INLINE bool is_inside(struct tcp_sock *tp, const struct run *run)
{
	struct cgroup *cgroup = tp->inet_conn.icsk_inet.sk.sk_cgrp_data.cgroup;
	struct cgroup *ancestor = NULL;
	struct kernfs_node *kn = NULL;
	int level = 0;
	__u64 id = 0;

	CORE_READ(&level, &cgroup->level);
	if (level < COMMAND_LEVEL)
		return false;
	CORE_READ(&ancestor, &cgroup->ancestors[COMMAND_LEVEL]);
	CORE_READ(&kn, &ancestor->kn);
	CORE_READ(&id, &kn->id);
	return id == run->command;
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
	if (!is_inside(tp, run) && (ctx->uid != run->uid || !(guard & GUARD_TARGET)))
		return 0;
	if (!bpf_sock_destroy(sk))
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}
