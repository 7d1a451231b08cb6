package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"postern.dev/postern/internal/policy"
)

// settle is how long the controller waits for more changes after one: people
// and tools write several objects at a time.
const settle = 300 * time.Millisecond

// retry is when a status that could not be written is written again.
const retry = 5 * time.Second

const fieldManager = "postern-controller"

var (
	targets      = schema.GroupVersionResource{Group: policy.Group, Version: "v1alpha1", Resource: "targets"}
	policies     = targets.GroupVersion().WithResource("accesspolicies")
	issuers      = targets.GroupVersion().WithResource("issuers")
	nodeStatuses = targets.GroupVersion().WithResource("nodestatuses")
)

// lead works until ctx is done: this instance is the only one.
func (c *controller) lead(ctx context.Context) error {
	if err := c.ensureOperatorKey(ctx); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(c.objects, 0)
	defer factory.Shutdown()
	listers := make(map[schema.GroupVersionResource]cache.GenericLister)
	for _, resource := range []schema.GroupVersionResource{targets, policies, issuers, nodeStatuses} {
		informer := factory.ForResource(resource)
		listers[resource] = informer.Lister()
		_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { notify() },
			UpdateFunc: func(any, any) { notify() },
			DeleteFunc: func(any) { notify() },
		})
		if err != nil {
			return fmt.Errorf("watch %s: %w", resource.Resource, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Shutdown, which waits for what it ends
	factory.Start(ctx.Done())
	for resource, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return ctx.Err()
		}
		c.o.Log.WithField("resource", resource.Resource).Debug("Listed")
	}
	c.ready.Store(true)
	pace(ctx, changed, func() bool {
		err := c.reconcile(ctx, listers)
		if err != nil && ctx.Err() == nil {
			c.o.Log.WithError(err).Warn("Status not written, to be tried again")
		}
		return err == nil
	})
	return nil
}

// pace works at once, and after a change, until ctx is done. Changes that do not end
// (each node's agent makes some) put it off no longer than settle, and work that takes
// long leaves the processor to others for several times as long. Work that fails is
// done again.
func pace(ctx context.Context, changed <-chan struct{}, work func() bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	due, rest := true, settle
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if !due {
				timer.Reset(rest)
			}
			due = true
			continue
		case <-timer.C:
		}
		began := time.Now()
		due = !work()
		rest = max(settle, 4*time.Since(began))
		timer.Reset(time.Hour)
		if due {
			timer.Reset(retry)
		}
	}
}

// reconcile writes the status of every policy object that has another one.
func (c *controller) reconcile(ctx context.Context, listers map[schema.GroupVersionResource]cache.GenericLister) error {
	seen := make(map[schema.GroupVersionResource][]*unstructured.Unstructured)
	for resource, lister := range listers {
		list, err := lister.List(labels.Everything())
		if err != nil {
			return err
		}
		for _, object := range list {
			seen[resource] = append(seen[resource], object.(*unstructured.Unstructured))
		}
	}
	v, err := newView(seen)
	if err != nil {
		return err
	}
	var errs []error
	for resource, statusOf := range map[schema.GroupVersionResource]func(*unstructured.Unstructured) (any, error){
		targets:  v.target,
		policies: v.accessPolicy,
		issuers:  v.issuer,
	} {
		for _, object := range seen[resource] {
			status, err := statusOf(object)
			if err == nil {
				err = c.write(ctx, resource, object, status)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("write status of %s %s: %w", resource.Resource, object.GetName(), err))
			}
		}
	}
	return errors.Join(errs...)
}

// write applies a status, unless the object has it.
func (c *controller) write(ctx context.Context, resource schema.GroupVersionResource, object *unstructured.Unstructured, status any) error {
	fields, err := fieldsOf(status)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(fields, object.Object["status"]) {
		return nil
	}
	applied := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": object.GetAPIVersion(), "kind": object.GetKind(),
		"metadata": map[string]any{"name": object.GetName(), "uid": string(object.GetUID())}, // not one of that name made meanwhile
		"status":   fields,
	}}
	_, err = c.objects.Resource(resource).ApplyStatus(ctx, object.GetName(), applied, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// fieldsOf is a value as JSON has it: maps, lists, text and whole numbers.
func fieldsOf(value any) (map[string]any, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var object unstructured.Unstructured
	if err := json.Unmarshal([]byte(`{"apiVersion":"v1","kind":"Status","status":`+string(text)+`}`), &object); err != nil {
		return nil, err
	}
	fields, _, err := unstructured.NestedMap(object.Object, "status")
	return fields, err
}
