package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// oldestTested is the oldest Linux on which the kernel side's tests are run.
var oldestTested = [2]int{6, 1}

// needed are the capabilities of the gate, as the chart gives them.
var needed = []struct {
	bit  int
	name string
}{
	{unix.CAP_BPF, "BPF"}, {unix.CAP_PERFMON, "PERFMON"}, {unix.CAP_NET_ADMIN, "NET_ADMIN"},
	{unix.CAP_SYS_ADMIN, "SYS_ADMIN"}, {unix.CAP_SYS_PTRACE, "SYS_PTRACE"}, {unix.CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH"},
}

// leastLogBytes is what a busy node's trail fills in hours rather than minutes.
const leastLogBytes = 2 << 30

// examine judges what was gathered, essential checks first.
func examine(f facts) []finding {
	checks := []func(facts) finding{
		checkKernel, checkTypes, checkCapabilities, checkCgroups, checkPrograms,
		checkPods, checkOrder, checkRefusals, checkUnix, checkPackets, checkLinks, checkEarlier,
		checkNRI, checkBoot, checkTokens, checkProcesses, checkConfinement, checkLandlock, checkSELinux, checkLockdown, checkUnprivileged, checkClock, checkRoom,
	}
	findings := make([]finding, 0, len(checks))
	for _, check := range checks {
		findings = append(findings, check(f))
	}
	return findings
}

// orNot is fine, missing, or what an error says.
func (f finding) orNot(has bool, err error) finding {
	switch {
	case err != nil:
		f.is, f.found = cannotTell, err.Error()
	case has:
		f.is = fine
	default:
		f.is = missing
	}
	return f
}

// either is one text or the other.
func either(first bool, yes, no string) string {
	if first {
		return yes
	}
	return no
}

func checkKernel(f facts) finding {
	old := f.version[0] < oldestTested[0] || f.version[0] == oldestTested[0] && f.version[1] < oldestTested[1]
	return finding{
		check: "kernel", found: "Linux " + f.release,
		means: fmt.Sprintf("It is older than %d.%d, the oldest that is tested; the check programs tells whether it will do", oldestTested[0], oldestTested[1]),
		do:    "Use a newer kernel",
	}.orNot(!old, nil)
}

func checkTypes(f facts) finding {
	err := f.kernel.FeaturesErr
	c := finding{check: "types", essential: true, found: "the kernel describes its types (BTF)"}
	if err == nil {
		return c.orNot(true, nil)
	}
	c.means, c.do = "The programs cannot be fitted to this kernel: nothing is guarded", "Run this as root, on a kernel built with CONFIG_DEBUG_INFO_BTF"
	if errors.Is(err, fs.ErrNotExist) {
		c.found = err.Error()
		return c.orNot(false, nil)
	}
	return c.orNot(false, err)
}

func checkCapabilities(f facts) finding {
	var lacks []string
	for _, c := range needed {
		if f.capabilities&(1<<c.bit) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	return finding{
		check: "capabilities", essential: true,
		found: either(len(lacks) == 0, "this process has those that the gate needs", "this process lacks "+strings.Join(lacks, ", ")),
		means: "The gate cannot load, attach or look into pods: nothing is guarded",
		do:    "Run this as root; in a cluster, allow them to the DaemonSet's gate (Pod Security: privileged, for Postern's namespace alone)",
	}.orNot(len(lacks) == 0, f.capabilitiesErr)
}

func checkCgroups(f facts) finding {
	c := finding{
		check: "cgroups", essential: true,
		means: "Programs cannot be attached: nothing is guarded",
		do:    "Mount it (mount -t cgroup2 none /sys/fs/cgroup), or name it with --cgroup-root and the chart's node.cgroupRoot",
	}
	if f.kernel.RootErr != nil {
		c.found = f.kernel.RootErr.Error()
		return c.orNot(false, nil)
	}
	c.found = "version 2 at " + f.kernel.Root
	if f.hybridErr == nil {
		c.found += either(f.hybrid, ", version 1 beside it", ", no version 1")
	}
	return c.orNot(true, nil)
}

func checkPrograms(f facts) finding {
	c := finding{
		check: "programs", essential: true, found: "the kernel takes all programs",
		means: "Nothing is guarded", do: "Run this as root; if it was, report the message with the kernel's release",
	}
	if err := f.kernel.LoadErr; err != nil {
		c.found = oneOf(err)
		if errors.Is(err, unix.EPERM) {
			return c.orNot(false, errors.New(c.found))
		}
		return c.orNot(false, nil)
	}
	return c.orNot(true, nil)
}

// oneOf is the first line of an error: the verifier's has many.
func oneOf(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func checkPods(f facts) finding {
	has := f.kernel.Pods != "" && f.kernel.PodsErr == nil
	c := finding{
		check: "pods", found: "pods' cgroup " + f.kernel.Pods,
		means: "The gate makes kubepods or kubepods.slice; where the kubelet uses another, pods are not told from the node's own processes",
		do:    "Start the kubelet, or name its cgroup with --pods-cgroup and the chart's node.podsCgroup",
	}
	if !has {
		c.found = "no kubepods and no kubepods.slice is there"
	}
	if errors.Is(f.kernel.PodsErr, fs.ErrNotExist) {
		return c.orNot(false, nil)
	}
	return c.orNot(has, f.kernel.PodsErr)
}

func checkOrder(f facts) finding {
	err := errors.Join(f.kernel.FirstErr, f.kernel.OthersErr)
	others := strings.Join(f.kernel.Others, ", ")
	c := finding{check: "order", found: "programs can come before all others (BPF_F_PREORDER)"}
	if f.kernel.First {
		if others != "" {
			c.found += ", and so before " + others
		}
		return c.orNot(true, err)
	}
	if others == "" {
		c.found = "the kernel cannot put programs first (BPF_F_PREORDER, Linux 6.15), and nobody else is there"
		c.means = "Postern attaches at the root. Who attaches there later, as a socket load balancer would, sees the listener's address and leaves it alone"
		c.do = "Nothing"
		return c.orNot(false, err)
	}
	c.found = "the kernel cannot put programs first (BPF_F_PREORDER, Linux 6.15), and others are there: " + others
	c.means = "Postern attaches to the pods' cgroup, before them. What a process outside of the pods' cgroup connects with a pod's socket is dropped instead of led to Postern"
	c.do = "Nothing, or use Linux 6.15"
	return c.orNot(false, err)
}

func checkRefusals(f facts) finding {
	return finding{
		check: "refusals", found: "bpf_set_retval (Linux 5.18): " + either(f.kernel.SetRetval, "there", "not there"),
		means: "A refused connection is EPERM instead of ECONNREFUSED, which some clients try again", do: "Use Linux 5.18",
	}.orNot(f.kernel.SetRetval, f.kernel.FeaturesErr)
}

func checkUnix(f facts) finding {
	return finding{
		check: "unix sockets", found: "connect_unix (Linux 6.7): " + either(f.kernel.UnixConnect, "there", "not there"),
		means: "A Target's unix sockets are not refused to pods that have them mounted", do: "Do not mount them into pods, or use Linux 6.7",
	}.orNot(f.kernel.UnixConnect, f.kernel.FeaturesErr)
}

func checkPackets(f facts) finding {
	return finding{
		check: "packets", found: "namespace of a packet in egress (Linux 6.15): " + either(f.kernel.PacketNetns, "there", "not there"),
		means: "Packets count by the cgroup that made their socket; what a process from elsewhere sends in a pod's namespace is stopped at the node's end of its link alone",
		do:    "Nothing, or use Linux 6.15",
	}.orNot(f.kernel.PacketNetns, f.kernel.FeaturesErr)
}

func checkLinks(f facts) finding {
	return finding{
		check: "links", found: "tcx (Linux 6.6): " + either(f.kernel.TCX, "there", "not there, clsact is used"),
		means: "Raw packets are stopped all the same, unless another's filter with the same priority comes first", do: "Nothing, or use Linux 6.6",
	}.orNot(f.kernel.TCX, f.kernel.FeaturesErr)
}

func checkEarlier(f facts) finding {
	return finding{
		check: "earlier", found: "bpf_sock_destroy (Linux 6.5): " + either(f.kernel.SockDestroy, "there", "not there"),
		means: "Connections from before the label are ended by netlink, which needs CONFIG_INET_DIAG_DESTROY; without it they live on, and their packets are dropped",
		do:    "Nothing, or use Linux 6.5",
	}.orNot(f.kernel.SockDestroy, f.kernel.FeaturesErr)
}

func checkNRI(f facts) finding {
	c := finding{
		check: "NRI", found: "a socket is at " + f.nri,
		means: "A new pod is refused its Targets for the moment until it has been seen, instead of being guarded before it starts",
		do:    "Turn NRI on in the runtime (containerd has it on from 2.0), or empty the chart's node.nri",
	}
	if f.nriErr != nil {
		c.found = f.nriErr.Error()
		if errors.Is(f.nriErr, fs.ErrPermission) {
			return c.orNot(false, f.nriErr)
		}
	}
	return c.orNot(f.nriErr == nil, nil)
}

func checkBoot(f facts) finding {
	c := finding{
		check: "boot", found: either(f.arms, "a unit at "+f.units+" arms the node before pods start", "no unit at "+f.units+" arms the node before pods start"),
		means: "After a reboot guarded pods reach their Targets directly until the agent is there; the trail says how long",
		do:    "Set the chart's boot.install, or run postern agent install on the node",
	}
	if f.armsErr != nil {
		c.found, c.do = f.armsErr.Error(), "Name the node's folder with --unit-dir; where there is none, run postern agent arm before the kubelet"
		return c.orNot(false, errors.New(c.found))
	}
	return c.orNot(f.arms, nil)
}

func checkTokens(f facts) finding {
	c := finding{
		check: "tokens", found: "pods' volumes are below " + f.kubelet,
		means: "Pods' tokens cannot be read: policies with requireToken refuse everybody here",
		do:    "Name the kubelet's folder with --kubelet-root and the chart's node.kubeletRoot",
	}
	if f.podsErr != nil {
		c.found = f.podsErr.Error()
		if !errors.Is(f.podsErr, fs.ErrNotExist) {
			return c.orNot(false, f.podsErr)
		}
	}
	return c.orNot(f.podsErr == nil, nil)
}

func checkProcesses(f facts) finding {
	return finding{
		check: "processes", found: either(f.ownPIDs, "process IDs here are not the kernel's: a nested node (kind), or no hostPID", "process IDs are the kernel's"),
		means: "Records have the pod and the container, but the process ID is the machine's, and the executable is not found",
		do:    "Nothing on a nested node; elsewhere run this with hostPID",
	}.orNot(!f.ownPIDs, f.ownPIDsErr)
}

func checkConfinement(f facts) finding {
	return finding{
		check: "AppArmor", found: either(f.apparmor == "", "this process is not confined", "this process is confined by "+f.apparmor),
		means: "The gate may not look into other processes: on some nodes pods are then not found",
		do:    "Let the gate run unconfined, as the chart says",
	}.orNot(f.apparmor == "", nil)
}

func checkLandlock(f facts) finding {
	return finding{
		check: "Landlock", found: either(f.noLandlock == "", "the agent can confine itself", f.noLandlock),
		means: "The agent keeps its user's rights on files: taken over, it could read what processes of the same user on the node hold",
		do:    "Use a kernel with landlock in its list of security modules (lsm=), and a seccomp profile that lets it through",
	}.orNot(f.noLandlock == "", f.landlockErr)
}

func checkSELinux(f facts) finding {
	// spc_t is what runtimes give to privileged containers; the others are the host's own.
	held := f.selinux != "" && f.selinux != "spc_t" && !strings.HasPrefix(f.selinux, "unconfined") && f.selinux != "init_t"
	return finding{
		check: "SELinux", found: either(f.selinux == "", "it is not in force", "it is in force, and this process is "+f.selinux),
		means: "The gate may be kept from loading programs and from looking into pods: the check programs tells of the former",
		do:    "Give the gate the type spc_t (securityContext.seLinuxOptions), which the chart does not ask for",
	}.orNot(!held, nil)
}

func checkLockdown(f facts) finding {
	c := finding{
		check: "lockdown", found: "the kernel is locked down to " + f.lockdown,
		means: "The kernel refuses programs that tell which process connects: nothing is guarded",
		do:    "Boot with lockdown=integrity, or none",
	}
	if errors.Is(f.lockdownErr, fs.ErrNotExist) {
		c.means, c.do = "Locked down to confidentiality, the kernel would refuse the programs: the check programs tells", "Nothing"
		return c.orNot(false, errors.New("no /sys/kernel/security/lockdown here"))
	}
	if f.lockdown == "none" {
		c.found = "the kernel is not locked down"
	}
	return c.orNot(f.lockdown != "confidentiality", f.lockdownErr)
}

func checkUnprivileged(f facts) finding {
	return finding{
		check: "others' BPF", found: "kernel.unprivileged_bpf_disabled is " + f.unprivBPF,
		means: "Any process may load programs of its own. They cannot detach Postern's, but flaws of the verifier are within reach of pods without a seccomp profile",
		do:    "sysctl -w kernel.unprivileged_bpf_disabled=1",
	}.orNot(f.unprivBPF != "0", f.unprivErr)
}

func checkClock(f facts) finding {
	return finding{
		check: "clock", found: either(f.synced, "the clock is synchronised", "nothing synchronises the clock"),
		means: "Tokens may seem expired or not yet valid, and the trail's times are the machine's own", do: "Run chrony or systemd-timesyncd",
	}.orNot(f.synced, f.clockErr)
}

func checkRoom(f facts) finding {
	return finding{
		check: "log's disk", found: fmt.Sprintf("%.1f GiB free at %s", float64(f.freeBytes)/(1<<30), f.logDir),
		means: "When the trail cannot be written, every guarded request is refused", do: "Make room (2 GiB at least), or put the chart's node.logDir on another disk",
	}.orNot(f.freeBytes >= leastLogBytes, f.freeErr)
}
