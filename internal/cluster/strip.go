package cluster

import (
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
		o.ObjectMeta = essential(o.ObjectMeta, o.Labels, meshNotes(o.Annotations, pick(o.Annotations, corev1.MirrorPodAnnotationKey)))
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

// stripPod empties what may be large, or secret, in a pod: its environment and commands.
func stripPod(spec *corev1.PodSpec) {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i, c := range list {
			list[i] = corev1.Container{Name: c.Name, SecurityContext: c.SecurityContext, VolumeMounts: c.VolumeMounts}
		}
	}
	for i, c := range spec.EphemeralContainers {
		spec.EphemeralContainers[i] = corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: c.Name, SecurityContext: c.SecurityContext, VolumeMounts: c.VolumeMounts,
		}}
	}
	spec.Affinity = nil
	spec.Tolerations = nil
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
