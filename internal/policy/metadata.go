package policy

import (
	"reflect"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// metadata is what a file may say of an object beside its kind and spec. Labels
// and annotations are for other tools: Postern goes by neither.
type metadata struct {
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// ofTheCluster refuses a key that is the API server's.
const ofTheCluster = "is written by the cluster, not by a file; take it away"

// decodeMetadata reads what a file may say; of what the API server hands out,
// which has checked it, it keeps the name and what orders and tells versions.
func (d *document) decodeMetadata(n *node, path string, meta *metav1.ObjectMeta) {
	if d.live {
		meta.Name, _ = scalar(n, "name")
		uid, _ := scalar(n, "uid")
		meta.UID = types.UID(uid)
		meta.ResourceVersion, _ = scalar(n, "resourceVersion")
		generation, _ := scalar(n, "generation")
		meta.Generation, _ = strconv.ParseInt(generation, 10, 64)
		created, _ := scalar(n, "creationTimestamp")
		if at, err := time.Parse(time.RFC3339, created); err == nil {
			meta.CreationTimestamp, d.created = metav1.NewTime(at), at
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch key := n.Content[i].Value; {
		case key == "namespace":
			d.lines[join(path, key)] = n.Content[i].Line
			d.malformed(join(path, key), "is given, and Postern's objects belong to no namespace; take it away")
		case slices.Contains(clusterKeys(), key):
			d.lines[join(path, key)] = n.Content[i].Line
			d.malformed(join(path, key), ofTheCluster)
		}
	}
	var read metadata
	d.decodeStruct(n, path, reflect.ValueOf(&read).Elem())
	meta.Name, meta.Labels, meta.Annotations = read.Name, read.Labels, read.Annotations
}

// clusterKeys lists the keys that kubectl shows in an object's metadata and a file may not give.
func clusterKeys() []string {
	return []string{
		"uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
		"managedFields", "ownerReferences", "finalizers", "selfLink",
	}
}
