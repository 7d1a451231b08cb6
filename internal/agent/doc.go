// Package agent wires the parts that guard one command, and owns their
// lifetimes.
//
//	caller's shell
//	└── agent       root; the trail, the proxy, the credentials; not dumpable
//	    ├── keeper  root, a session of its own; knows a pipe, a cgroup and the CA file, nothing else
//	    └── become  root for a moment, then the command as its user
//
// The order of a run:
//
//	check    who may read and write the files that the run rests on
//	clear    what runs left behind whose agent and keeper were killed
//	attach   cgroups, programs; from here on the command could connect nowhere guarded
//	keep     the keeper holds the other end of a pipe
//	listen   and tell the programs what is guarded
//	start    the command, born in its cgroup
//	serve    until the command ends
//	drain    sessions of what the command left running
//	release  kill what remains, wait until it is gone, only then detach
//	close    ledger, last record, last checkpoint
//
// Who dies when: the agent alone, and the keeper releases; the keeper alone, and
// the agent starts another; both, and the programs stay with the cgroup, where
// guarded connects find no listener (ECONNREFUSED) until the next run clears.
package agent
