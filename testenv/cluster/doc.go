/*
Command cluster runs a one-node Kubernetes on this machine, for tests: the real
kubelet, containerd, kube-proxy and API server, built from source, in namespaces
of their own, with images that are built here.

	cluster up [--before-kubelet COMMAND]      build what is lacking, start, wait
	cluster down                               end it, leave nothing behind
	cluster reboot [--before-kubelet COMMAND]  cut the node's power, boot it again
	cluster image                              the product's image, built and imported anew
	cluster images                             build every program and image
	cluster enter COMMAND...                   run a command in the node
	cluster kubectl ARGUMENT...                kubectl as cluster-admin
	cluster hold PROGRAM                       kill a program of the node, keep it away
	cluster release PROGRAM                    let it start again
	cluster status                             print cluster.json

A command ends with 0 when what it says is so, else with 1 and the reason on
stderr; enter and kubectl are replaced by what they run and end as that does. up
and down may be called at any time. Steps go to stderr, one a line.

	POSTERN_CLUSTER         the state folder (testenv/cluster/out)
	POSTERN_CLUSTER_PROXY   kube-proxy's mode, nftables (default) or iptables
	POSTERN_CLUSTER_BINARY  the product's binary, if none is to be built

# The node

	machine                     │ node (network, UTS, IPC, mount namespace)
	────────────────────────────┼──────────────────────────────────────────────────
	postern-node 10.200.0.1 ════╪═ eth0 10.200.0.2     pods 10.244.0.0/24
	     fd00:10:200::1         │      fd00:10:200::2       fd00:10:244::/64
	routes to pods and Services │                      Services 10.96.0.0/16
	                            │                           fd00:10:96::/112

The machine reaches the API server (10.200.0.2:6443), pods and Services. It does
not forward, so nothing in the node reaches anything beyond the machine.

Of the machine's files the node sees everything but what it has for itself: /run
(empty at each boot), a bpffs at /sys/fs/bpf (likewise), /etc (a layer over the
machine's), /var/lib, /var/log and /opt (its own, kept over a reboot), the boot
ID, and the state folder at /run/cluster. What a pod writes by a hostPath
elsewhere is the machine's.

The cgroup v2 root is the machine's, where it has it, pure or beside v1
controllers: the node's programs are in /postern-node, pods in /kubepods. There
is no cgroup namespace between, so that programs attached at the root see all
processes, as on any node.

There is no process ID namespace. The pids that BPF helpers, NRI and the runtime
hand out are those of the first namespace, and an agent that looks them up in its
host's /proc must find them; with a namespace for the node, only an agent that
translates them would work, which no real node asks of it. The price is that
process 1 is the machine's, not the node's: in the node, /proc/1/ns/mnt leads to
the machine's mounts and its bpffs. What stands for "the mount namespace of
process 1" is that of the node's first process, cluster.json's pid. An agent in
a pod reaches that namespace's bpffs by a hostPath of /sys/fs/bpf with mount
propagation HostToContainer, and can tell that it outlives the pod: the mount is
a bpffs, and a slave (master:N in /proc/self/mountinfo), thus propagated from
outside its container.

# Reboot

reboot kills every process at once, by cgroup.kill, removes the link, and boots
the same node again out of the disk that it had: etcd's, the kubelet's and
containerd's state are there, bpffs, /run, namespaces and rules are not. The
kubelet restarts bound pods without asking the scheduler, with new addresses; it
records the event Rebooted. The command before the kubelet runs in the node when
mounts and network are up and nothing of Kubernetes is, not even containerd; one
that fails, or takes a minute, stops the boot.

# The images

	localhost/postern:dev            Postern's binary, /postern, on nothing
	localhost/postern-workload:dev   Debian with PostgreSQL, Python, autogen, kubectl;
	                                 commands idle (default) and serve-postgres

They are in the node's containerd already: pods say imagePullPolicy Never or
IfNotPresent.
*/
package main
