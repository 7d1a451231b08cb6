package cluster

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodsOfAMeshAreKnown(t *testing.T) {
	noted := func(key string) *corev1.Pod {
		p := pod("a", "1", nil)
		p.Annotations = map[string]string{key: strings.Repeat("x", 1<<18)}
		return p
	}
	with := func(name string, asInit bool) *corev1.Pod {
		p := pod("a", "1", nil)
		if asInit {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name})
		} else {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
		}
		return p
	}
	labelled := func(mode string) *corev1.Pod { return pod("a", "1", map[string]string{meshMode: mode}) }
	onHost := noted("sidecar.istio.io/status")
	onHost.Spec.HostNetwork = true
	for _, row := range []struct {
		name      string
		pod       *corev1.Pod
		namespace string // its mode
		want      string
	}{
		{"no mesh", pod("a", "1", nil), "", ""},
		{"a sidecar of Istio's", with("istio-proxy", false), "", "istio"},
		{"a native one", with("istio-proxy", true), "", "istio"},
		{"noted alone", noted("sidecar.istio.io/status"), "", "istio"},
		{"a sidecar of Linkerd's", with("linkerd-proxy", true), "", "linkerd"},
		{"noted by Linkerd", noted("linkerd.io/proxy-version"), "", "linkerd"},
		{"another annotation", noted("linkerd.io/inject"), "", ""},
		{"an ambient namespace", pod("a", "1", nil), "ambient", "ambient"},
		{"another mode", pod("a", "1", nil), "none", ""},
		{"a pod that is out of it", labelled("none"), "ambient", ""},
		{"a pod that is in it alone", labelled("ambient"), "", "ambient"},
		{"a sidecar in an ambient namespace", with("istio-proxy", false), "ambient", "istio"},
		{"the host network", onHost, "ambient", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			namespaces := spaces("agents", "true")
			if row.namespace != "" {
				namespaces[0].Labels[meshMode] = row.namespace
			}
			for _, o := range []any{row.pod, namespaces[0]} {
				if _, err := strip(o); err != nil {
					t.Fatal(err)
				}
			}
			var b builder
			s, err := b.build(inputs{pods: pods(row.pod), namespaces: namespaces}, everything)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Pods[0].Mesh; got != row.want {
				t.Errorf("got mesh %q, want %q", got, row.want)
			}
			for key, value := range row.pod.Annotations {
				if len(value) > 100 {
					t.Errorf("got %d bytes of %s kept, want none", len(value), key)
				}
			}
		})
	}
}
