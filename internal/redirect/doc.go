// Package redirect is the kernel side of a guarded command ([Run]) and of a node's
// guarded pods ([Node]): it loads and attaches the programs of package bpf, tells
// them what is guarded, owns the listeners that guarded connections are led to,
// and tells where an accepted connection wanted to go and who opened it. What the
// hooks do is the same for both (bpf/hooks.h); who the caller is, is not.
//
// # A command
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
// # A node
//
//	(root of the hierarchy) all hooks of a command, and sock_release; ahead
//	│                       of others' programs
//	└── kubepods            connect, sendmsg and getpeername, on kernels that know
//	    │                   no "ahead" (before 6.15) with others at the root
//	    └── pod<uid>        known by its network namespace; on the node's
//	        └── container   network, by this cgroup
//
// A pod is plain, guarded or unknown ([Node.Classify]); a process of the node is
// none of these. The socket's namespace says which pod it is, whoever connects;
// where the task's cgroup says another one, what is guarded is refused, as
// 127.0.0.1 is not its listener there. Sockets of the cgroups that are exempt
// ([Node.Exempt]) are Postern's own.
//
// Nothing is pinned: programs stay attached to the root until reboot or
// [Uninstall]. A later process finds the maps through them, loads its programs
// with these maps and puts each in the place of its predecessor, so that there is
// always one. A listener of it may be beside that of the process before
// (SO_REUSEPORT), and nobody else's: bind refuses the port, and the port is not one
// that the kernel chooses from; a listener that got there while nobody was is found
// out by who made it.
//
// # Life of a command
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
//     pass no hook of a cgroup. A guarded command has no capabilities; of a pod,
//     they meet the program at the node's end of its link ([Node.Cover]).
//   - On a node: what a plain pod opens and hands over, or copies bytes for. A
//     Target that is exclusive refuses it to plain pods.
//   - On kernels before 6.15: whose namespace a packet is of. It counts by the
//     cgroup that made its socket; what a process from elsewhere sends in a pod's
//     namespace meets the program at the node's end alone.
//   - With programs ahead of others: what a program of the container's own cgroup
//     makes of an address afterwards, which takes a privileged container to attach.
//     The packets do not leave.
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
