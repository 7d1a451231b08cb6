package main

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A machine is what a cluster could leave behind on it. Nothing else may make
// links, mounts or cgroups meanwhile.
type machine map[string]string

// look says what the machine is like now.
func look(t *testing.T) machine {
	t.Helper()
	m := machine{}
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		// Ours would be on the state folder or on what the system has; other tests
		// mount below the folder of temporary files.
		if fields := strings.Fields(line); !strings.HasPrefix(fields[4], os.TempDir()+"/") {
			m["mount "+fields[4]] = line
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		m["link "+i.Name] = i.Flags.String()
	}
	for route := range strings.SplitSeq(read(t, "/proc/net/route"), "\n") {
		m["route "+route] = "there"
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*", "/run/netns/*", "/run/*", "/etc/cni/*", "/var/lib/*"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if !strings.Contains(path, "testenv-") { // of other tests
				m[path] = "there"
			}
		}
	}
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"} {
		m["sysctl "+name] = read(t, "/proc/sys/"+name)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		// A process that is gone, or a kernel thread, has none.
		if target, err := os.Readlink(command); err == nil && ours(target) {
			m["process "+filepath.Dir(command)] = target
		}
	}
	return m
}

func ours(program string) bool {
	return slices.Contains([]string{"knode", "containerd-shim-runc-v2", "coredns", "pause"}, filepath.Base(program))
}

// compare fails the test for every difference. A process that ended was somebody
// else's, who may run these programs too.
func (m machine) compare(t *testing.T, after machine) {
	t.Helper()
	names := maps.Clone(m)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		got, want := after[name], m[name]
		if got == "" && strings.HasPrefix(name, "process ") {
			continue
		}
		if got != want {
			t.Errorf("got %s %q after the cluster, want %q as before", name, got, want)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
