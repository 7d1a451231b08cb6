//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/internal/policy"
)

// kubeconfigVariable names the file with which the tests below reach a real API
// server as its administrator; Postern's custom resources must be there.
const kubeconfigVariable = "POSTERN_TEST_KUBECONFIG"

// agentRights are those that the package's comment lists, and no others.
const agentRights = `
- {apiGroups: [""], resources: [pods, namespaces, nodes, services], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [postern.dev], resources: [targets, accesspolicies, issuers], verbs: [get, list, watch]}
- {apiGroups: [postern.dev], resources: [nodestatuses], verbs: [create, patch]}
- {apiGroups: [postern.dev], resources: [nodestatuses/status], verbs: [patch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
- {nonResourceURLs: [/openid/v1/jwks], verbs: [get]}
`

// world is a namespace and a node of a real cluster that are the test's own, with a
// Watcher that has the agent's rights.
type realWorld struct {
	*testing.T
	admin dynamic.Interface
	name  string // of the namespace, the node and what belongs to no namespace
	w     *Watcher
}

func newRealWorld(t *testing.T) *realWorld {
	t.Helper()
	file := os.Getenv(kubeconfigVariable)
	if file == "" {
		t.Fatalf("set %s to the kubeconfig of a cluster's administrator", kubeconfigVariable)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &realWorld{T: t, admin: admin, name: fmt.Sprintf("cluster-test-%x", time.Now().UnixNano())}
	r.make("v1", "namespaces", "", "{kind: Namespace, metadata: {name: NAME}}")
	r.make("v1", "nodes", "", "{kind: Node, metadata: {name: NAME}, spec: {podCIDR: 10.250.0.0/24, podCIDRs: [10.250.0.0/24]}}")
	user := "system:serviceaccount:" + r.name + ":agent"
	const rbac = "rbac.authorization.k8s.io/v1"
	subject := "subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: '" + user + "'}]"
	r.make(rbac, "clusterroles", "", "kind: ClusterRole\nmetadata: {name: NAME}\nrules:"+agentRights)
	r.make(rbac, "clusterrolebindings", "", "kind: ClusterRoleBinding\nmetadata: {name: NAME}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME}\n"+subject)
	r.make(rbac, "roles", r.name, "{kind: Role, metadata: {name: agent}, rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]}")
	r.make(rbac, "rolebindings", r.name, "kind: RoleBinding\nmetadata: {name: agent}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent}\n"+subject)
	r.make("v1", "serviceaccounts", r.name, "{kind: ServiceAccount, metadata: {name: workload}}")

	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: user}
	as.QPS, as.Burst = requestRate, requestBurst
	log := logrus.New()
	log.SetOutput(io.Discard)
	r.w = bare(Config{Node: r.name, Namespace: r.name, Log: log})
	if err := r.w.connect(as); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v from Run, want none", err)
		}
	})
	return r
}

// of is where objects of a resource are; namespace "" is none.
func (r *realWorld) of(version, resource, namespace string) dynamic.ResourceInterface {
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		r.Fatal(err)
	}
	of := r.admin.Resource(gv.WithResource(resource))
	if namespace == "" {
		return of
	}
	return of.Namespace(namespace)
}

// make creates an object, in whose text NAME stands for r.name, until the test ends.
func (r *realWorld) make(version, resource, namespace, text string) {
	r.Helper()
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "NAME", r.name)), &fields); err != nil {
		r.Fatal(err)
	}
	fields["apiVersion"] = version
	object := &unstructured.Unstructured{Object: fields}
	of := r.of(version, resource, namespace)
	if _, err := of.Create(r.Context(), object, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := of.Delete(context.Background(), object.GetName(), metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
			r.Logf("delete %s %s: %v", resource, object.GetName(), err)
		}
	})
}

func (r *realWorld) patch(version, resource, namespace, name, text string, subresources ...string) {
	r.Helper()
	_, err := r.of(version, resource, namespace).Patch(r.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{}, subresources...)
	if err != nil {
		r.Fatal(err)
	}
}

// wait takes Snapshots until one is as wanted, and tells how long that took.
func (r *realWorld) wait(what string, wanted func(*Snapshot) bool) *Snapshot {
	r.Helper()
	began := time.Now()
	limit := time.After(30 * time.Second)
	for {
		select {
		case s := <-r.w.Snapshots():
			if wanted(s) {
				r.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
				return s
			}
		case <-limit:
			r.Fatalf("got no Snapshot with %s in 30 s, want one", what)
		}
	}
}

// eventually waits for what no Snapshot tells.
func (r *realWorld) eventually(what string, is func() bool) {
	r.Helper()
	for limit := time.Now().Add(30 * time.Second); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			r.Fatalf("got no %s in 30 s, want it", what)
		}
	}
}

const podText = "{kind: Pod, metadata: {name: %s}, spec: {nodeName: %s, serviceAccountName: workload, automountServiceAccountToken: false, terminationGracePeriodSeconds: 0, containers: [{name: c, image: none}]}}"

func TestRealPodsAreGuardedByTheirLabels(t *testing.T) {
	r := newRealWorld(t)
	r.make("v1", "pods", r.name, fmt.Sprintf(podText, "mine", r.name))
	r.make("v1", "pods", r.name, fmt.Sprintf(podText, "other", "another-node"))
	find := func(s *Snapshot) Pod {
		i := slices.IndexFunc(s.Pods, func(p Pod) bool { return p.Name == "mine" })
		if i < 0 {
			return Pod{}
		}
		return s.Pods[i]
	}
	s := r.wait("the pod", func(s *Snapshot) bool { return find(s).UID != "" })
	if len(s.Pods) != 1 || find(s).Guarded || find(s).ServiceAccount != "workload" || find(s).Node != r.name {
		t.Errorf("got %+v, want the pod of this node alone, not guarded", s.Pods)
	}
	r.patch("v1", "pods", r.name, "mine", `{"metadata":{"labels":{"postern.dev/guard":"postgres"}}}`)
	s = r.wait("the pod guarded", func(s *Snapshot) bool { return find(s).Guarded })
	if got := find(s).Protocols; !slices.Equal(got, []string{"postgres"}) {
		t.Errorf("got protocols %v, want postgres", got)
	}
	r.patch("v1", "pods", r.name, "mine", `{"metadata":{"labels":{"postern.dev/guard":null}}}`)
	s = r.wait("its label gone", func(s *Snapshot) bool { return find(s).Labels[GuardLabel] == "" })
	if !find(s).Guarded {
		t.Errorf("got %+v, want it guarded still", find(s))
	}
	r.patch("v1", "namespaces", "", r.name, `{"metadata":{"labels":{"postern.dev/guard":"true"}}}`)
	s = r.wait("the namespace guarded", func(s *Snapshot) bool { return slices.Contains(s.GuardedNamespaces, r.name) })
	if p := find(s); !p.Guarded || p.Protocols != nil {
		t.Errorf("got %+v, want everything guarded", p)
	}
}

func TestRealServicesLeadToATarget(t *testing.T) {
	r := newRealWorld(t)
	r.patch("v1", "nodes", "", r.name, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.77"}]}}`, "status")
	r.make("v1", "services", r.name, "{kind: Service, metadata: {name: orders}, spec: {type: NodePort, ports: [{name: pg, port: 6000, targetPort: postgres}]}}")
	r.make("v1", "services", r.name, "{kind: Service, metadata: {name: mix}, spec: {ports: [{port: 443}]}}")
	slice := "{kind: EndpointSlice, metadata: {name: %s, labels: {kubernetes.io/service-name: %[1]s}}, addressType: IPv4, ports: [{name: %q, port: 5432}], endpoints: [%s]}"
	r.make("discovery.k8s.io/v1", "endpointslices", r.name, fmt.Sprintf(slice, "orders", "pg", "{addresses: [10.250.0.5]}"))
	r.make("discovery.k8s.io/v1", "endpointslices", r.name, fmt.Sprintf(slice, "mix", "", "{addresses: [10.250.0.5]}, {addresses: [10.250.9.9]}"))
	name := ServiceName{r.name, "orders"}
	reach := Reach{Services: []ServiceName{name}, Ports: []uint16{5432}}
	s := r.wait("the Services", func(s *Snapshot) bool {
		mix := s.Services.byName[ServiceName{r.name, "mix"}]
		return len(s.Services.Guarded(reach).Addrs) > 1 && mix != nil && len(mix.Ports[0].Endpoints) == 2 && s.Services.nodeOf[addrs([]string{"192.0.2.77"})[0]] != nil
	})
	orders, mix := s.Services.byName[name], s.Services.byName[ServiceName{r.name, "mix"}]
	got := text(s.Services.Guarded(reach))
	for _, want := range []string{
		orders.ClusterIPs[0].String() + ":6000", "10.250.0.5:5432", mix.ClusterIPs[0].String() + ":443",
		fmt.Sprintf("192.0.2.77:%d", orders.Ports[0].NodePort), fmt.Sprintf("10.250.0.1:%d", orders.Ports[0].NodePort),
	} {
		if !slices.Contains(got, want) {
			t.Errorf("got %v, want %s among them", got, want)
		}
	}
	if slices.Contains(got, "10.250.9.9:5432") {
		t.Errorf("got %v, want nobody else's endpoint", got)
	}
	dials, unknown := s.Services.Dialled(reach)
	if len(unknown) != 0 || dials[0].Addr.Port() != 6000 || dials[0].Addr.Addr() != orders.ClusterIPs[0] {
		t.Errorf("got %v, unknown %v, want the cluster address", dials, unknown)
	}
}

func TestRealObjectsAndSecretsAreRead(t *testing.T) {
	r := newRealWorld(t)
	r.make("postern.dev/v1alpha1", "targets", "", "{kind: Target, metadata: {name: NAME}, spec: {protocol: postgres, hosts: [db.example], ports: [5432], credential: {client: true}}}")
	s := r.wait("the Target", func(s *Snapshot) bool {
		return slices.ContainsFunc(s.Objects, func(d policy.Document) bool { return d.Name == "Target/"+r.name })
	})
	set, rejected, err := policy.Compile(s.Objects)
	if err != nil || rejected["Target/"+r.name] != nil || len(set.Targets()) == 0 {
		t.Errorf("got %v, rejected %v, want the Target accepted", err, rejected)
	}
	if _, _, err := r.w.Secret(t.Context(), "login"); !errors.Is(err, ErrNoSecret) {
		t.Errorf("got %v, want %v", err, ErrNoSecret)
	}
	r.make("v1", "secrets", r.name, "{kind: Secret, metadata: {name: login}, stringData: {password: one}}")
	var version string
	r.eventually("Secret", func() bool {
		data, v, err := r.w.Secret(t.Context(), "login")
		version = v
		return err == nil && string(data["password"]) == "one"
	})
	r.patch("v1", "secrets", r.name, "login", `{"stringData":{"password":"two"}}`)
	r.w.SecretFailed("login", version)
	r.eventually("new version of the Secret", func() bool {
		data, _, err := r.w.Secret(t.Context(), "login")
		return err == nil && string(data["password"]) == "two"
	})
	keys, err := r.w.Get(t.Context(), "/openid/v1/jwks", 1<<20)
	if err != nil || !strings.Contains(string(keys), `"keys"`) {
		t.Errorf("got %q, %v, want the cluster's keys", keys, err)
	}
	if _, err := r.w.Get(t.Context(), "/openid/v1/jwks", 10); err == nil {
		t.Error("got a document of any size, want at most 10 bytes")
	}
}

func TestRealEventsAndStatusAreWritten(t *testing.T) {
	r := newRealWorld(t)
	r.make("v1", "pods", r.name, fmt.Sprintf(podText, "mine", r.name))
	s := r.wait("the pod", func(s *Snapshot) bool { return len(s.Pods) == 1 })
	r.w.Event(s.Pods[0].UID, Guarded, "Connections to Targets go through Postern")
	for i := range 100 {
		r.w.Event(s.Pods[0].UID, Refused, fmt.Sprintf("DROP TABLE: rule no-ddl of policy reporters, record %d", i))
	}
	r.w.Event("nobody", Refused, "is lost")
	count := func() (guarded, refused int) {
		list, err := r.of("v1", "events", r.name).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + s.Pods[0].UID})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			switch e.Object["reason"] {
			case "Guarded":
				guarded++
			case "Refused":
				refused++
			}
		}
		return guarded, refused
	}
	r.eventually("Events", func() bool {
		guarded, refused := count()
		return guarded == 1 && refused >= eventSimilar-1
	})
	if _, refused := count(); refused > eventBurst {
		t.Errorf("got %d Events for 100 refusals, want at most %d", refused, eventBurst)
	}

	r.w.Report(policy.NodeState{Agent: "1", Guarded: new(int32(1))})
	var status map[string]any
	shows := func(agent string) func() bool {
		return func() bool {
			o, err := r.of("postern.dev/v1alpha1", "nodestatuses", "").Get(t.Context(), r.name, metav1.GetOptions{})
			if err != nil {
				return false
			}
			if owners := o.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "Node" || owners[0].Name != r.name {
				t.Errorf("got owners %v, want the node", owners)
			}
			status, _, _ = unstructured.NestedMap(o.Object, "status")
			return status["agent"] == agent
		}
	}
	r.eventually("NodeStatus", shows("1"))
	if status["guarded"] != int64(1) || status["observed"] == nil {
		t.Errorf("got %v, want guarded 1 and when it was observed", status)
	}
	r.w.Report(policy.NodeState{Agent: "2"})
	r.eventually("new NodeStatus", shows("2"))
	if _, ok := status["guarded"]; ok {
		t.Errorf("got %v, want no guarded: the newest replaces what was there", status)
	}
	if err := r.of("postern.dev/v1alpha1", "nodestatuses", "").Delete(t.Context(), r.name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
