package cluster

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// strip cuts from an object, before it is stored, all that this package does not
// read: every node of a big cluster holds all its Services and EndpointSlices.
//
// Shape: a cache.TransformFunc. What it does not know it leaves as it is: a
// tombstone of a deletion.
func strip(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		o.ObjectMeta = essential(o.ObjectMeta, bounded(o.Labels), meshNotes(o.Annotations, pick(o.Annotations, corev1.MirrorPodAnnotationKey)))
		stripPod(&o.Spec)
	case *metav1.PartialObjectMetadata:
		o.ObjectMeta = essential(o.ObjectMeta, pick(o.Labels, GuardLabel, meshMode), nil)
	case *corev1.Node:
		o.ObjectMeta = essential(o.ObjectMeta, nil, nil)
		o.Spec = corev1.NodeSpec{PodCIDRs: o.Spec.PodCIDRs}
		o.Status = corev1.NodeStatus{Addresses: o.Status.Addresses}
	case *corev1.Service:
		o.ObjectMeta = essential(o.ObjectMeta, nil, nil)
		o.Spec.Selector = nil
		o.Status.Conditions = nil
	case *discoveryv1.EndpointSlice:
		o.ObjectMeta = essential(o.ObjectMeta, pick(o.Labels, discoveryv1.LabelServiceName), nil)
		for i, endpoint := range o.Endpoints {
			o.Endpoints[i] = discoveryv1.Endpoint{
				Addresses:  endpoint.Addresses,
				Conditions: discoveryv1.EndpointConditions{Ready: endpoint.Conditions.Ready},
			}
		}
	case *unstructured.Unstructured:
		stripObject(o)
	}
	return object, nil
}

// essential is what of an object's metadata is kept. The resource version is the
// reflector's.
func essential(m metav1.ObjectMeta, labels, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, Labels: labels, Annotations: annotations,
	}
}

// maxLabels is how many bytes of labels a pod may have to be told by them. Its author
// chooses them, and can do without any.
const maxLabels = 64 << 10

// bounded are a pod's labels, or where they are too many those that this package reads.
func bounded(labels map[string]string) map[string]string {
	size := 0
	for key, value := range labels {
		size += len(key) + len(value)
	}
	if size > maxLabels {
		return pick(labels, GuardLabel, meshMode)
	}
	return labels
}

func pick(from map[string]string, keys ...string) map[string]string {
	var picked map[string]string
	for _, key := range keys {
		if value, ok := from[key]; ok {
			if picked == nil {
				picked = make(map[string]string, len(keys))
			}
			picked[key] = value
		}
	}
	return picked
}

// stripPod keeps of a pod what podOf reads: all else, its environment and commands
// too, may be secret, and as large as an object may be.
func stripPod(spec *corev1.PodSpec) {
	kept := corev1.PodSpec{
		NodeName: spec.NodeName, ServiceAccountName: spec.ServiceAccountName, HostPID: spec.HostPID, HostNetwork: spec.HostNetwork,
		Volumes: stripVolumes(spec.Volumes),
	}
	mounts := func(all []corev1.VolumeMount) []corev1.VolumeMount {
		var of []corev1.VolumeMount
		for _, m := range all {
			if slices.ContainsFunc(kept.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name && v.HostPath != nil }) {
				of = append(of, corev1.VolumeMount{Name: m.Name, ReadOnly: m.ReadOnly})
			}
		}
		return of
	}
	stripped := func(all []corev1.Container) []corev1.Container {
		var of []corev1.Container
		for _, c := range all {
			of = append(of, corev1.Container{Name: c.Name, SecurityContext: stripSecurity(c.SecurityContext), VolumeMounts: mounts(c.VolumeMounts)})
		}
		return of
	}
	kept.InitContainers, kept.Containers = stripped(spec.InitContainers), stripped(spec.Containers)
	for _, c := range spec.EphemeralContainers {
		kept.EphemeralContainers = append(kept.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: c.Name, SecurityContext: stripSecurity(c.SecurityContext), VolumeMounts: mounts(c.VolumeMounts),
		}})
	}
	*spec = kept
}

func stripSecurity(from *corev1.SecurityContext) *corev1.SecurityContext {
	if from == nil {
		return nil
	}
	return &corev1.SecurityContext{Privileged: from.Privileged, Capabilities: from.Capabilities}
}

// stripVolumes keeps the node's directories, and the token that the agent may read.
func stripVolumes(volumes []corev1.Volume) []corev1.Volume {
	var kept []corev1.Volume
	for _, v := range volumes {
		if v.HostPath != nil {
			kept = append(kept, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: v.HostPath.Path}}})
		}
		if _, file := tokenOf([]corev1.Volume{v}); file != "" {
			kept = append(kept, corev1.Volume{Name: v.Name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: tokenAudience, Path: file}}},
			}}})
		}
	}
	return kept
}

// stripObject leaves of a policy object what its author wrote, and which version
// it is; a status that was written changes nothing then.
func stripObject(o *unstructured.Unstructured) {
	metadata := map[string]any{"resourceVersion": o.GetResourceVersion()}
	for _, key := range []string{"name", "uid", "generation", "creationTimestamp"} {
		if value, ok, err := unstructured.NestedFieldNoCopy(o.Object, "metadata", key); ok && err == nil {
			metadata[key] = value
		}
	}
	o.Object["metadata"] = metadata
	delete(o.Object, "status")
}
