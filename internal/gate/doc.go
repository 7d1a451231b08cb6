// Package gate is the privileged one of a node's two processes. It owns what
// needs privilege: the programs in the kernel, the pods' network namespaces,
// the sockets in them, and the files of the kubelet. It never reads a byte that
// a pod or a server sent: connections go on, as descriptors, to the agent, which
// reads them and has no privilege. A flaw in a protocol costs the agent, not
// the node.
//
//	pod            kernel            gate (root)               agent (uid 65532)
//	                                 ◀── guard, pods ───────── policy, API server
//	               ◀── classify ──── namespace, listeners
//	connect ─────▶ to listener ────▶ accept, origin, process
//	                                 ─── conn + descriptor ──▶ reads, decides
//	                                 ◀── socket ──────────────
//	                                 ─── descriptor ─────────▶ connects, logs in
//
// # The wire
//
// A unix stream socket. A frame is four bytes of length, most significant byte
// first, and so many bytes of one JSON object; descriptors come with the first
// byte of their frame (SCM_RIGHTS) and go from the gate to the agent only. The
// agent calls, each call with a number that its reply repeats; the gate sends
// connections and events of its own accord.
//
// # What the agent is trusted with
//
// A process of the agent's uid in the gate's own pod is served, one at a time.
// Should it have been taken over, it can do what its calls do. It can say which
// addresses are guarded, more or fewer; the gate logs how many. It can say which
// pods are: of one that was guarded once it cannot take the guard, but it can let a
// Target be no Target. It gets unconnected TCP sockets in the network namespaces of
// this node's guarded pods and in the node's, with which it reaches what they reach:
// their loopback, and the cloud's metadata service, too. And it reads tokens for the
// audience postern of this node's guarded pods, and nothing else of their volumes.
//
// It cannot name a path, a namespace or a process, nor get descriptors of a pod that
// is not guarded; what it writes in the folder of the socket is not followed; no frame
// or number of frames ends the gate or lets it grow.
//
// # Pods that nobody knows
//
// A pod is unknown, and refused Targets, until the agent has listed it: what guards
// it may be its namespace. A runtime that tells of pods (NRI) is believed at once that
// one is guarded, by its label or a namespace of which the agent has spoken, and that
// one is of kube-system or Postern's own namespace and is not: there would be no agent
// to speak of it. Without such a runtime these too are unknown until they are listed.
//
// # When the agent is away
//
// Its connection ends, every pod's listeners close at once, and the kernel
// answers guarded connects with ECONNREFUSED. Nothing else changes: programs,
// classes and the guarded set stay. They stay too when the gate ends.
package gate
