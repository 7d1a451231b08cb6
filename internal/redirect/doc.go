// Package redirect is the kernel side of a guarded command: it loads and
// attaches the programs of package bpf, tells them what is guarded, owns the
// listeners that guarded connections are led to, and tells where an accepted
// connection wanted to go and who opened it.
//
//	postern-<id>            sockops
//	├── agent               the agent and its keeper; never hooked
//	└── command             connect4/6 connect_unix getpeername4/6 bind4/6
//	                        sendmsg4/6 egress
//	(root of the hierarchy) others4/6 others_send4/6 others_unix
//
//	command                 kernel                              agent
//	connect(db:5432) ─────▶ connect4: guarded; origin record
//	                        into the socket's storage; address
//	                        becomes 127.0.0.1:P
//	                        sockops, TCP connect: record into
//	                        tuples
//	                        sockops, passive establish: record
//	                        into the accepted socket's storage ─▶ accept
//	                                                              Origin(conn)
//
// # Life
//
// Programs are attached to the cgroups themselves and not by links, so they
// live exactly as long as the cgroup does, whoever dies: no process and no
// pinned file has to stay for the guard to stay. With the agent gone there is
// no listener and a guarded connect is ECONNREFUSED. [Release] ends a run:
// it kills the command, waits until its cgroup is empty, and only then detaches
// what is at the root and removes the cgroups. [Clear] does the same for runs
// whose agent and keeper are both gone. A run is alive while a process is in
// its agent cgroup; process ids are not asked, for they are used again.
//
// # What it does not see
//
//   - Frames written to a packet socket (AF_PACKET, needs CAP_NET_RAW): they
//     pass no hook of a cgroup. A guarded command has no capabilities.
//   - A connection that a process outside opened and hands over, or copies
//     bytes for. Where the uid is the command's, the root programs refuse it
//     the Targets.
//   - Another process that the user makes run under a further uid of his
//     (subordinate ids: rootless containers on the host's network).
//   - A unix socket reached under another name: connect_unix sees the path
//     that the caller wrote, not the socket it leads to, so a symbolic link,
//     hard link or bind mount called otherwise passes. Only a security module
//     hook sees both ends, and these are not everywhere.
//
// # What the command can see
//
//   - getsockname tells a loopback address.
//   - All guarded connections end at one address: there can be as many at a time
//     as the machine has local ports, some 28,000, and two from one local port
//     cannot be.
//   - Multipath TCP shows the listener's address to getpeername: the kernel
//     asks the outer socket, the record lies with the subflow.
package redirect
