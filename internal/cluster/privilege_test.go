package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// crowded is a pod of many containers, each with every capability, twice, and with
// many of the node's directories, whose names are as long and as odd as may be.
func crowded() *corev1.PodSpec {
	spec := &corev1.PodSpec{HostPID: true, HostNetwork: true}
	for i := range 40 {
		c := corev1.Container{Name: fmt.Sprintf("c%d", i), SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{}}}
		for _, name := range slices.Concat(strong, strong, []string{"NET_ADMIN", "NET_RAW"}) {
			c.SecurityContext.Capabilities.Add = append(c.SecurityContext.Capabilities.Add, corev1.Capability(name))
		}
		for j, node := range nodePaths {
			name := fmt.Sprintf("v%d-%d", i, j)
			host := node.path + "/" + strings.Repeat("\x00<\"é\\", 2000)
			spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}})
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name})
		}
		spec.Containers = append(spec.Containers, c)
	}
	spec.InitContainers = []corev1.Container{{Name: "p", SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}}
	return spec
}

func TestPodOfManyPrivilegesSaysAFew(t *testing.T) {
	reasons := privilegesOf(crowded())
	if len(reasons) != maxPrivileges || !strings.HasSuffix(reasons[maxPrivileges-1], " more") {
		t.Errorf("got %d reasons, the last %q, want %d, the last how many more there are", len(reasons), reasons[len(reasons)-1], maxPrivileges)
	}
	for _, reason := range reasons {
		text, err := json.Marshal(reason)
		if err != nil || len(text) > maxPrivilegeBytes+2 {
			t.Errorf("got %d bytes (%v) of %q, want at most %d", len(text), err, reason, maxPrivilegeBytes+2)
		}
	}
	if !slices.Contains(reasons, "container p is privileged") || !slices.Contains(reasons, "hostPID") {
		t.Errorf("got %q, want what counts most among them", reasons)
	}
}

func TestReasonOfAKindIsSaidOnce(t *testing.T) {
	c := func(name string, add ...corev1.Capability) corev1.Container {
		return corev1.Container{Name: name, SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: add}}}
	}
	got := privilegesOf(&corev1.PodSpec{Containers: []corev1.Container{c("a", "BPF", "bpf", "CAP_BPF"), c("b", "BPF", "SYS_ADMIN")}})
	if want := []string{"container a has BPF", "container b has SYS_ADMIN"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
