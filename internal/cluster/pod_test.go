package cluster

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGuardOfLabels(t *testing.T) {
	for _, row := range []struct {
		name      string
		pod       map[string]string
		namespace map[string]string
		want      guard
	}{
		{"no label", nil, map[string]string{"other": "true"}, guard{}},
		{"pod", label("true"), nil, guard{on: true}},
		{"namespace", nil, label("true"), guard{on: true}},
		{"false", label("false"), nil, guard{}},
		{"a pod's false does not undo its namespace", label("false"), label("true"), guard{on: true}},
		{"a namespace's false does not undo its pod", label("true"), label("false"), guard{on: true}},
		{"a protocol", label("postgres"), nil, guard{on: true, protocols: []string{"postgres"}}},
		{"two protocols", label("postgres.kubernetes.postgres"), nil, guard{on: true, protocols: []string{"kubernetes", "postgres"}}},
		{"one from each", label("postgres"), label("kubernetes"), guard{on: true, protocols: []string{"kubernetes", "postgres"}}},
		{"everything beside one", label("postgres"), label("true"), guard{on: true}},
		{"an unknown protocol is everything", label("postgres.mysql"), nil, guard{on: true}},
		{"empty", label(""), nil, guard{on: true}},
		{"another word for no", label("False"), nil, guard{on: true}},
		{"a dot too many", label("postgres."), nil, guard{on: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := guardOf(row.pod).with(guardOf(row.namespace)); !reflect.DeepEqual(got, row.want) {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestPodOf(t *testing.T) {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "0b7f", Namespace: "agents", Name: "reporter-7", Labels: map[string]string{"app": "reporter"}},
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "reporter", HostNetwork: true,
			Volumes: []corev1.Volume{
				projected("kube-api-access", "", "token"), projected("other", "vault", "t"), projected("postern", "postern", "postern/token"),
			},
		},
		Status: corev1.PodStatus{
			PodIPs:                []corev1.PodIP{{IP: "10.244.0.7"}, {IP: "fd00:244::7"}},
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "setup", ContainerID: "containerd://aa", Image: "setup:1", ImageID: "reg.example/setup@sha256:01"}},
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "app", ContainerID: "cri-o://bb", Image: "localhost/app:dev", ImageID: "sha256:02"},
				{Name: "old", ContainerID: "docker://cc", Image: "old:1", ImageID: "docker-pullable://old@sha256:03"},
				{Name: "waiting"},
			},
			EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "debug", ContainerID: "containerd://dd", Image: "debug:1"}},
		},
	}
	want := Pod{
		UID: "0b7f", Namespace: "agents", Name: "reporter-7", ServiceAccount: "reporter", Node: "n1",
		Labels: map[string]string{"app": "reporter"}, HostNetwork: true,
		IPs:         []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:244::7")},
		TokenVolume: "postern", TokenFile: "postern/token",
		Containers: map[string]Container{
			"aa": {"setup", "reg.example/setup@sha256:01"}, "bb": {"app", "localhost/app:dev"},
			"cc": {"old", "old@sha256:03"}, "dd": {"debug", "debug:1"},
		},
		object: "0b7f",
	}
	if got := podOf(p); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	stripped, err := strip(p.DeepCopy())
	if err != nil {
		t.Fatal(err)
	}
	if got := podOf(stripped.(*corev1.Pod)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v of what is stored, want %+v", got, want)
	}
}

func TestPodTakesNoMoreMemoryThanItMatters(t *testing.T) {
	large := strings.Repeat("x", 1<<16)
	p := pod("a", "1", label("true"))
	p.Annotations = map[string]string{"note": large}
	p.Spec = corev1.PodSpec{
		NodeName: "n1", NodeSelector: map[string]string{"a": large}, HostAliases: []corev1.HostAlias{{Hostnames: []string{large}}},
		Volumes: []corev1.Volume{
			{Name: "c", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: large}}},
			{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}}}, projected("t", "postern", "token"),
		},
		Containers: []corev1.Container{{
			Name: "c", Env: []corev1.EnvVar{{Value: large}}, SecurityContext: &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{User: large}},
			VolumeMounts: []corev1.VolumeMount{{Name: "h", MountPath: large}, {Name: "c", MountPath: large}},
		}},
	}
	want := podOf(p)
	p.Labels = map[string]string{GuardLabel: "true"}
	for i := range 4000 {
		p.Labels[fmt.Sprint("label", i)] = large[:60]
	}
	stripped, err := strip(p)
	if err != nil {
		t.Fatal(err)
	}
	if got := podOf(stripped.(*corev1.Pod)); !reflect.DeepEqual(got, want) || len(got.Privileges) != 1 || got.TokenVolume != "t" {
		t.Errorf("got %+v of what is stored, want %+v", got, want)
	}
	text, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 1024 {
		t.Errorf("got %d bytes stored, want the few that are read", len(text))
	}
}

func TestStaticPodsHaveTheKubeletsUID(t *testing.T) {
	const hash, uid = "6f2dd5f6ad8d05c0f0dbdfa3d2b9a1c4", "2c1a5f38-0f6c-4a55-8b0f-6f3b8c0a9e11"
	for _, row := range []struct{ name, annotation, want string }{
		{"ordinary", "", uid},
		{"mirror", hash, hash},
		{"claims another pod's UID", "7d9e1b60-1c1f-4a4a-9a8e-0a4f6b1c2d3e", uid},
		{"claims nonsense", "../../etc", uid},
		{"a hash as no kubelet writes it", strings.ToUpper(hash), uid}, // the gate takes no such UID, nor a list that has it
	} {
		t.Run(row.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
			if row.annotation != "" {
				p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: row.annotation}
			}
			got := podOf(p)
			if got.UID != row.want || got.object != uid {
				t.Errorf("got UID %s of object %s, want %s of %s", got.UID, got.object, row.want, uid)
			}
		})
	}
}

func TestPrivilegesAreSaid(t *testing.T) {
	mount := func(hostPath string, readOnly bool) corev1.PodSpec {
		return corev1.PodSpec{
			Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: hostPath}}}},
			Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", ReadOnly: readOnly}}}},
		}
	}
	caps := func(add, drop []corev1.Capability) corev1.Container {
		return corev1.Container{Name: "c", SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: add, Drop: drop}}}
	}
	all := []corev1.Capability{"ALL"}
	for _, row := range []struct {
		name string
		spec corev1.PodSpec
		want []string
	}{
		{"plain", corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, caps([]corev1.Capability{"NET_ADMIN", "NET_RAW"}, nil)}}, nil},
		{"privileged", corev1.PodSpec{InitContainers: []corev1.Container{{Name: "c", SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}}},
			[]string{"container c is privileged"}},
		{"hostPID", corev1.PodSpec{HostPID: true, Containers: []corev1.Container{caps([]corev1.Capability{"CAP_SYS_PTRACE"}, all)}},
			[]string{"hostPID", "container c has SYS_PTRACE"}},
		{"all capabilities", corev1.PodSpec{Containers: []corev1.Container{caps([]corev1.Capability{"all"}, nil)}}, []string{"container c has ALL"}},
		{"host network", corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c"}}},
			[]string{"container c is on the host network with NET_RAW"}},
		{"host network without capabilities", corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{caps(nil, all)}}, nil},
		{"host network with all but one", corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{caps([]corev1.Capability{"NET_ADMIN", "NET_RAW"}, all)}},
			[]string{"container c has NET_ADMIN", "container c is on the host network with NET_RAW"}},
		{"ephemeral", corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "d", SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"BPF"}}},
		}}}}, []string{"container d has BPF"}},
		{"runtime socket", mount("/var/run/docker.sock", true), []string{"container c has the node's /var/run/docker.sock: the container runtime"}},
		{"all of the node, read only", mount("/", true), []string{"container c has the node's /: the container runtime"}},
		{"bpffs", mount("/sys/fs/bpf/", false), []string{"container c has the node's /sys/fs/bpf/: BPF programs"}},
		{"cgroups, to look at", mount("/sys/fs/cgroup", true), nil},
		{"a way around", mount("/data/../proc/sys", false), []string{"container c has the node's /data/../proc/sys: the node's processes and settings"}},
		{"certificates", mount("/etc/ssl/certs", true), nil},
		{"its own directory", mount("/srv/data", false), nil},
		{"a name that begins alike", mount("/run/containerd-exporter", false), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := privilegesOf(&row.spec); !slices.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
			p, err := strip(&corev1.Pod{Spec: *row.spec.DeepCopy()})
			if err != nil {
				t.Fatal(err)
			}
			if got := privilegesOf(&p.(*corev1.Pod).Spec); !slices.Equal(got, row.want) {
				t.Errorf("got %q of what is stored, want %q", got, row.want)
			}
		})
	}
}

func TestPodThatDropsNetRawMakesNoRawPackets(t *testing.T) {
	with := func(add, drop []corev1.Capability) corev1.Container {
		return corev1.Container{SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: add, Drop: drop}}}
	}
	all := with(nil, []corev1.Capability{"ALL"})
	privileged := with(nil, []corev1.Capability{"ALL"})
	privileged.SecurityContext.Privileged = new(true)
	for name, row := range map[string]struct {
		spec corev1.PodSpec
		want bool
	}{
		"nothing said":       {corev1.PodSpec{Containers: []corev1.Container{{}}}, false},
		"all dropped":        {corev1.PodSpec{Containers: []corev1.Container{all}}, true},
		"it alone":           {corev1.PodSpec{Containers: []corev1.Container{with(nil, []corev1.Capability{"cap_net_raw"})}}, true},
		"another one":        {corev1.PodSpec{Containers: []corev1.Container{with(nil, []corev1.Capability{"CHOWN"})}}, false},
		"added again":        {corev1.PodSpec{Containers: []corev1.Container{with([]corev1.Capability{"NET_RAW"}, []corev1.Capability{"ALL"})}}, false},
		"all added":          {corev1.PodSpec{Containers: []corev1.Container{with([]corev1.Capability{"ALL"}, []corev1.Capability{"NET_RAW"})}}, false},
		"privileged":         {corev1.PodSpec{Containers: []corev1.Container{privileged}}, false},
		"one container of 2": {corev1.PodSpec{Containers: []corev1.Container{all, {}}}, false},
		"an init container":  {corev1.PodSpec{Containers: []corev1.Container{all}, InitContainers: []corev1.Container{{}}}, false},
		"an ephemeral one":   {corev1.PodSpec{Containers: []corev1.Container{all}, EphemeralContainers: []corev1.EphemeralContainer{{}}}, false},
	} {
		p, err := strip(&corev1.Pod{Spec: row.spec})
		if err != nil {
			t.Fatal(err)
		}
		if got := podOf(p.(*corev1.Pod)).NoRaw; got != row.want {
			t.Errorf("got a pod without raw packets: %v of %s, want %v", got, name, row.want)
		}
	}
}

func label(value string) map[string]string { return map[string]string{GuardLabel: value} }

func projected(name, audience, path string) corev1.Volume {
	token := &corev1.ServiceAccountTokenProjection{Audience: audience, Path: path}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{}, {ServiceAccountToken: token}}},
	}}
}
