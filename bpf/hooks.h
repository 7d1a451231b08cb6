/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* What the hooks do, for one command and for the pods of a node alike. Who the
 * caller is, says the object that includes this file: it defines what is declared
 * here without a body. */
#ifndef POSTERN_HOOKS_H
#define POSTERN_HOOKS_H

#include "guards.h"
#include "origin.h"
#include "packet.h"
#include "unix.h"

/* bpf_set_retval, Linux 5.18: a refusal is ECONNREFUSED. Without it, EPERM. */
const volatile bool has_set_retval = false;

enum verdict { REFUSE = 0, PROCEED = 1 };

enum standing {
	AGENT,   /* Postern itself */
	FREE,    /* nobody's: a process of the node */
	PLAIN,   /* refused what is exclusive */
	UNKNOWN, /* refused Targets */
	FOREIGN, /* refused what is guarded: its listener is not where its socket is */
	GUARDED, /* led to its listener */
	CLOSED,  /* refused everything: nobody has said yet what is guarded */
};

struct caller {
	enum standing standing;
	struct pod *pod; /* NULL: none that is known */
	__u64 owner;     /* the command's or pod's cgroup that the task is in; or 0 */
};

/* Who connects or sends a datagram. */
static ALWAYS_INLINE struct caller caller_of(struct bpf_sock_addr *ctx);

/* Whose packet it is. */
static ALWAYS_INLINE struct caller sender_of(struct __sk_buff *skb);

/* Whether it is known what is guarded. */
static ALWAYS_INLINE bool is_fed(void);

/* Whether the port is a listener's, where the socket is. */
static ALWAYS_INLINE bool is_kept(struct bpf_sock_addr *ctx, __be16 port);

/* Whether the caller is Postern itself. */
static ALWAYS_INLINE bool is_postern(void);

/* Whether a listener accepted it, and of which pod: ports lead elsewhere too. */
static ALWAYS_INLINE bool is_accepted(struct bpf_sock_ops *op, __u32 *pod);

/* Tells the agent of a refusal. */
static ALWAYS_INLINE void report_call(struct bpf_sock_addr *ctx, const struct caller *c,
				      const struct address *a, enum why why);
static ALWAYS_INLINE void report_packet(struct __sk_buff *skb, const struct caller *c,
					const struct destination *d);

/* What of a destination's guard counts for a caller. */
static ALWAYS_INLINE __u32 applies(const struct caller *c, __u32 guard)
{
	if (c->standing == GUARDED || c->standing == FOREIGN)
		return guard;
	if (c->standing == PLAIN)
		return guard & GUARD_EXCLUSIVE ? guard : 0;
	if (c->standing == UNKNOWN)
		return guard & GUARD_TARGET ? guard : 0;
	return 0;
}

static ALWAYS_INLINE enum why why(const struct caller *c)
{
	if (c->standing == PLAIN)
		return WHY_EXCLUSIVE;
	if (c->standing == UNKNOWN)
		return WHY_UNKNOWN;
	if (c->standing == FOREIGN)
		return WHY_FOREIGN;
	return WHY_REFUSED;
}

static ALWAYS_INLINE __u32 index_of(const struct caller *c)
{
	return c->pod ? c->pod->index : 0;
}

static ALWAYS_INLINE enum verdict forbidden(struct bpf_sock_addr *ctx, const struct caller *c,
					    const struct address *a, enum why why)
{
	count(index_of(c), REFUSED);
	report_call(ctx, c, a, why);
	return REFUSE;
}

/* As a server that is not there: what a client retries and reports best. */
static ALWAYS_INLINE enum verdict unreachable(struct bpf_sock_addr *ctx, const struct caller *c,
					      const struct address *a, enum why why)
{
	forbidden(ctx, c, a, why);
	if (has_set_retval)
		bpf_set_retval(-ECONNREFUSED);
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

static ALWAYS_INLINE bool remember(struct bpf_sock_addr *ctx, const struct caller *c,
				   const struct pod *pod, const struct address *a)
{
	struct origin o = { .addr = *a, .port = ctx->user_port };
	struct bpf_sock *sk = ctx->sk;
	struct origin *stored;

	if (!sk)
		return false;
	o.netns = bpf_get_netns_cookie(ctx);
	o.cookie = bpf_get_socket_cookie(ctx);
	o.owner = c->owner;
	o.pod = pod->index;
	o.listener = pod->port;
	who(&o);
	if (!has_room(&o))
		return false;
	stored = bpf_sk_storage_get(&client, sk, NULL, 0);
	if (stored)
		unhold(stored);
	if (!hold(o.pod))
		return false;
	o.held = true;
	stored = bpf_sk_storage_get(&client, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stored) {
		unhold(&o);
		return false;
	}
	*stored = o;
	return true;
}

/* v4-mapped stays v4-mapped: the socket may be bound to such an address. */
static ALWAYS_INLINE void redirect(struct bpf_sock_addr *ctx, __be16 port,
				   const struct address *a, bool v4)
{
	bool v4_mapped = is_mapped(a);

	ctx->user_port = port;
	if (v4) {
		ctx->user_ip4 = htonl(0x7f000001);
		return;
	}
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = v4_mapped ? htonl(0xffff) : 0;
	ctx->user_ip6[3] = v4_mapped ? htonl(0x7f000001) : htonl(1);
}

/* Goes where it wants to, without what an earlier connect of this socket left. */
static ALWAYS_INLINE enum verdict leave(struct bpf_sock_addr *ctx)
{
	struct origin *o;

	if (!ctx->sk)
		return PROCEED;
	o = bpf_sk_storage_get(&client, ctx->sk, NULL, 0);
	if (!o)
		return PROCEED;
	unhold(o);
	bpf_sk_storage_delete(&client, ctx->sk);
	return PROCEED;
}

/* First what costs least and lets most pass: the caller counts only for what is
 * guarded and for the listener. */
static ALWAYS_INLINE enum verdict on_connect(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a = dialled(ctx, v4);
	struct caller c;
	struct pod *pod;
	__u32 guard;

	guard = has_ports(ctx) ? find(&a, ctx->user_port) : 0;
	if (!guard && is_fed() && !is_loopback(&a))
		return leave(ctx);
	c = caller_of(ctx);
	if (c.standing == AGENT)
		return leave(ctx);
	if (c.standing == CLOSED)
		return unreachable(ctx, &c, &a, WHY_REFUSED);
	if (!has_ports(ctx))
		return PROCEED;
	if (ctx->type == SOCK_STREAM && is_loopback(&a) && is_kept(ctx, ctx->user_port))
		return forbidden(ctx, &c, &a, WHY_LISTENER);
	guard = applies(&c, guard);
	if (!guard)
		return leave(ctx);
	count(index_of(&c), SEEN);
	if (ctx->protocol != IPPROTO_TCP)
		return forbidden(ctx, &c, &a, WHY_PROTOCOL);
	pod = c.pod;
	if (c.standing != GUARDED || guard & GUARD_REFUSE || !pod || !pod->port)
		return unreachable(ctx, &c, &a, why(&c));
	if (!remember(ctx, &c, pod, &a))
		return unreachable(ctx, &c, &a, WHY_FULL);
	redirect(ctx, pod->port, &a, v4);
	return PROCEED;
}

/* The port is the listener's that this socket was led to: another one, and the
 * record is of an earlier connect. */
static ALWAYS_INLINE enum verdict on_getpeername(struct bpf_sock_addr *ctx, bool v4)
{
	struct origin *o = NULL;

	if (ctx->sk)
		o = bpf_sk_storage_get(&client, ctx->sk, NULL, 0);
	if (!o || ctx->user_port != o->listener)
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

/* Nobody steals the listener's connections by SO_REUSEPORT, or waits for the
 * agent to die and takes its place. */
static ALWAYS_INLINE enum verdict on_bind(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a;
	struct caller c;

	if (ctx->type != SOCK_STREAM || !is_kept(ctx, ctx->user_port) || is_postern())
		return PROCEED;
	c = caller_of(ctx);
	a = dialled(ctx, v4);
	return forbidden(ctx, &c, &a, WHY_LISTENER);
}

static ALWAYS_INLINE enum verdict on_sendmsg(struct bpf_sock_addr *ctx, bool v4)
{
	struct address a = dialled(ctx, v4);
	__u32 guard = find(&a, ctx->user_port);
	struct caller c;

	if (!guard && is_fed())
		return PROCEED;
	c = caller_of(ctx);
	if (c.standing == CLOSED)
		return unreachable(ctx, &c, &a, WHY_REFUSED);
	if (applies(&c, guard))
		return forbidden(ctx, &c, &a, WHY_PROTOCOL);
	return PROCEED;
}

static ALWAYS_INLINE enum verdict on_connect_unix(struct bpf_sock_addr *ctx)
{
	struct caller c = caller_of(ctx);
	struct address none = {};

	if (c.standing == AGENT || c.standing == FREE)
		return PROCEED;
	if (c.standing == CLOSED)
		return unreachable(ctx, &c, &none, WHY_REFUSED);
	if (applies(&c, find_unix(ctx)))
		return forbidden(ctx, &c, &none, WHY_UNIX);
	return PROCEED;
}

static ALWAYS_INLINE void on_sock_op(struct bpf_sock_ops *op)
{
	struct bpf_sock *sk = op->sk;
	__u32 pod = 0;

	if (!sk)
		return;
	if (op->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		publish(op, sk);
	else if (op->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && is_accepted(op, &pod))
		receive(op, sk, pod);
	else if (op->op == BPF_SOCK_OPS_STATE_CB && op->args[1] == BPF_TCP_CLOSE)
		forget(op, sk);
}

static ALWAYS_INLINE enum verdict dropped(struct __sk_buff *skb, const struct caller *c,
					  const struct destination *d)
{
	count(index_of(c), DROPPED);
	report_packet(skb, c, d);
	return REFUSE;
}

/* Raw sockets, connections from before, packets that NAT sent elsewhere. What
 * cannot be read to the end is dropped wherever it goes: with a port guarded on
 * every address, every fragment could be for it. */
static ALWAYS_INLINE enum verdict on_egress(struct __sk_buff *skb)
{
	struct caller c = sender_of(skb);
	struct bpf_sock *sk = skb->sk;
	struct destination d = {};
	enum packet kind;

	if (c.standing == AGENT || c.standing == FREE)
		return PROCEED;
	kind = read_packet(skb, &d);
	if (kind == PACKET_OTHER)
		return PROCEED;
	if (kind == PACKET_OPAQUE && (c.standing == PLAIN || c.standing == UNKNOWN))
		return PROCEED;
	if (kind == PACKET_OPAQUE || c.standing == CLOSED)
		return dropped(skb, &c, &d);
	if (is_end(skb, &d))
		return PROCEED;
	if (d.tcp && c.pod && is_listener(c.pod, &d.addr, d.port)) {
		if (sk)
			sk = bpf_sk_fullsock(sk);
		if (sk && bpf_sk_storage_get(&client, sk, NULL, 0))
			return PROCEED;
		return dropped(skb, &c, &d);
	}
	if (!applies(&c, find(&d.addr, d.port)))
		return PROCEED;
	return dropped(skb, &c, &d);
}

#endif
