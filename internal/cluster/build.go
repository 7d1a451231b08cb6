package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"postern.dev/postern/internal/policy"
)

// inputs are the objects that a Snapshot is made of.
type inputs struct {
	pods       []*corev1.Pod
	namespaces []*metav1.PartialObjectMetadata
	nodes      []*corev1.Node
	services   []*corev1.Service
	slices     []*discoveryv1.EndpointSlice
	policies   []*unstructured.Unstructured
}

// builder makes Snapshots, each from the one before and what has changed since.
type builder struct {
	guards map[string]guard // by the API object's UID, of pods that were ever guarded
	last   *Snapshot

	mu    sync.Mutex
	dirty map[string]bool // kinds
}

// changed notes that an object of a kind is another one.
func (b *builder) changed(kind string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dirty == nil {
		b.dirty = make(map[string]bool)
	}
	b.dirty[kind] = true
}

// take tells which kinds have changed since it was last asked.
func (b *builder) take() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	dirty := b.dirty
	b.dirty = nil
	return dirty
}

// build makes a Snapshot.
//
// Shape: of in, what no kind in dirty stands for may be missing: it is taken from the
// Snapshot before. nil: nothing that matters has changed.
func (b *builder) build(in inputs, dirty map[string]bool) (*Snapshot, error) {
	next := &Snapshot{Services: &Services{}}
	if b.last != nil {
		*next = *b.last
	}
	next.Stale = 0
	if dirty["pods"] || dirty["namespaces"] {
		var spaces map[string]guard
		spaces, next.GuardedNamespaces = guardedNamespaces(in.namespaces)
		next.Pods = b.pods(in.pods, spaces, meshModes(in.namespaces))
	}
	if dirty["services"] || dirty["endpointslices"] || dirty["nodes"] {
		services := joined(in)
		if !reflect.DeepEqual(services.list, next.Services.list) || !reflect.DeepEqual(services.nodes, next.Services.nodes) {
			next.Services = services
		}
	}
	if slices.ContainsFunc(policyKinds[:], func(kind string) bool { return dirty[kind] }) {
		objects, err := documents(in.policies)
		if err != nil {
			return nil, err
		}
		next.Objects = objects
	}
	if b.last != nil && b.last.Stale == 0 && next.Services == b.last.Services &&
		reflect.DeepEqual(next.Pods, b.last.Pods) && reflect.DeepEqual(next.Objects, b.last.Objects) &&
		slices.Equal(next.GuardedNamespaces, b.last.GuardedNamespaces) {
		return nil, nil
	}
	b.last = next
	return next, nil
}

// guardedNamespaces reads the guards of namespaces, and names those that have one.
func guardedNamespaces(namespaces []*metav1.PartialObjectMetadata) (map[string]guard, []string) {
	all := make(map[string]guard)
	var names []string
	for _, n := range namespaces {
		if g := guardOf(n.Labels); g.on {
			all[n.Name] = g
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return all, names
}

// meshModes are the namespaces' words about a mesh without sidecars, by name.
func meshModes(namespaces []*metav1.PartialObjectMetadata) map[string]string {
	all := make(map[string]string)
	for _, n := range namespaces {
		if mode, ok := n.Labels[meshMode]; ok {
			all[n.Name] = mode
		}
	}
	return all
}

// pods decides which of the node's pods are guarded, and drops those that have ended.
func (b *builder) pods(pods []*corev1.Pod, namespaces map[string]guard, modes map[string]string) []Pod {
	// Two may claim one UID, as a mirror pod may be imitated: the elder has it, and the
	// guard of either holds for it.
	slices.SortFunc(pods, func(x, y *corev1.Pod) int {
		if c := x.CreationTimestamp.Compare(y.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(string(x.UID), string(y.UID))
	})
	guards := make(map[string]guard)
	taken := make(map[string]int) // where in out
	var out []Pod
	for _, p := range pods {
		g := guardOf(p.Labels).with(namespaces[p.Namespace]).with(b.guards[string(p.UID)])
		if g.on {
			guards[string(p.UID)] = g
		}
		if ended(p) {
			continue
		}
		pod := podOf(p)
		if elder, is := taken[pod.UID]; is {
			both := guard{out[elder].Guarded, out[elder].Protocols}.with(g)
			out[elder].Guarded, out[elder].Protocols = both.on, both.protocols
			pod.UID = pod.object
		}
		taken[pod.UID] = len(out)
		pod.Guarded, pod.Protocols = g.on, g.protocols
		pod.Mesh = meshOf(p, modes[p.Namespace])
		out = append(out, pod)
	}
	b.guards = guards // those of pods that are gone go
	slices.SortFunc(out, func(x, y Pod) int { return strings.Compare(x.UID, y.UID) })
	return out
}

func joined(in inputs) *Services {
	of := make(map[ServiceName][]*discoveryv1.EndpointSlice)
	for _, slice := range in.slices {
		if service := slice.Labels[discoveryv1.LabelServiceName]; service != "" {
			name := ServiceName{slice.Namespace, service}
			of[name] = append(of[name], slice)
		}
	}
	return servicesOf(in.services, of, in.nodes)
}

// documents are the policy objects as policy.Compile reads them.
func documents(objects []*unstructured.Unstructured) ([]policy.Document, error) {
	var all []policy.Document
	for _, o := range objects {
		fields := maps.Clone(o.Object)
		if metadata, ok := fields["metadata"].(map[string]any); ok {
			metadata = maps.Clone(metadata)
			delete(metadata, "resourceVersion") // a status that was written is no new version
			fields["metadata"] = metadata
		}
		text, err := json.Marshal(fields)
		if err != nil {
			return nil, fmt.Errorf("write %s/%s as JSON: %w", o.GetKind(), o.GetName(), err)
		}
		all = append(all, policy.Document{Name: o.GetKind() + "/" + o.GetName(), JSON: text})
	}
	slices.SortFunc(all, func(a, b policy.Document) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
