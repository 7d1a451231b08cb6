package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// everything are values that turn on all that the chart has.
var everything = []string{
	"boot.install=true", "boot.require=true", "node.podsCgroup=kubepods.slice",
	"monitoring.podMonitor=true", "monitoring.prometheusRule=true", "monitoring.dashboard=true",
	"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
	"networkPolicy.apiServer[0].ipBlock.cidr=10.0.0.1/32", "image.pullSecrets[0].name=registry",
}

// helm is the path of helm's program.
var helm = sync.OnceValues(func() (string, error) {
	find := exec.Command("go", "-C", "../../testenv/helm", "tool", "-n", "helm")
	find.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as make builds everything: it is built once
	path, err := find.Output()
	return strings.TrimSpace(string(path)), err
})

// render renders the chart as helm does, and gives its objects by kind and name.
func render(t *testing.T, values ...string) (map[string]json.RawMessage, string, error) {
	t.Helper()
	program, err := helm()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"template", "postern", chart, "--namespace", "postern-system"}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	cmd := exec.Command(program, args...)
	var said strings.Builder
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return nil, said.String(), err
	}
	objects := make(map[string]json.RawMessage)
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		raw, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("got %v, want YAML:\n%s", err, document)
		}
		var object struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			t.Fatal(err)
		}
		if object.Kind != "" {
			objects[object.Kind+"/"+object.Metadata.Name] = raw
		}
	}
	return objects, "", nil
}

// must reads an object as strictly as the API server would.
func must[T any](t *testing.T, objects map[string]json.RawMessage, name string) (object T) {
	t.Helper()
	if err := yaml.UnmarshalStrict(objects[name], &object); err != nil || objects[name] == nil {
		t.Fatalf("got %v for %s, want it among the chart's objects", err, name)
	}
	return object
}

func TestChartRendersAllThatItHas(t *testing.T) {
	objects, said, err := render(t, everything...)
	if err != nil {
		t.Fatalf("got %v: %s", err, said)
	}
	for _, want := range []string{
		"PodMonitor/postern", "NetworkPolicy/postern", "NetworkPolicy/postern-controller", "ValidatingAdmissionPolicy/nodestatuses.postern.dev",
		"ValidatingAdmissionPolicy/unguard-pods.postern.dev", "DaemonSet/postern-agent", "Deployment/postern-controller",
	} {
		if objects[want] == nil {
			t.Errorf("got no %s, want it", want)
		}
	}
	var rules struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
	}
	if err := json.Unmarshal(objects["PrometheusRule/postern"], &rules); err != nil {
		t.Fatal(err)
	}
	if len(rules.Spec.Groups) != 1 || len(rules.Spec.Groups[0].Rules) < 5 || rules.Spec.Groups[0].Rules[0].Expr == "" {
		t.Errorf("got %+v, want the alerts in one group", rules)
	}
	dashboard := must[corev1.ConfigMap](t, objects, "ConfigMap/postern-dashboard").Data["postern.json"]
	if !json.Valid([]byte(dashboard)) || !strings.Contains(dashboard, "panels") {
		t.Errorf("got a dashboard of %d bytes, want JSON with panels", len(dashboard))
	}
}

// TestChartGivesNoContainerMoreThanItNeeds: what Pod Security calls restricted holds
// for all containers but the gate and those that prepare a node.
func TestChartGivesNoContainerMoreThanItNeeds(t *testing.T) {
	objects, said, err := render(t, everything...)
	if err != nil {
		t.Fatalf("got %v: %s", err, said)
	}
	agent := must[appsv1.DaemonSet](t, objects, "DaemonSet/postern-agent").Spec.Template.Spec
	controller := must[appsv1.Deployment](t, objects, "Deployment/postern-controller").Spec.Template.Spec
	if agent.HostNetwork || agent.HostIPC || controller.HostPID || controller.HostNetwork || *agent.AutomountServiceAccountToken {
		t.Errorf("got more of the node than its processes, want that alone")
	}
	root := []string{"prepare", "boot", "gate"}
	for _, c := range slices.Concat(agent.InitContainers, agent.Containers, controller.Containers) {
		s := c.SecurityContext
		if s == nil || s.Capabilities == nil || s.AllowPrivilegeEscalation == nil || s.ReadOnlyRootFilesystem == nil || s.RunAsUser == nil {
			t.Errorf("got %+v for %s, want all of it said", s, c.Name)
			continue
		}
		if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Privileged != nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("got %+v for %s, want no way to more", s, c.Name)
		}
		if got, want := *s.RunAsUser == 0, slices.Contains(root, c.Name); got != want {
			t.Errorf("got root %v for %s, want %v", got, c.Name, want)
		}
		if !slices.Contains(root, c.Name) && (len(s.Capabilities.Add) > 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault) {
			t.Errorf("got %+v for %s, want no capability and the runtime's profile", s, c.Name)
		}
		token := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "api-access" })
		if got, want := token, c.Name == "agent"; got != want {
			t.Errorf("got a token mounted into %s: %v, want %v", c.Name, got, want)
		}
	}
}

func TestChartRefusesValuesThatAreNone(t *testing.T) {
	for value, says := range map[string]string{
		"agent.strictPod=refuse":                   "strictPod",
		"agent.strictPods=maybe":                   "strictPods",
		"agent.drain=soon":                         "drain",
		"agent.resources.agent.limits.memory=lots": "memory",
		"boot.before[0]=kubelet":                   "before",
		"boot.binDir=/opt/a b":                     "binDir",
		"node.cgroupRoot=sys/fs/cgroup":            "cgroupRoot",
		"agent.tolerations[0].effect=None":         "tolerations",
	} {
		if _, said, err := render(t, value); err == nil || !strings.Contains(said, says) {
			t.Errorf("got %v and %q for %s, want it refused by its name", err, said, value)
		}
	}
	objects, said, err := render(t, "node.nri=", "priorityClassName=", "boot.install=false")
	if err != nil {
		t.Fatalf("got %v: %s", err, said)
	}
	text := string(objects["DaemonSet/postern-agent"])
	for _, none := range []string{"/host/nri", "priorityClassName", `"boot"`} {
		if strings.Contains(text, none) {
			t.Errorf("got %s in the DaemonSet, want it left out", none)
		}
	}
}
