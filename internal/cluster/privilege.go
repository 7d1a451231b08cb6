package cluster

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// strong are capabilities with which a process is not held by its namespaces, or
// can take the programs away: with them, or with all, nothing is enforced.
//
// Source: capabilities(7), Linux 6.9.
var strong = []string{"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SYS_RAWIO", "BPF", "PERFMON", "DAC_READ_SEARCH"}

// nodePaths are directories of the node through which a container reaches the
// runtime, the kernel's settings, other pods' files or what root on the node runs.
var nodePaths = []struct {
	path    string
	written bool // harmless while the container may only read; one connects to a socket all the same
	what    string
}{
	{"/run/containerd", false, "the container runtime"},
	{"/run/crio", false, "the container runtime"},
	{"/run/docker.sock", false, "the container runtime"},
	{"/run/cri-dockerd.sock", false, "the container runtime"},
	{"/run/k3s", false, "the container runtime"},
	{"/run/nri", false, "the container runtime"},
	{"/run/postern", false, "Postern's own files"},
	{"/var/lib/postern", false, "Postern's own files"},
	{"/var/log/postern", false, "Postern's own files"},
	{"/var/lib/kubelet", false, "other pods' files"},
	{"/var/lib/containerd", false, "other pods' files"},
	{"/var/lib/containers", false, "other pods' files"},
	{"/var/lib/docker", false, "other pods' files"},
	{"/sys/fs/bpf", true, "BPF programs"},
	{"/sys/fs/cgroup", true, "the cgroups"},
	{"/proc", true, "the node's processes and settings"},
	{"/etc", true, "what the node runs as root"},
	{"/usr", true, "what the node runs as root"},
	{"/opt/cni", true, "what the node runs as root"},
	{"/boot", true, "what the node runs as root"},
	{"/root", true, "what the node runs as root"},
}

const (
	// maxPrivileges is how many reasons are said of a pod: whoever writes its
	// specification may give each of many containers each of them.
	maxPrivileges = 16
	// maxPrivilegeBytes is how long one of them is.
	maxPrivilegeBytes = 160
)

// privilege is a reason why a pod may go around the guard. Those of one kind are said once.
type privilege struct {
	kind, text string
}

// privilegesOf lists why a pod may go around the guard. It judges what the pod was
// given, not whether a process in it uses it.
//
// Shape: one reason of a kind, of the first container that has it; printable ASCII;
// at most maxPrivileges of maxPrivilegeBytes.
func privilegesOf(spec *corev1.PodSpec) []string {
	var found []privilege
	if spec.HostPID {
		// Another pod's process of the same user and capabilities can be traced, and
		// its namespaces entered, without any capability: ptrace(2), access mode checks.
		found = append(found, privilege{"hostPID", "hostPID"})
	}
	for _, c := range containersOf(spec) {
		found = append(found, powersOf(c, spec.HostNetwork)...)
		found = append(found, mountsOf(c, spec.Volumes)...)
	}
	said := make(map[string]bool)
	var reasons []string
	for _, p := range found {
		if !said[p.kind] {
			said[p.kind] = true
			reasons = append(reasons, plainly(p.text))
		}
	}
	if more := len(reasons) - maxPrivileges + 1; more > 1 {
		reasons = append(reasons[:maxPrivileges-1], fmt.Sprintf("and %d more", more))
	}
	return reasons
}

// plainly makes text that a pod's author chose fit for a list of reasons: it takes as
// many bytes in JSON as it has, and no more than a share.
func plainly(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxPrivilegeBytes {
		return text[:maxPrivilegeBytes-3] + "..."
	}
	return text
}

// container is what ordinary, init and ephemeral containers have in common.
type container struct {
	name     string
	security *corev1.SecurityContext
	mounts   []corev1.VolumeMount
}

func containersOf(spec *corev1.PodSpec) []container {
	var all []container
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		all = append(all, container{c.Name, c.SecurityContext, c.VolumeMounts})
	}
	for _, c := range spec.EphemeralContainers {
		all = append(all, container{c.Name, c.SecurityContext, c.VolumeMounts})
	}
	return all
}

// noRaw tells whether no container of a pod may make raw packets: runtimes give
// NET_RAW by default, and a container that was refused it has none by whatever program.
func noRaw(spec *corev1.PodSpec) bool {
	all := containersOf(spec)
	return len(all) > 0 && !slices.ContainsFunc(all, container.mayMakeRaw)
}

func (c container) mayMakeRaw() bool {
	s := c.security
	if s == nil || s.Privileged != nil && *s.Privileged || s.Capabilities == nil {
		return true
	}
	added, dropped := capabilities(s.Capabilities.Add), capabilities(s.Capabilities.Drop)
	return !slices.Contains(dropped, "ALL") && !slices.Contains(dropped, "NET_RAW") ||
		slices.Contains(added, "NET_RAW") || slices.Contains(added, "ALL")
}

// capabilities are names as the kernel has them, without what they begin with.
func capabilities(list []corev1.Capability) (names []string) {
	for _, name := range list {
		names = append(names, strings.TrimPrefix(strings.ToUpper(string(name)), "CAP_"))
	}
	return names
}

func powersOf(c container, hostNetwork bool) []privilege {
	var found []privilege
	if s := c.security; s != nil {
		if s.Privileged != nil && *s.Privileged {
			return []privilege{{"privileged", fmt.Sprintf("container %s is privileged", c.name)}}
		}
		if s.Capabilities != nil {
			for _, name := range capabilities(s.Capabilities.Add) {
				if slices.Contains(strong, name) || hostNetwork && name == "NET_ADMIN" {
					found = append(found, privilege{name, fmt.Sprintf("container %s has %s", c.name, name)})
				}
			}
		}
	}
	if hostNetwork && c.mayMakeRaw() {
		found = append(found, privilege{"raw", fmt.Sprintf("container %s is on the host network with NET_RAW", c.name)})
	}
	return found
}

// mountsOf lists what of the node a container has mounted, the first reason for each mount.
func mountsOf(c container, volumes []corev1.Volume) []privilege {
	var found []privilege
	for _, m := range c.mounts {
		i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == m.Name && v.HostPath != nil })
		if i < 0 {
			continue
		}
		host := volumes[i].HostPath.Path
		for _, node := range nodePaths {
			if (!node.written || !m.ReadOnly) && overlaps(host, node.path) {
				found = append(found, privilege{node.what, fmt.Sprintf("container %s has the node's %s: %s", c.name, host, node.what)})
				break
			}
		}
	}
	return found
}

// overlaps tells whether one of two paths of the node lies in the other.
func overlaps(a, b string) bool {
	a = path.Clean("/" + a)
	if rest, ok := strings.CutPrefix(a, "/var/run"); ok && (rest == "" || rest[0] == '/') {
		a = "/run" + rest // a link, on every distribution that Kubernetes supports
	}
	within := func(inner, outer string) bool {
		return outer == "/" || inner == outer || strings.HasPrefix(inner, outer+"/")
	}
	return within(a, b) || within(b, a)
}
