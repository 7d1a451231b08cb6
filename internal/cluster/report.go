package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"postern.dev/postern/internal/policy"
)

const (
	reportInterval = 10 * time.Second // between two that differ
	reportRenewal  = 5 * time.Minute  // of one that does not, so that a node that is gone is seen
	reportTimeout  = 5 * time.Second
)

// reports writes the status of the node's NodeStatus.
type reports struct {
	client dynamic.ResourceInterface
	node   string
	uid    func() (string, bool) // of the Node object, once it is known
	log    logrus.FieldLogger
	newest chan []byte // holds one
}

// offer makes a status the one that is written next.
func (r *reports) offer(status policy.NodeState) error {
	status.Observed = nil // is set when it is written; two that differ in it alone are the same
	data, err := json.Marshal(status)
	if err != nil {
		return err
	}
	for {
		select {
		case r.newest <- data:
			return nil
		default:
		}
		select {
		case <-r.newest:
		default:
		}
	}
}

// run writes until ctx is done.
func (r *reports) run(ctx context.Context) error {
	var want, have []byte
	var at time.Time
	made, failing := false, false
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case want = <-r.newest:
			if !at.IsZero() && time.Since(at) < reportInterval {
				continue // at the next tick
			}
		case <-tick.C:
		}
		if want == nil || bytes.Equal(want, have) && time.Since(at) < reportRenewal {
			continue
		}
		err := r.write(ctx, want, &made)
		at = time.Now()
		if err == nil {
			have = want
		} else if !failing && ctx.Err() == nil {
			r.log.WithError(err).Warn("NodeStatus not written, it is tried again")
		}
		failing = err != nil
	}
}

// write applies a status, and before the first one makes the object.
//
// Source: Kubernetes documentation, Server-Side Apply: a status is applied apart
// from its object, which has to be there.
func (r *reports) write(ctx context.Context, status []byte, made *bool) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	options := metav1.ApplyOptions{FieldManager: component, Force: true}
	if !*made {
		uid, ok := r.uid()
		if !ok {
			return fmt.Errorf("write NodeStatus: node %s is not known", r.node)
		}
		object := r.object()
		object.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: types.UID(uid)}})
		if _, err := r.client.Apply(ctx, r.node, object, options); err != nil {
			return fmt.Errorf("make NodeStatus: %w", err)
		}
		*made = true
	}
	var fields map[string]any
	if err := json.Unmarshal(status, &fields); err != nil {
		return err
	}
	fields["observed"] = time.Now().UTC().Format(time.RFC3339)
	object := r.object()
	object.Object["status"] = fields
	_, err := r.client.ApplyStatus(ctx, r.node, object, options)
	if apierrors.IsNotFound(err) {
		*made = false // it went with its Node, which may be back
	}
	if err != nil {
		return fmt.Errorf("write NodeStatus: %w", err)
	}
	return nil
}

func (r *reports) object() *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetAPIVersion(policy.APIVersion)
	o.SetKind("NodeStatus")
	o.SetName(r.node)
	return o
}
