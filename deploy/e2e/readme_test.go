package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a shell block of the README that a comment before it marks.
var block = regexp.MustCompile("(?s)<!-- e2e: ([a-z]+) -->\n```sh\n(.*?)```")

// TestREADMEInstallsAndUninstalls runs the README's shell blocks in their order,
// as whoever reads it would, with what the test cluster has instead of a
// registry. It takes away what the other tests have installed, and puts it back.
func TestREADMEInstallsAndUninstalls(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(cluster.root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := block.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 8 {
		t.Fatalf("got %d marked blocks in the README, want its whole way", len(blocks))
	}
	if err := uninstall(); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "delete", "namespace", system, "--ignore-not-found")
	t.Cleanup(func() {
		err := install()
		if err == nil {
			_, err = makeDatabase() // its Target is gone with the others
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	path := tools(t)
	for _, b := range blocks {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", b[2])
		cmd.Dir = cluster.root
		cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"), "KUBECONFIG="+cluster.kubeconfig,
			"IMAGE="+imageProduct, "VALUES=--set node.cgroupRoot="+cluster.cgroupRoot, "CGROUPS="+cluster.cgroupRoot,
			"POSTGRES_IMAGE="+imageWorkload, "POSTGRES_RUN=serve-postgres")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("got %v from the block %s, want it to succeed:\n%s", err, b[1], out)
		}
		t.Logf("%s:\n%s", b[1], out)
		if b[1] == "install" {
			if err := rememberKey(); err != nil { // the logs of this installation go on to be there
				t.Fatal(err)
			}
		}
		for _, want := range map[string][]string{
			"query":   {"postgres"},
			"refused": {"denied by policy readers, rule no-ddl", "Refused"},
			"look":    {"books", "readers"},
		}[b[1]] {
			if !strings.Contains(string(out), want) {
				t.Errorf("got no %q from the block %s, want it:\n%s", want, b[1], out)
			}
		}
	}
}

// tools is a folder with kubectl and helm.
func tools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	find := exec.Command("go", "-C", filepath.Join(cluster.root, "testenv/helm"), "tool", "-n", "helm")
	find.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	helm, err := find.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, line := range map[string]string{
		"helm":    fmt.Sprintf("exec %s \"$@\"", strings.TrimSpace(string(helm))),
		"kubectl": fmt.Sprintf("exec %s kubectl \"$@\"", cluster.program),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+line+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
