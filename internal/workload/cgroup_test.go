package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

func TestCgroupsOfPodsAreTold(t *testing.T) {
	text, err := os.ReadFile("testdata/cgroups.txt")
	if err != nil {
		t.Fatal(err)
	}
	none := func(s string) string { return strings.TrimPrefix(s, "-") }
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		uid, container, ok := ParseCgroup(fields[0])
		if uid != none(fields[1]) || container != none(fields[2]) || ok != (fields[1] != "-") {
			t.Errorf("got %q %q %v for %s, want %q %q", uid, container, ok, fields[0], none(fields[1]), none(fields[2]))
		}
	}
}

// hierarchy makes folders that look like cgroups.
func hierarchy(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	uidA = "2ea9c579-1c6f-4b3a-9a51-0d7a5c1c6d11"
	uidB = "190e130a-0d7a-4c1c-8d11-2ea9c5791c6f"
	uidC = "d3a6b0a8f0b2c6a1de34f9be6b4f3a21"
)

var containerA = strings.Repeat("a", 64)

func TestPodsCgroupsAreFoundAndWhatContainersNameSoIsNot(t *testing.T) {
	root := hierarchy(t,
		"besteffort/pod"+uidA+"/"+containerA+"/kubepods/pod"+uidC,
		"pod"+uidB,
		"burstable/not/pod"+uidC,
		"burstable/podium",
	)
	got, err := PodCgroups(root)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{uidA: filepath.Join(root, "besteffort/pod"+uidA), uidB: filepath.Join(root, "pod"+uidB)}
	if len(got) != len(want) || got[uidA] != want[uidA] || got[uidB] != want[uidB] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPodsCgroupThatIsNotThereYetHoldsNone(t *testing.T) {
	got, err := PodCgroups(filepath.Join(t.TempDir(), "kubepods"))
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v, want nothing", got, err)
	}
}

func TestNestedCgroupsBelongToTheirContainer(t *testing.T) {
	root := hierarchy(t, containerA+"/init.scope/deeper", "crio-conmon-"+containerA, "else")
	got, err := Containers(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{containerA, containerA + "/init.scope", containerA + "/init.scope/deeper"} {
		if got[inode(t, filepath.Join(root, dir))] != containerA {
			t.Errorf("got %v without %s, want it", got, dir)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %d cgroups, want 3", len(got))
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var id uint64
	err := walk(path, func(_ string, ino uint64) error { id = ino; return errEnough })
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return id
}

func TestWalkThroughNestedCgroupsIsBounded(t *testing.T) {
	deep := hierarchy(t, strings.Repeat("x/", 2*maxDepth))
	visited := 0
	err := walk(deep, func(string, uint64) error { visited++; return nil })
	if err != nil || visited != maxDepth+1 {
		t.Errorf("got %d cgroups visited, %v, want %d", visited, err, maxDepth+1)
	}
}

func TestWhatAContainerNestsHidesNothingOfAnother(t *testing.T) {
	root := t.TempDir()
	first, second := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, dir := range []string{"pod1/" + first, "pod1/" + second, "pod1/" + first + "/x/" + second} { // the last one is no container
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxNested {
		if err := os.Mkdir(fmt.Sprintf("%s/pod1/%s/x/%s/%d", root, first, second, i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	of := make(map[string]int)
	err := walk(root, func(dir string, _ uint64) error {
		path, _ := strings.CutPrefix(dir, filepath.Join(root, "pod1")+"/")
		of[path[:min(len(path), 64)]]++
		return nil
	})
	if err != nil || of[first] != maxNested || of[second] != 1 {
		t.Errorf("got %d cgroups of the one container and %d of the other, %v, want %d and 1", of[first], of[second], err, maxNested)
	}
}

func TestCgroupOfAProcessIsFoundWhereverProcIsReadFrom(t *testing.T) {
	cgroup := testenv.NewCgroup(t)
	cmd := cgroup.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	root := filepath.Dir(cgroup.Path)
	for name, find := range map[string]func() (string, error){
		"as /proc says":            func() (string, error) { return CgroupOf(root, cmd.Process.Pid) },
		"from another namespace":   func() (string, error) { return search(root, cmd.Process.Pid) },
		"beside another container": func() (string, error) { return Beside(filepath.Join(cgroup.Path, "other"), cmd.Process.Pid) },
	} {
		if got, err := find(); err != nil || got != cgroup.Path {
			t.Errorf("got %q, %v %s, want %q", got, err, name, cgroup.Path)
		}
	}
	_, err := Beside(filepath.Join(cgroup.Path, "nested", "container"), cmd.Process.Pid)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a process of another pod, want %v", err, fs.ErrNotExist)
	}
}
