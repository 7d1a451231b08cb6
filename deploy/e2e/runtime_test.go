package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// What the tests do by the container runtime alone, which needs no API server.

// container is one that runs, or a pod's sandbox.
type container struct{ id, pid string }

// onRuntime runs containerd's client on the node.
func onRuntime(args ...string) (string, error) {
	out, err := exec.Command(cluster.program, append([]string{"enter", "ctr", "-n", "k8s.io"}, args...)...).CombinedOutput()
	return ownWord.ReplaceAllString(string(out), ""), err
}

// ownWord is a line in which containerd's client itself complains of the machine.
var ownWord = regexp.MustCompile(`(?m)^time="[^\n]* level=warning [^\n]*\n`)

// running are the containers that run and have every label.
func running(t testing.TB, labels ...string) []container {
	t.Helper()
	var filters []string
	for i := 0; i < len(labels); i += 2 {
		filters = append(filters, fmt.Sprintf("labels.%q==%q", labels[i], labels[i+1]))
	}
	ids, err := onRuntime("containers", "ls", "-q", strings.Join(filters, ","))
	if err != nil {
		t.Fatalf("got %v from the runtime, want its containers: %s", err, ids)
	}
	tasks, err := onRuntime("tasks", "ls")
	if err != nil {
		t.Fatalf("got %v from the runtime, want its tasks: %s", err, tasks)
	}
	var found []container
	for line := range strings.Lines(tasks) {
		task := strings.Fields(line) // ID, process, state
		if len(task) == 3 && task[2] == "RUNNING" && slices.Contains(strings.Fields(ids), task[0]) {
			found = append(found, container{id: task[0], pid: task[1]})
		}
	}
	return found
}

// container is the one of a pod that runs, once it does; never the one of that ID.
func (w *world) container(t testing.TB, name, not string) container {
	t.Helper()
	return w.newest(t, not, "io.kubernetes.pod.name", name, "io.kubernetes.container.name", "app")
}

// sandbox is a pod's, likewise.
func (w *world) sandbox(t testing.TB, name, not string) container {
	t.Helper()
	return w.newest(t, not, "io.kubernetes.pod.name", name, "io.cri-containerd.kind", "sandbox")
}

func (w *world) newest(t testing.TB, not string, labels ...string) container {
	t.Helper()
	var found []container
	eventually(t, fmt.Sprintf("one of %v that runs", labels), func() bool {
		found = slices.DeleteFunc(running(t, append(labels, "io.kubernetes.pod.namespace", w.namespace)...), func(c container) bool { return c.id == not })
		return len(found) == 1
	})
	return found[0]
}

// kill ends a container's first process.
func (c container) kill(t testing.TB) {
	t.Helper()
	if out, err := onRuntime("task", "kill", "-s", "SIGKILL", c.id); err != nil {
		t.Fatalf("got %v from the runtime, want %s killed: %s", err, c.id, out)
	}
}

var execs atomic.Int64

// words are those of a program in a container, for [onRuntime].
func (c container) words(args ...string) []string {
	id := fmt.Sprintf("e2e-%d-%d", os.Getpid(), execs.Add(1))
	return append([]string{"task", "exec", "--exec-id", id, c.id}, args...)
}

// exec runs a program in the container.
func (c container) exec(args ...string) (string, error) { return onRuntime(c.words(args...)...) }

// background does so until the test ends.
func (c container) background(t testing.TB, args ...string) *output {
	t.Helper()
	o := &output{}
	cmd := exec.Command(cluster.program, append([]string{"enter", "ctr", "-n", "k8s.io"}, c.words(args...)...)...)
	cmd.Stdout, cmd.Stderr = o, o
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return o
}

// ask runs a statement at the shop from the container, as [world.psql] does.
func (w *world) ask(c container, statement string) (string, error) {
	out, err := c.exec("psql", "-XAt", w.shop(), "-c", statement)
	return strings.TrimSpace(out), err
}

// shop is how pods are told to reach it.
func (w *world) shop() string {
	return fmt.Sprintf("host=%s user=%s password=%s dbname=shop connect_timeout=10", w.host, directUser, directPassword)
}
