/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The origin record and its way from the connecting socket to the accepted. */
#ifndef POSTERN_ORIGIN_H
#define POSTERN_ORIGIN_H

#include "guards.h"

/* Where a connection wanted to go, and who opened it. */
struct origin {
	struct address addr; /* as dialled; v4 is v4-mapped */
	__u64 netns;         /* cookie of the socket's network namespace */
	__u64 cgroup;        /* of the task that connected */
	__u64 owner;         /* its ancestor that is the command's, or the pod's */
	__u64 cookie;        /* of the connecting socket */
	__u64 started;       /* the process: CLOCK_BOOTTIME, ns */
	__u64 exe_inode;     /* the file that it runs */
	__u32 exe_dev;       /* as the kernel has it: major << 20 | minor */
	__u32 pid;           /* thread */
	__u32 tgid;          /* process */
	__u32 uid;
	__u32 gid;
	__be16 port;
	__be16 listener;     /* port of the listener that it was led to */
	__u32 pod;           /* index of the listener's pod */
	__u32 held;          /* it counts among those that the pod holds */
	__u8 comm[16];
};

/* Connecting socket -> its origin. SK_STORAGE: written by connect, read by
 * getpeername, egress and sockops; goes with the connection, at the latest with
 * the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} client SEC(".maps");

/* Accepted socket -> the origin of its connection. SK_STORAGE: written by
 * sockops, read by the agent by descriptor; goes with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} accepted SEC(".maps");

/* The connecting end as both ends see it. The other end is the listener, and the
 * kernel has a connection between two ends of a namespace only once. */
struct tuple {
	__u64 netns;
	struct address addr;
	__u32 port; /* host order */
	__u32 pad;
};

static ALWAYS_INLINE void who(struct origin *o)
{
	struct task_struct *task = bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u64 uid_gid = bpf_get_current_uid_gid();
	struct task_struct *leader = NULL;
	struct mm_struct *mm = NULL;
	struct file *file = NULL;
	struct inode *inode = NULL;
	struct super_block *super = NULL;
	unsigned long ino = 0;

	o->cgroup = bpf_get_current_cgroup_id();
	o->pid = pid_tgid;
	o->tgid = pid_tgid >> 32;
	o->uid = uid_gid;
	o->gid = uid_gid >> 32;
	bpf_get_current_comm(o->comm, sizeof(o->comm));

	CORE_READ(&leader, &task->group_leader);
	CORE_READ(&o->started, &leader->start_boottime);
	CORE_READ(&mm, &task->mm);
	CORE_READ(&file, &mm->exe_file);
	CORE_READ(&inode, &file->f_inode);
	CORE_READ(&ino, &inode->i_ino);
	CORE_READ(&super, &inode->i_sb);
	CORE_READ(&o->exe_dev, &super->s_dev);
	o->exe_inode = ino;
}

/* Connections on their way: tuple -> origin; NULL: the pod has none. What a caller
 * of these functions has one of for each pod or command, so that one cannot
 * starve another. Written by sockops at TCP connect, moved to the accepted socket
 * and deleted at passive establish, deleted when the connecting socket closes.
 * HASH; full: connect refuses. */
static ALWAYS_INLINE void *tuples_of(__u32 pod);

/* A record is kept as long as its socket is if the connect fails before the kernel
 * knows of a connection, and a pod may make as many sockets as it has memory for:
 * each pod has a share of records. Whether it has one left, which is taken then. */
static ALWAYS_INLINE bool hold(__u32 pod);

/* Gives it back, once. */
static ALWAYS_INLINE void unhold(struct origin *o);

/* A place for one more in tuples, found by taking and giving it back: connect
 * can refuse, sockops cannot. A place lost in between costs the connection its
 * record, and the agent closes it. */
static ALWAYS_INLINE bool has_room(const struct origin *o)
{
	void *tuples = tuples_of(o->pod);
	struct tuple probe = { .netns = o->netns, .addr.word[0] = (__u32)o->cookie,
			       .addr.word[1] = o->cookie >> 32 };

	if (!tuples || bpf_map_update_elem(tuples, &probe, o, BPF_ANY))
		return false;
	bpf_map_delete_elem(tuples, &probe);
	return true;
}

static ALWAYS_INLINE struct tuple local_end(struct bpf_sock_ops *op, bool v4)
{
	struct tuple t = { .netns = bpf_get_netns_cookie(op), .port = op->local_port };

	if (v4) {
		t.addr = mapped(op->local_ip4);
		return t;
	}
	t.addr.word[0] = word(&op->local_ip6[0]);
	t.addr.word[1] = word(&op->local_ip6[1]);
	t.addr.word[2] = word(&op->local_ip6[2]);
	t.addr.word[3] = word(&op->local_ip6[3]);
	return t;
}

static ALWAYS_INLINE struct tuple remote_end(struct bpf_sock_ops *op)
{
	struct tuple t = { .netns = bpf_get_netns_cookie(op), .port = ntohl(op->remote_port) };

	if (op->family == AF_INET) {
		t.addr = mapped(op->remote_ip4);
		return t;
	}
	t.addr.word[0] = word(&op->remote_ip6[0]);
	t.addr.word[1] = word(&op->remote_ip6[1]);
	t.addr.word[2] = word(&op->remote_ip6[2]);
	t.addr.word[3] = word(&op->remote_ip6[3]);
	return t;
}

/* Before the SYN leaves. */
static ALWAYS_INLINE void publish(struct bpf_sock_ops *op, struct bpf_sock *sk)
{
	struct origin *o = bpf_sk_storage_get(&client, sk, NULL, 0);
	struct tuple t;
	void *tuples;

	if (!o)
		return;
	tuples = tuples_of(o->pod);
	if (!tuples)
		return;
	t = local_end(op, is_mapped(&o->addr));
	bpf_map_update_elem(tuples, &t, o, BPF_ANY);
	bpf_sock_ops_cb_flags_set(op, op->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Before accept returns: the kernel holds the new socket's lock. */
static ALWAYS_INLINE void receive(struct bpf_sock_ops *op, struct bpf_sock *sk, __u32 pod)
{
	void *tuples = tuples_of(pod);
	struct tuple t = remote_end(op);
	struct origin *o;

	if (!tuples)
		return;
	o = bpf_map_lookup_elem(tuples, &t);
	if (!o)
		return;
	bpf_sk_storage_get(&accepted, sk, o, BPF_SK_STORAGE_GET_F_CREATE);
	bpf_map_delete_elem(tuples, &t);
	count(pod, REDIRECTED);
}

/* A connect that was refused, or given up, must not lend its record to whoever
 * uses the port next. */
static ALWAYS_INLINE void forget(struct bpf_sock_ops *op, struct bpf_sock *sk)
{
	struct origin *o = bpf_sk_storage_get(&client, sk, NULL, 0), *published;
	struct tuple t;
	void *tuples;

	if (!o)
		return;
	tuples = tuples_of(o->pod);
	if (tuples) {
		t = local_end(op, is_mapped(&o->addr));
		published = bpf_map_lookup_elem(tuples, &t);
		if (published && published->cookie == o->cookie)
			bpf_map_delete_elem(tuples, &t);
	}
	unhold(o);
	bpf_sk_storage_delete(&client, sk);
}

#endif
