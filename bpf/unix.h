/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* Unix sockets of guarded servers, by the name that the caller wrote. */
#ifndef POSTERN_UNIX_H
#define POSTERN_UNIX_H

#include "guards.h"

/* unix(7): sun_path. The last element of a path, padded with zeros. */
struct socket_name {
	__u8 byte[108];
};

/* Guarded unix sockets: name -> guard_flag. By the last element of the path
 * alone: a directory has too many names (links, "..", relative ones). Written by
 * the agent, read by connect_unix. HASH; full: the agent's Set fails. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct socket_name);
	__type(value, enum guard_flag);
} sockets SEC(".maps");

extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms")));

/* PostgreSQL's name for the socket beside TCP port n is ".s.PGSQL.<n>"
 * (src/include/libpq/pqcomm.h, UNIXSOCK_PATH). 0: another name. */
static ALWAYS_INLINE __be16 postgres_port(const struct socket_name *name)
{
	const char prefix[] = ".s.PGSQL.";
	__u32 port = 0;
	int i;

	for (i = 0; i < (int)sizeof(prefix) - 1; i++)
		if (name->byte[i] != prefix[i])
			return 0;
	for (; i < (int)sizeof(prefix) - 1 + 5 && name->byte[i]; i++) {
		if (name->byte[i] < '0' || name->byte[i] > '9')
			return 0;
		port = port * 10 + name->byte[i] - '0';
	}
	if (name->byte[i] || port > 0xffff)
		return 0;
	return htons(port);
}

struct walk {
	struct socket_name path;
	__u32 start; /* of the last element */
};

/* An abstract name begins with a zero byte and may hold more of them; in a path
 * the first one ends it. bpf_loop, as the verifier would follow every path
 * through a loop (Linux 5.17, older than connect_unix). */
static long step(__u32 i, struct walk *w)
{
	if (i >= sizeof(w->path.byte))
		return 1;
	if (!w->path.byte[i] && w->path.byte[0])
		return 1;
	if (w->path.byte[i] == '/' || (!i && !w->path.byte[0]))
		w->start = i + 1;
	return 0;
}

static ALWAYS_INLINE void last_element(struct bpf_sock_addr *ctx, struct socket_name *name)
{
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);
	const __u32 before = 2; /* sun_family */
	struct walk w = {};
	__u64 len, start;
	const char *from;

	len = kern->uaddrlen;
	if (len <= before)
		return;
	len -= before;
	if (len > sizeof(w.path))
		len = sizeof(w.path);
	from = (const char *)__builtin_preserve_access_index(&kern->uaddr->sun_path);
	if (bpf_probe_read_kernel(&w.path, len, from))
		return;
	bpf_loop(sizeof(w.path), step, &w, 0);
	start = w.start;
	if (start >= len)
		return;
	len -= start;
	if (len > sizeof(*name))
		return;
	bpf_probe_read_kernel(name, len, from + start);
}

/* Flags of the socket's guard; 0: not guarded. PostgreSQL's name goes with the
 * port on 127.0.0.1. */
static ALWAYS_INLINE __u32 find_unix(struct bpf_sock_addr *ctx)
{
	struct address loopback = mapped(htonl(0x7f000001));
	struct socket_name name = {};
	enum guard_flag *listed;
	__be16 port;

	last_element(ctx, &name);
	listed = bpf_map_lookup_elem(&sockets, &name);
	if (listed)
		return *listed;
	port = postgres_port(&name);
	return port ? find(&loopback, port) : 0;
}

#endif
