package cluster

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var everything = map[string]bool{"pods": true, "services": true, "targets": true}

func TestGuardSticksToAPodUntilItIsGone(t *testing.T) {
	var b builder
	guarded := func(in inputs) string {
		t.Helper()
		if _, err := b.build(in, map[string]bool{"pods": true, "namespaces": true}); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range b.last.Pods {
			if p.Guarded {
				names = append(names, p.Name+"="+strings.Join(p.Protocols, "."))
			}
		}
		return strings.Join(names, " ")
	}
	for _, step := range []struct {
		name string
		in   inputs
		want string
	}{
		{"nothing is labelled", inputs{pods: pods(pod("a", "1", nil), pod("b", "2", nil))}, ""},
		{"a pod is labelled", inputs{pods: pods(pod("a", "1", label("postgres")), pod("b", "2", nil))}, "a=postgres"},
		{"its label is taken away", inputs{pods: pods(pod("a", "1", nil), pod("b", "2", nil))}, "a=postgres"},
		{"its namespace is labelled", inputs{pods: pods(pod("a", "1", nil), pod("b", "2", label("false"))), namespaces: spaces("agents", "true")}, "a= b="},
		{"the namespace's label says less", inputs{pods: pods(pod("a", "1", nil), pod("b", "2", nil)), namespaces: spaces("agents", "false")}, "a= b="},
		{"another pod has the name", inputs{pods: pods(pod("a", "3", nil), pod("b", "2", nil))}, "b="},
	} {
		if got := guarded(step.in); got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
	}
	if got := len(b.guards); got != 1 {
		t.Errorf("got %d guards kept, want 1", got)
	}
}

func TestPodsThatHaveEndedAreLeftOut(t *testing.T) {
	done := pod("done", "1", label("true"))
	done.Status.Phase = corev1.PodSucceeded
	var b builder
	got, err := b.build(inputs{pods: pods(done, pod("a", "2", nil))}, everything)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Pods) != 1 || got.Pods[0].Name != "a" {
		t.Errorf("got %+v, want the pod a alone", got.Pods)
	}
}

func TestTheElderPodHasAUID(t *testing.T) {
	const hash = "6f2dd5f6ad8d05c0f0dbdfa3d2b9a1c4"
	static, fake := pod("static", "1", nil), pod("fake", "0", nil)
	for _, p := range []*corev1.Pod{static, fake} {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: hash}
	}
	fake.CreationTimestamp = metav1.NewTime(static.CreationTimestamp.Add(time.Second))
	var b builder
	s, err := b.build(inputs{pods: pods(fake, static)}, everything)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := s.pod(hash); got.Name != "static" {
		t.Errorf("got %s for the UID of a static pod, want static", got.Name)
	}
	if got, _ := s.pod("0"); got.Name != "fake" {
		t.Errorf("got %s for the imitation's own UID, want fake", got.Name)
	}
}

func TestImitationOfAStaticPodDoesNotUnguardIt(t *testing.T) {
	const hash = "6f2dd5f6ad8d05c0f0dbdfa3d2b9a1c4"
	static, fake := pod("static", "1", label("postgres")), pod("fake", "0", nil)
	for _, p := range []*corev1.Pod{static, fake} {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: hash}
	}
	static.CreationTimestamp = metav1.NewTime(fake.CreationTimestamp.Add(time.Second)) // its mirror was made anew
	var b builder
	s, err := b.build(inputs{pods: pods(fake, static)}, everything)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := s.pod(hash); !got.Guarded || !slices.Equal(got.Protocols, []string{"postgres"}) {
		t.Errorf("got %+v for the UID of a guarded static pod, want it guarded", got)
	}
}

func TestOnlyWhatMattersMakesASnapshot(t *testing.T) {
	in := func() inputs {
		return inputs{
			pods: pods(pod("a", "1", label("true"))), namespaces: spaces("agents", "true"),
			services: []*corev1.Service{kubeService()}, slices: kubeSlices(), nodes: []*corev1.Node{kubeNode()},
			policies: []*unstructured.Unstructured{target("7", "ready")},
		}
	}
	all := map[string]bool{"pods": true, "services": true, "targets": true}
	var b builder
	first, err := b.build(in(), all)
	if err != nil || first == nil {
		t.Fatalf("got %v, %v, want a Snapshot", first, err)
	}
	for _, row := range []struct {
		name   string
		change func(*inputs)
		want   bool
	}{
		{"nothing", func(*inputs) {}, false},
		{"a condition of a pod", func(in *inputs) { in.pods[0].Status.Conditions = []corev1.PodCondition{{Type: "Ready"}} }, false},
		{"a status of a Target", func(in *inputs) { in.policies[0] = target("8", "degraded") }, false},
		{"an annotation of a Service", func(in *inputs) { in.services[0].Annotations = map[string]string{"a": "b"} }, false},
		{"a label of a pod", func(in *inputs) { in.pods[0].Labels = map[string]string{"app": "x"} }, true},
		{"an endpoint", func(in *inputs) { in.slices[0].Endpoints[0].Addresses[0] = "10.244.0.99" }, true},
		{"a node", func(in *inputs) { in.nodes = nil }, true},
		{"a Target", func(in *inputs) { in.policies = nil }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := builder{last: first, guards: b.guards}
			changed := in()
			row.change(&changed)
			got, err := b.build(changed, all)
			if err != nil {
				t.Fatal(err)
			}
			if (got != nil) != row.want {
				t.Errorf("got a Snapshot: %v, want %v", got != nil, row.want)
			}
			if got != nil && (got.Services == first.Services) == (row.name == "an endpoint" || row.name == "a node") {
				t.Errorf("got the same Services: %v, want the opposite", got.Services == first.Services)
			}
		})
	}
}

func TestSnapshotHoldsWhatAuthorsWrote(t *testing.T) {
	var b builder
	object := target("7", "ready")
	if _, err := strip(object); err != nil {
		t.Fatal(err)
	}
	s, err := b.build(inputs{
		services: []*corev1.Service{kubeService()}, slices: kubeSlices(), nodes: []*corev1.Node{kubeNode()},
		policies: []*unstructured.Unstructured{object},
	}, everything)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"apiVersion":"postern.dev/v1alpha1","kind":"Target","metadata":{"creationTimestamp":"2026-11-01T00:00:00Z","generation":3,"name":"orders","uid":"u"},"spec":{"ports":[5432]}}`
	if got := string(s.Objects[0].JSON); got != want || s.Objects[0].Name != "Target/orders" {
		t.Errorf("got %s as %s, want %s", got, s.Objects[0].Name, want)
	}
	got := text(s.Services.Guarded(Reach{Services: []ServiceName{{"data", "orders"}}, Ports: []uint16{5432}}))
	addresses := strings.Fields("10.244.0.1:30432 10.244.0.5:5432 10.244.0.6:5432 10.96.0.10:6000 127.0.0.1:30432 192.168.0.1:30432 198.51.100.9:6000 203.0.113.7:6000 [::1]:30432 [fd00:244::5]:5432 [fd00:96::10]:6000 lb.example:6000")
	slices.Sort(addresses)
	if !slices.Equal(got, addresses) {
		t.Errorf("got %v, want %v", got, addresses)
	}
}

func TestKeptSnapshotComesBack(t *testing.T) {
	var b builder
	s, err := b.build(inputs{
		pods: pods(pod("a", "1", label("postgres"))), namespaces: spaces("agents", "postgres"),
		services: []*corev1.Service{kubeService()}, slices: kubeSlices(), nodes: []*corev1.Node{kubeNode()},
		policies: []*unstructured.Unstructured{target("7", "ready")},
	}, map[string]bool{"pods": true, "services": true, "targets": true})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cluster.json")
	if err := save(path, s, b.guards); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	at := time.Now().Add(-time.Minute).Truncate(time.Second)
	if err := confirm(path, at); err != nil {
		t.Fatal(err)
	}
	got, guards, confirmed, err := restore(path, at.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if !confirmed.Equal(at) || got.Stale != time.Minute {
		t.Errorf("got a Snapshot of %v, stale for %v, want %v and a minute", confirmed, got.Stale, at)
	}
	if !reflect.DeepEqual(guards, b.guards) || !reflect.DeepEqual(got.Objects, s.Objects) ||
		!reflect.DeepEqual(got.GuardedNamespaces, s.GuardedNamespaces) || !reflect.DeepEqual(got.Services.list, s.Services.list) {
		t.Errorf("got %+v with %v, want %+v with %v", got, guards, s, b.guards)
	}
	if p := got.Pods[0]; p.UID != "1" || !p.Guarded || p.Namespace != "agents" {
		t.Errorf("got %+v, want the guarded pod a", p)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("got %v, %v in the folder, want the file alone", left, err)
	}
}

func TestKeptSnapshotIsNotBelievedBlindly(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		name, content string
		at            time.Time
	}{
		{"cut off", `{"Pods":[`, now},
		{"of a time to come", `{}`, now.Add(time.Hour)},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cluster.json")
			if err := os.WriteFile(path, []byte(row.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := confirm(path, row.at); err != nil {
				t.Fatal(err)
			}
			if got, _, _, err := restore(path, now); err == nil || got != nil {
				t.Errorf("got %v, %v, want an error", got, err)
			}
		})
	}
	set := filepath.Join(t.TempDir(), "set back")
	if err := save(set, &Snapshot{}, map[string]guard{"1": {on: true}}); err != nil {
		t.Fatal(err)
	}
	if err := confirm(set, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s, guards, _, err := restore(set, now); s != nil || err == nil || !guards["1"].on {
		t.Errorf("got %v, %v, %v with the clock set back, want an error, and the guards to stick", s, guards, err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, _, _, err := restore(pipe, now); s != nil || err == nil {
		t.Errorf("got %v, %v of a pipe, want an error at once", s, err)
	}
	if s, _, _, err := restore(filepath.Join(t.TempDir(), "none"), now); s != nil || err != nil {
		t.Errorf("got %v, %v without a file, want nothing", s, err)
	}
}

func pods(list ...*corev1.Pod) []*corev1.Pod { return list }

func pod(name, uid string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "agents", Name: name, UID: types.UID(uid), Labels: labels,
		CreationTimestamp: metav1.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	}}
}

func spaces(name, guard string) []*metav1.PartialObjectMetadata {
	return []*metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: label(guard)}}}
}

func kubeService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "data", Name: "orders"},
		Spec: corev1.ServiceSpec{
			ClusterIPs: []string{"10.96.0.10", "fd00:96::10"}, ExternalIPs: []string{"203.0.113.7"},
			Ports: []corev1.ServicePort{
				{Name: "pg", Port: 6000, NodePort: 30432, TargetPort: intstr.FromString("postgres"), Protocol: corev1.ProtocolTCP},
				{Name: "dns", Port: 53, TargetPort: intstr.FromInt32(5432), Protocol: corev1.ProtocolUDP},
				{Name: "web", Port: 80, TargetPort: intstr.FromInt32(8080)},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "198.51.100.9"}, {Hostname: "LB.example"},
		}}},
	}
}

func kubeSlices() []*discoveryv1.EndpointSlice {
	of := func(name string, ready *bool, port int32, addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "data", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "orders"}},
			Ports:      []discoveryv1.EndpointPort{{Name: new("pg"), Port: new(port)}, {Name: new("web"), Port: new(int32(8080))}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: addresses, Conditions: discoveryv1.EndpointConditions{Ready: ready}}},
		}
	}
	stray := of("stray", nil, 5432, "10.244.0.77")
	stray.Labels = nil // no Service's: kube-proxy does not read it either
	return []*discoveryv1.EndpointSlice{
		of("v4", nil, 5432, "10.244.0.5"), of("down", new(false), 5432, "10.244.0.6"), of("v6", new(true), 5432, "fd00:244::5"),
		of("names", nil, 5432, "db.example"), stray,
	}
}

func kubeNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.168.0.1"}, {Type: corev1.NodeHostName, Address: "n1"},
		}},
	}
}

// target is a Target as the API server shows it.
func target(resourceVersion, state string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "postern.dev/v1alpha1", "kind": "Target",
		"metadata": map[string]any{
			"name": "orders", "uid": "u", "generation": int64(3), "resourceVersion": resourceVersion,
			"creationTimestamp": "2026-11-01T00:00:00Z",
			"managedFields":     []any{map[string]any{"manager": "kubectl"}},
		},
		"spec":   map[string]any{"ports": []any{int64(5432)}},
		"status": map[string]any{"state": state},
	}}
	if _, err := strip(o); err != nil {
		panic(err)
	}
	return o
}
