//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Leads a guarded command's connections to the agent, and closes the ways
 * around. internal/redirect attaches these programs and says where. */
#include "kernel.h"
#include "guards.h"
#include "origin.h"
#include "packet.h"
#include "unix.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* bpf_set_retval, Linux 5.18: a refusal is ECONNREFUSED. Without it, EPERM. */
const volatile bool has_set_retval = false;

enum verdict { REFUSE = 0, PROCEED = 1 };

/* As a server that is not there: what a client retries and reports best. */
static ALWAYS_INLINE enum verdict unreachable(void)
{
	count(REFUSED);
	if (has_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static ALWAYS_INLINE enum verdict forbidden(enum counter counter)
{
	count(counter);
	return REFUSE;
}

static ALWAYS_INLINE struct address dialled(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a;

	if (v4) {
		a = mapped(ctx->user_ip4);
	} else {
		a.word[0] = word(&ctx->user_ip6[0]);
		a.word[1] = word(&ctx->user_ip6[1]);
		a.word[2] = word(&ctx->user_ip6[2]);
		a.word[3] = word(&ctx->user_ip6[3]);
	}
	name_loopback(&a);
	return a;
}

/* What a ping socket has in the place of a port is none. */
static ALWAYS_INLINE bool has_ports(struct bpf_sock_addr *ctx)
{
	return ctx->protocol != IPPROTO_ICMP && ctx->protocol != IPPROTO_ICMPV6;
}

static ALWAYS_INLINE bool remember(struct bpf_sock_addr *ctx, const struct address *a)
{
	struct origin o = { .addr = *a, .port = ctx->user_port };
	struct bpf_sock *sk = ctx->sk;
	struct origin *stored;

	if (!sk)
		return false;
	o.netns = bpf_get_netns_cookie(ctx);
	o.cookie = bpf_get_socket_cookie(ctx);
	who(&o);
	if (!has_room(&o))
		return false;
	stored = bpf_sk_storage_get(&client, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stored)
		return false;
	*stored = o;
	return true;
}

/* v4-mapped stays v4-mapped: the socket may be bound to such an address. */
static ALWAYS_INLINE void redirect(struct bpf_sock_addr *ctx, const struct run *run,
				   const struct address *a, bool v4)
{
	bool v4_mapped = is_mapped(a);

	ctx->user_port = run->port;
	if (v4) {
		ctx->user_ip4 = htonl(0x7f000001);
		return;
	}
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = v4_mapped ? htonl(0xffff) : 0;
	ctx->user_ip6[3] = v4_mapped ? htonl(0x7f000001) : htonl(1);
}

static ALWAYS_INLINE enum verdict on_connect(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a = dialled(ctx, v4);
	struct run *run = the_run();
	__u32 guard;

	if (!run || !run->fed)
		return unreachable();
	if (!has_ports(ctx))
		return PROCEED;
	if (ctx->type == SOCK_STREAM && is_listener(run, &a, ctx->user_port))
		return forbidden(REFUSED);
	guard = find(&a, ctx->user_port);
	if (!guard) {
		if (ctx->sk) /* of an earlier connect of this socket */
			bpf_sk_storage_delete(&client, ctx->sk);
		return PROCEED;
	}
	count(SEEN);
	if (ctx->protocol != IPPROTO_TCP)
		return forbidden(REFUSED);
	/* In another namespace 127.0.0.1 is not the agent. */
	if (guard & GUARD_REFUSE || !run->port || bpf_get_netns_cookie(ctx) != run->netns)
		return unreachable();
	if (!remember(ctx, &a))
		return unreachable();
	redirect(ctx, run, &a, v4);
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, false);
}

static ALWAYS_INLINE enum verdict on_getpeername(struct bpf_sock_addr *ctx, bool v4)
{
	struct run *run = the_run();
	struct origin *o = NULL;

	if (ctx->sk)
		o = bpf_sk_storage_get(&client, ctx->sk, NULL, 0);
	if (!run || !o || ctx->user_port != run->port)
		return PROCEED;
	ctx->user_port = o->port;
	if (v4) {
		ctx->user_ip4 = o->addr.word[3];
		return PROCEED;
	}
	ctx->user_ip6[0] = o->addr.word[0];
	ctx->user_ip6[1] = o->addr.word[1];
	ctx->user_ip6[2] = o->addr.word[2];
	ctx->user_ip6[3] = o->addr.word[3];
	return PROCEED;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return on_getpeername(ctx, false);
}

/* Nobody steals the listener's connections by SO_REUSEPORT, or waits for the
 * agent to die and takes its place. */
static ALWAYS_INLINE enum verdict on_bind(struct bpf_sock_addr *ctx)
{
	struct run *run = the_run();

	if (run && run->port && ctx->user_port == run->port && ctx->type == SOCK_STREAM)
		return forbidden(REFUSED);
	return PROCEED;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx);
}

static ALWAYS_INLINE enum verdict on_sendmsg(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a = dialled(ctx, v4);
	struct run *run = the_run();

	if (!run || !run->fed)
		return unreachable();
	if (find(&a, ctx->user_port))
		return forbidden(REFUSED);
	return PROCEED;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, true);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return on_sendmsg(ctx, false);
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *op)
{
	struct bpf_sock *sk = op->sk;

	if (!sk)
		return PROCEED;
	if (op->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		publish(op, sk);
	else if (op->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && is_ours(op))
		receive(op, sk);
	else if (op->op == BPF_SOCK_OPS_STATE_CB && op->args[1] == BPF_TCP_CLOSE)
		forget(op, sk);
	return PROCEED;
}

/* Raw sockets, connections from before, packets that NAT sent elsewhere. What
 * cannot be read to the end is dropped wherever it goes: with a port guarded on
 * every address, every fragment could be for it. */
static ALWAYS_INLINE enum verdict on_egress(struct __sk_buff *skb)
{
	struct run *run = the_run();
	struct bpf_sock *sk = skb->sk;
	struct destination d = {};
	enum packet kind = read_packet(skb, &d);

	if (kind == PACKET_OTHER)
		return PROCEED;
	if (kind == PACKET_OPAQUE || !run || !run->fed)
		return forbidden(DROPPED);
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (d.tcp && is_listener(run, &d.addr, d.port)) {
		if (sk && bpf_sk_storage_get(&client, sk, NULL, 0))
			return PROCEED;
		return forbidden(DROPPED);
	}
	if (!find(&d.addr, d.port))
		return PROCEED;
	/* The end of an earlier connection, or its server would wait for hours. */
	if (d.reset && sk && sk->type == SOCK_STREAM)
		return PROCEED;
	return forbidden(DROPPED);
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return on_egress(skb);
}

SEC("cgroup/connect_unix")
int connect_unix(struct bpf_sock_addr *ctx)
{
	struct run *run = the_run();

	if (!run || !run->fed)
		return unreachable();
	if (is_guarded_unix(ctx, GUARD_SET))
		return forbidden(REFUSED);
	return PROCEED;
}

/* At the root of all cgroups: the other processes of the command's user, which
 * it could have started through systemd, cron or a terminal server. Programs of
 * lower cgroups come first, so that what this run or another one redirected
 * shows the listener's address here. */
static ALWAYS_INLINE enum verdict on_others(struct bpf_sock_addr *ctx, bool v4)
{
	struct run *run = the_run();
	struct address a;
	__u32 guard;
	bool inside;

	if (!run || !has_ports(ctx))
		return PROCEED;
	a = dialled(ctx, v4);
	if (ctx->protocol == IPPROTO_TCP && is_listener(run, &a, ctx->user_port)) {
		if (ctx->sk && bpf_sk_storage_get(&client, ctx->sk, NULL, 0))
			return PROCEED;
		return forbidden(OTHERS); /* whoever it is: each would be a record */
	}
	if ((__u32)bpf_get_current_uid_gid() != run->uid)
		return PROCEED;
	guard = find(&a, ctx->user_port);
	if (!guard)
		return PROCEED;
	/* A task of the command whose socket is not: handed over from outside. */
	inside = bpf_get_current_ancestor_cgroup_id(COMMAND_LEVEL) == run->command;
	if (!inside && !(guard & GUARD_TARGET))
		return PROCEED;
	return forbidden(OTHERS);
}

SEC("cgroup/connect4")
int others4(struct bpf_sock_addr *ctx)
{
	return on_others(ctx, true);
}

SEC("cgroup/connect6")
int others6(struct bpf_sock_addr *ctx)
{
	return on_others(ctx, false);
}

SEC("cgroup/sendmsg4")
int others_send4(struct bpf_sock_addr *ctx)
{
	return on_others(ctx, true);
}

SEC("cgroup/sendmsg6")
int others_send6(struct bpf_sock_addr *ctx)
{
	return on_others(ctx, false);
}

SEC("cgroup/connect_unix")
int others_unix(struct bpf_sock_addr *ctx)
{
	struct run *run = the_run();
	bool inside;

	if (!run || (__u32)bpf_get_current_uid_gid() != run->uid)
		return PROCEED;
	inside = bpf_get_current_ancestor_cgroup_id(COMMAND_LEVEL) == run->command;
	if (is_guarded_unix(ctx, inside ? GUARD_SET : GUARD_TARGET))
		return forbidden(OTHERS);
	return PROCEED;
}
