//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

/* Leads a guarded command's connections to the agent, and closes the ways
 * around. internal/redirect attaches these programs and says where. */
#include "kernel.h"
#include "run.h"
#include "sections.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* As large as the agent says. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tuple);
	__type(value, struct origin);
} tuples SEC(".maps");

static ALWAYS_INLINE void *tuples_of(__u32 pod)
{
	return &tuples;
}

/* Whose memory a command uses is its user's. */
static ALWAYS_INLINE bool hold(__u32 pod)
{
	return true;
}

static ALWAYS_INLINE void unhold(struct origin *o)
{
}

static ALWAYS_INLINE bool is_fed(void)
{
	struct run *run = the_run();

	return run && run->pod.class == POD_GUARDED;
}

/* In another namespace 127.0.0.1 is not the agent. */
static ALWAYS_INLINE struct caller caller_of(struct bpf_sock_addr *ctx)
{
	struct run *run = the_run();
	struct caller c = { .standing = CLOSED };

	if (!run || run->pod.class != POD_GUARDED)
		return c;
	c.pod = &run->pod;
	c.owner = bpf_get_current_ancestor_cgroup_id(COMMAND_LEVEL);
	c.standing = bpf_get_netns_cookie(ctx) == run->pod.netns ? GUARDED : FOREIGN;
	return c;
}

static ALWAYS_INLINE struct caller sender_of(struct __sk_buff *skb)
{
	struct run *run = the_run();
	struct caller c = { .standing = CLOSED };

	if (!run || run->pod.class != POD_GUARDED)
		return c;
	c.pod = &run->pod;
	c.standing = GUARDED;
	return c;
}

/* No socket of the kernel's is in the command's cgroup, whose packets these are. */
static ALWAYS_INLINE bool is_made_inside(struct __sk_buff *skb)
{
	return true;
}

static ALWAYS_INLINE bool is_kept(struct bpf_sock_addr *ctx, __be16 port)
{
	struct run *run = the_run();

	return run && run->pod.port && run->pod.port == port;
}

/* It is in no cgroup that these programs are attached to. */
static ALWAYS_INLINE bool is_postern(void)
{
	return false;
}

static ALWAYS_INLINE bool is_accepted(struct bpf_sock_ops *op, __u32 *pod)
{
	struct run *run = the_run();

	return run && run->pod.port && htons(op->local_port) == run->pod.port;
}

/* A command sees itself what it is refused. */
static ALWAYS_INLINE void report_call(struct bpf_sock_addr *ctx, const struct caller *c,
				      const struct address *a, enum why why)
{
}

static ALWAYS_INLINE void report_packet(struct __sk_buff *skb, const struct caller *c,
					const struct destination *d)
{
}

static ALWAYS_INLINE enum verdict refused_other(void)
{
	count(0, OTHERS);
	return REFUSE;
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
	if (ctx->protocol == IPPROTO_TCP && is_listener(&run->pod, &a, ctx->user_port)) {
		if (ctx->sk && bpf_sk_storage_get(&client, ctx->sk, NULL, 0))
			return PROCEED;
		return refused_other(); /* whoever it is: each would be a record */
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
	return refused_other();
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
	if (find_unix(ctx) & (inside ? GUARD_SET : GUARD_TARGET))
		return refused_other();
	return PROCEED;
}
