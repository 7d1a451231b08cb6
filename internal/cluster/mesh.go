package cluster

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// sidecars are the containers through which a mesh leads a pod's traffic, and the
// annotations that it leaves on a pod when it has put one there.
//
// Source: Istio documentation, Installing the Sidecar; Linkerd documentation,
// Automatic Proxy Injection.
var sidecars = []struct{ mesh, container, annotation string }{
	{"istio", "istio-proxy", "sidecar.istio.io/status"},
	{"linkerd", "linkerd-proxy", "linkerd.io/proxy-version"},
}

// meshMode on a namespace or a pod says that its traffic goes through the node's
// part of a mesh, without a sidecar; a pod's counts before its namespace's.
//
// Source: Istio documentation, Add workloads to an ambient mesh.
const (
	meshMode    = "istio.io/dataplane-mode"
	ambientMode = "ambient"
)

// meshOf names the mesh that takes what is dialled in a pod's namespace, empty for
// none. A pod on the host network is in none.
//
// Shape: whoever creates the pod may say so too. It then is dialled for from the
// node, which no NetworkPolicy of its own limits, unless the Target says otherwise.
func meshOf(p *corev1.Pod, namespaceMode string) string {
	if p.Spec.HostNetwork {
		return ""
	}
	for _, s := range sidecars {
		is := func(c corev1.Container) bool { return c.Name == s.container }
		if _, noted := p.Annotations[s.annotation]; noted || slices.ContainsFunc(p.Spec.Containers, is) || slices.ContainsFunc(p.Spec.InitContainers, is) {
			return s.mesh
		}
	}
	if mode, own := p.Labels[meshMode]; own {
		namespaceMode = mode
	}
	if namespaceMode == ambientMode {
		return ambientMode
	}
	return ""
}

// meshNotes are the annotations that tell of a sidecar, without what they hold.
func meshNotes(annotations map[string]string, kept map[string]string) map[string]string {
	for _, s := range sidecars {
		if _, noted := annotations[s.annotation]; noted {
			if kept == nil {
				kept = make(map[string]string, 1)
			}
			kept[s.annotation] = ""
		}
	}
	return kept
}
