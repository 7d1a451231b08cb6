package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// guardable are the kinds that carry the guard: each object has its kind's name.
// LABEL is its pods', SPEC their specification, without its braces. No object's
// selector chooses another's pods, for those would be adopted, and scaled down.
var guardable = []struct {
	kind     string
	fields   string // where its pods' metadata is, as a merge patch with a hole
	manifest string // without its braces
}{
	{"pod", `%s`, `apiVersion: v1, kind: Pod, metadata: {name: pod, labels: {app: KIND, LABEL}}, spec: {SPEC}`},
	{"deployment", `{"spec":{"template":%s}}`, `apiVersion: apps/v1, kind: Deployment, metadata: {name: deployment}, spec: {replicas: 0, selector: {matchLabels: {app: KIND}}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {SPEC}}}`},
	{"replicaset", `{"spec":{"template":%s}}`, `apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: replicaset}, spec: {replicas: 0, selector: {matchLabels: {app: KIND}}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {SPEC}}}`},
	{"statefulset", `{"spec":{"template":%s}}`, `apiVersion: apps/v1, kind: StatefulSet, metadata: {name: statefulset}, spec: {replicas: 0, serviceName: a, selector: {matchLabels: {app: KIND}}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {SPEC}}}`},
	{"daemonset", `{"spec":{"template":%s}}`, `apiVersion: apps/v1, kind: DaemonSet, metadata: {name: daemonset}, spec: {selector: {matchLabels: {app: KIND}}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {nodeSelector: {none: none}, SPEC}}}`},
	{"job", `{"spec":{"template":%s}}`, `apiVersion: batch/v1, kind: Job, metadata: {name: job}, spec: {suspend: true, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {restartPolicy: Never, SPEC}}}`},
	{"cronjob", `{"spec":{"jobTemplate":{"spec":{"template":%s}}}}`, `apiVersion: batch/v1, kind: CronJob, metadata: {name: cronjob}, spec: {suspend: true, schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {metadata: {labels: {app: KIND, LABEL}}, spec: {restartPolicy: Never, SPEC}}}}}`},
	{"replicationcontroller", `{"spec":{"template":%s}}`, `apiVersion: v1, kind: ReplicationController, metadata: {name: replicationcontroller}, spec: {replicas: 0, selector: {app: KIND}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {SPEC}}}`},
	{"podtemplate", `{"template":%s}`, `apiVersion: v1, kind: PodTemplate, metadata: {name: podtemplate}, template: {metadata: {labels: {app: KIND, LABEL}}, spec: {SPEC}}`},
}

// makeGuardable makes one object of each kind, none of which but the pod runs anything.
func (w *world) makeGuardable(t *testing.T, label string) {
	t.Helper()
	spec := fmt.Sprintf("containers: [{name: app, image: %s, imagePullPolicy: Never, command: [idle]}]", imageWorkload)
	var all []string
	for _, one := range guardable {
		all = append(all, "{"+strings.NewReplacer("KIND", one.kind, "LABEL", label, "SPEC", spec).Replace(one.manifest)+"}")
	}
	if out, err := kubectlRun(strings.Join(all, "\n---\n"), "apply", "--server-side", "-n", w.namespace, "-f", "-"); err != nil {
		t.Fatalf("got %v from kubectl apply, want it to succeed: %s", err, out)
	}
}

// may gives users roles in the namespace: jane may write everything there, itself
// and statuses included; keeper may unguard, too.
func (w *world) may(t *testing.T) {
	t.Helper()
	text := fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: all, namespace: %[1]s}
rules:
  - {apiGroups: ["", apps, batch], resources: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: all}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}, {apiGroup: rbac.authorization.k8s.io, kind: User, name: keeper}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: unguard, namespace: %[1]s}
rules: [{apiGroups: [postern.dev], resources: [guards], verbs: [unguard]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: unguard, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: unguard}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: keeper}]
`, w.namespace)
	apply(t, text)
	for _, user := range []string{"jane", "keeper"} {
		eventually(t, user+"'s role", func() bool {
			_, err := kubectlRun("", "auth", "can-i", "patch", "pods", "-n", w.namespace, "--as="+user, "-q")
			return err == nil
		})
	}
	eventually(t, "keeper's verb", func() bool {
		_, err := kubectlRun("", "auth", "can-i", "unguard", "guards.postern.dev", "-n", w.namespace, "--as=keeper", "-q")
		return err == nil
	})
}

// setGuard writes the label at fields of an object as somebody; null takes it away.
func (w *world) setGuard(user, object, fields, value string, more ...string) (string, error) {
	patch := fmt.Sprintf(fields, `{"metadata":{"labels":{"postern.dev/guard":`+value+`}}}`)
	args := append([]string{"patch", "-n", w.namespace, "--as=" + user, "--type=merge", "-p", patch}, strings.Fields(object)...)
	return kubectlRun("", append(args, more...)...)
}

// needsVerb checks that something was refused because the verb is missing.
func needsVerb(t *testing.T, what, out string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(out, "needs the verb unguard") {
		t.Errorf("got %v for %s, want it refused for want of the verb unguard: %s", err, what, out)
	}
}

func TestUnguardNeedsItsVerb(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.may(t)
	w.makeGuardable(t, `postern.dev/guard: "true"`)
	kubectl(t, "label", "namespace", w.namespace, "postern.dev/guard=true")
	objects := map[string]string{"namespace " + w.namespace: "%s"}
	for _, one := range guardable {
		objects[one.kind+" "+one.kind] = one.fields
	}

	for object, fields := range objects {
		kind, _, _ := strings.Cut(object, " ")
		t.Run(kind, func(t *testing.T) {
			for _, value := range []string{`null`, `"false"`, `"postgres"`} {
				out, err := w.setGuard("jane", object, fields, value)
				needsVerb(t, value+" on "+object, out, err)
			}
			out, err := kubectlRun("", "annotate", "-n", w.namespace, "--as=jane", kind, strings.Fields(object)[1], "note=unrelated")
			if err != nil {
				t.Errorf("got %v for an unrelated change, want it to pass: %s", err, out)
			}
			if out, err := w.setGuard("keeper", object, fields, "null"); err != nil {
				t.Errorf("got %v for who has the verb, want it to pass: %s", err, out)
			}
			if out, err := w.setGuard("jane", object, fields, `"true"`); err != nil {
				t.Errorf("got %v for labelling, want it to pass: %s", err, out)
			}
		})
	}
}

func TestUnguardKnowsWhatEachValueGuards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.may(t)
	w.start(t, pod{name: "client"})
	for _, change := range []struct {
		from, to string
		refused  bool
	}{
		{`"kubernetes.postgres"`, `"postgres"`, true},
		{`"kubernetes.postgres"`, `"postgres.kubernetes"`, false},
		{`"postgres"`, `"kubernetes"`, true},
		{`"postgres"`, `"kubernetes.postgres"`, false},
		{`"postgres"`, `"true"`, false},
		{`""`, `null`, true}, // an empty value guards everything
		{`"yes"`, `null`, true},
		{`"yes"`, `"postgres"`, true},
		{`"false"`, `null`, false},
		{`null`, `"false"`, false},
	} {
		if out, err := w.setGuard("keeper", "pod client", "%s", change.from); err != nil {
			t.Fatalf("got %v for %s by who has the verb, want it to pass: %s", err, change.from, out)
		}
		out, err := w.setGuard("jane", "pod client", "%s", change.to)
		if change.refused {
			needsVerb(t, change.from+" to "+change.to, out, err)
		} else if err != nil {
			t.Errorf("got %v for %s to %s, want it to pass: %s", err, change.from, change.to, out)
		}
	}
}

// TestUnguardBySubresource: the API server lets labels be written with a status.
func TestUnguardBySubresource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.may(t)
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`})
	kubectl(t, "label", "namespace", w.namespace, "postern.dev/guard=true")
	for _, object := range []string{"pod client", "namespace " + w.namespace} {
		out, err := w.setGuard("jane", object, "%s", "null", "--subresource=status")
		needsVerb(t, "the status of "+object, out, err)
	}
}

func TestObjectsWithoutLabelsAreUntouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.may(t)
	w.makeGuardable(t, `other: "true"`)
	apply(t, fmt.Sprintf(`{apiVersion: batch/v1, kind: CronJob, metadata: {name: bare, namespace: %s}, spec: {suspend: true, schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: app, image: %s}]}}}}}}`,
		w.namespace, imageWorkload))
	for _, one := range append(guardable[:len(guardable):len(guardable)], struct{ kind, fields, manifest string }{kind: "cronjob/bare"}) {
		object := one.kind
		if !strings.Contains(object, "/") {
			object += "/" + one.kind
		}
		if out, err := kubectlRun("", "annotate", "-n", w.namespace, "--as=jane", object, "note=unrelated"); err != nil {
			t.Errorf("got %v for a change of %s, want it to pass: %s", err, object, out)
		}
	}
}

func TestPodMayNotUnguardItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	apply(t, fmt.Sprintf(`
{apiVersion: v1, kind: ServiceAccount, metadata: {name: patcher, namespace: %[1]s}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: patcher, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: patcher, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: patcher}
subjects: [{kind: ServiceAccount, name: patcher, namespace: %[1]s}]
`, w.namespace))
	w.start(t, pod{name: "client", labels: `{postern.dev/guard: "true"}`, extra: "serviceAccountName: patcher"})
	w.guarded(t, "client")
	if out, err := w.exec("client", "kubectl", "label", "pod", "client", "note=own"); err != nil {
		t.Fatalf("got %v, want the pod to be able to patch itself: %s", err, out)
	}
	for _, label := range []string{"postern.dev/guard-", "postern.dev/guard=false", "postern.dev/guard=kubernetes"} {
		out, err := w.exec("client", "kubectl", "label", "--overwrite", "pod", "client", label)
		needsVerb(t, label+" by the pod itself", out, err)
	}
	if got := kubectl(t, "get", "pod", "-n", w.namespace, "client", "-o", `jsonpath={.metadata.labels.postern\.dev/guard}`); got != "true" {
		t.Errorf("got the label %q in the end, want true", got)
	}
}
