/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */

/* The one guarded command of `postern run`. */
#ifndef POSTERN_RUN_H
#define POSTERN_RUN_H

#include "guards.h"

struct run {
	__u64 command;  /* id of its cgroup */
	struct pod pod; /* its listeners; of class POD_GUARDED when guards are
			 * complete: before, everything is refused */
	__u32 uid;      /* its user */
	__u32 pad;
};

/* Depth of the command's cgroup, postern-<id>/command, below the root. */
enum { COMMAND_LEVEL = 2 };

/* The one guarded command. ARRAY: 0 -> run. Written by the agent; read by every
 * program, and by whoever clears up after a dead agent, who knows a program at
 * the root by it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct run);
} postern_run SEC(".maps");

static ALWAYS_INLINE struct run *the_run(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&postern_run, &zero);
}

#endif
