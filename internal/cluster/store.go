package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// store holds the objects of one kind as the API server shows them.
type store struct {
	cache.Store
	controller cache.Controller
}

// stores are all that a Snapshot is made of.
type stores struct {
	pods, namespaces, nodes, services, slices *store
	policies                                  [3]*store
}

func (s *stores) all() []*store {
	return append([]*store{s.pods, s.namespaces, s.nodes, s.services, s.slices}, s.policies[:]...)
}

// policyKinds are the resources of the policy objects.
var policyKinds = [3]string{"targets", "accesspolicies", "issuers"}

func policyResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "postern.dev", Version: "v1alpha1", Resource: name}
}

// lister lists and watches one kind of object.
type lister struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// newStores makes the stores of a node; none is filled before its controller runs.
func newStores(c *rest.Config, node string, contact *contact, changed func(kind string)) (*stores, error) {
	typed, err := restClients(c)
	if err != nil {
		return nil, err
	}
	light, err := metadata.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	free, err := dynamic.NewForConfig(c)
	if err != nil {
		return nil, err
	}
	make := func(kind string, object runtime.Object, l lister) *store {
		return newStore(kind, object, l, contact, changed)
	}
	namespaces := light.Resource(corev1.SchemeGroupVersion.WithResource("namespaces"))
	s := &stores{
		pods:     make("pods", &corev1.Pod{}, typedLister[corev1.PodList](typed.core, "pods", fields.OneTermEqualSelector("spec.nodeName", node).String())),
		nodes:    make("nodes", &corev1.Node{}, typedLister[corev1.NodeList](typed.core, "nodes", "")),
		services: make("services", &corev1.Service{}, typedLister[corev1.ServiceList](typed.core, "services", "")),
		slices: make("endpointslices", &discoveryv1.EndpointSlice{},
			typedLister[discoveryv1.EndpointSliceList](typed.discovery, "endpointslices", "")),
		namespaces: make("namespaces", &metav1.PartialObjectMetadata{}, lister{
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return namespaces.List(ctx, o)
			},
			namespaces.Watch,
		}),
	}
	for i, kind := range policyKinds {
		of := free.Resource(policyResource(kind))
		s.policies[i] = make(kind, &unstructured.Unstructured{}, lister{
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return of.List(ctx, o) },
			of.Watch,
		})
	}
	return s, nil
}

func newStore(kind string, object runtime.Object, l lister, contact *contact, changed func(kind string)) *store {
	told := func() { changed(kind) }
	var silent klog.Logger // what goes wrong is told to contact
	s := &store{}
	s.Store, s.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		Logger: &silent,
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				list, err := l.list(ctx, o)
				contact.told(ctx, kind, err)
				return list, err
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				w, err := l.watch(ctx, o)
				contact.told(ctx, kind, err)
				return w, err
			},
		},
		ObjectType: object,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { told() },
			UpdateFunc: func(any, any) { told() },
			DeleteFunc: func(any) { told() },
		},
		Transform: strip,
	})
	return s
}

// clients speak the two groups whose types this package knows, in protobuf.
type clients struct{ core, discovery *rest.RESTClient }

func restClients(c *rest.Config) (clients, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := corev1.AddToScheme(scheme); err != nil {
		return clients{}, err
	}
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		return clients{}, err
	}
	of := func(path string, version schema.GroupVersion) (*rest.RESTClient, error) {
		config := rest.CopyConfig(c)
		config.APIPath = path
		config.GroupVersion = &version
		config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		config.ContentType = runtime.ContentTypeProtobuf
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		return rest.RESTClientFor(config)
	}
	core, err := of("/api", corev1.SchemeGroupVersion)
	if err != nil {
		return clients{}, err
	}
	discovery, err := of("/apis", discoveryv1.SchemeGroupVersion)
	return clients{core, discovery}, err
}

// typedLister lists and watches a resource of a group whose types are known.
func typedLister[L any, P interface {
	*L
	runtime.Object
}](client *rest.RESTClient, resource, fields string) lister {
	get := func(o *metav1.ListOptions) *rest.Request {
		o.FieldSelector = fields
		return client.Get().Resource(resource).VersionedParams(o, metav1.ParameterCodec)
	}
	return lister{
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list := P(new(L))
			return list, get(&o).Do(ctx).Into(list)
		},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return get(&o).Watch(ctx)
		},
	}
}

// objects lists what a store holds.
func objects[T any](s *store) []T {
	list := s.List()
	out := make([]T, 0, len(list))
	for _, one := range list {
		if object, ok := one.(T); ok {
			out = append(out, object)
		}
	}
	return out
}
