package cluster

import (
	"encoding/hex"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// tokenAudience is for whom a pod's token must be, so that the agent may read it.
const tokenAudience = "postern"

// podOf takes from a pod what the agent needs; the guard is not decided here.
func podOf(p *corev1.Pod) Pod {
	out := Pod{
		UID:            kubeletUID(p),
		Namespace:      p.Namespace,
		Name:           p.Name,
		ServiceAccount: p.Spec.ServiceAccountName,
		Node:           p.Spec.NodeName,
		Labels:         p.Labels, // nobody changes what is stored
		HostNetwork:    p.Spec.HostNetwork,
		Containers:     make(map[string]Container),
		Privileges:     privilegesOf(&p.Spec),
		NoRaw:          noRaw(&p.Spec),
		object:         string(p.UID),
	}
	out.TokenVolume, out.TokenFile = tokenOf(p.Spec.Volumes)
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out.IPs = append(out.IPs, addr.Unmap())
		}
	}
	for _, list := range [][]corev1.ContainerStatus{
		p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses,
	} {
		for _, status := range list {
			// containerd://1a2b…; empty until it was made.
			if _, id, ok := strings.Cut(status.ContainerID, "://"); ok && id != "" {
				out.Containers[id] = Container{Name: status.Name, Image: imageOf(status)}
			}
		}
	}
	return out
}

// kubeletUID is the UID under which the kubelet runs a pod. A static pod runs
// under that of its file; what the API shows of it is a mirror.
//
// Shape: the annotation may be written by whoever creates a pod, so that one that
// could be another pod's UID does not count: the UIDs that the API server gives have
// dashes, the kubelet's hashes of files have none, nor capitals.
// Source: Kubernetes 1.37, pkg/kubelet/types/pod_update.go (ConfigMirrorAnnotationKey),
// pkg/kubelet/config/common.go (applyDefaults: MD5 in hex).
func kubeletUID(p *corev1.Pod) string {
	hash := p.Annotations[corev1.MirrorPodAnnotationKey]
	if sum, err := hex.DecodeString(hash); err == nil && len(sum) == 16 && hash == hex.EncodeToString(sum) {
		return hash
	}
	return string(p.UID)
}

// tokenOf finds the projected token that the agent may read.
func tokenOf(volumes []corev1.Volume) (volume, file string) {
	for _, v := range volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if token := source.ServiceAccountToken; token != nil && token.Audience == tokenAudience {
				return v.Name, token.Path
			}
		}
	}
	return "", ""
}

// imageOf is the image that a container was made of. The runtime's ID of an image
// that was pulled is its repository with its digest; of one that was loaded on the
// node it is a hash alone, which names no image.
func imageOf(s corev1.ContainerStatus) string {
	id := s.ImageID
	if _, after, ok := strings.Cut(id, "://"); ok {
		id = after // docker-pullable://
	}
	if strings.Contains(id, "@") {
		return id
	}
	return s.Image
}

// ended tells whether no process of the pod is left, nor will be: a phase that is
// final is reported when the containers have ended.
//
// Source: Kubernetes documentation, Pod Lifecycle, Pod phase (since 1.27).
func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
