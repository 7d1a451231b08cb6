/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The programs that a command and a node have both. */
#ifndef POSTERN_SECTIONS_H
#define POSTERN_SECTIONS_H

#include "hooks.h"

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

SEC("cgroup/connect_unix")
int connect_unix(struct bpf_sock_addr *ctx)
{
	return on_connect_unix(ctx);
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

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx, true);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return on_bind(ctx, false);
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
	on_sock_op(op);
	return PROCEED;
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return on_egress(skb);
}

#endif
