package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern.dev/postern/testenv"
)

// files lists what lies below a folder, links with where they lead.
func files(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if entry != nil && entry.Type() == os.ModeSymlink {
			target, _ := os.Readlink(path)
			name += " -> " + target
		}
		if entry == nil || entry.IsDir() {
			return err
		}
		all = append(all, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func install(t *testing.T, args ...string) error {
	t.Helper()
	c := installCommand()
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	return c.ExecuteContext(t.Context())
}

func TestInstallPutsProgramAndUnitOnTheNode(t *testing.T) {
	root := t.TempDir()
	arguments := []string{"--host-root", root, "--cgroup-root=/sys/fs/cgroup"}
	if err := install(t, append(arguments, "--before=k3s.service")...); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be run again, with other units
		if err := install(t, arguments...); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"/etc/systemd/system/kubelet.service.wants/postern-arm.service -> ../postern-arm.service",
		"/etc/systemd/system/postern-arm.service", "/opt/postern/postern",
	}
	if got := files(t, root); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	unit, err := os.ReadFile(filepath.Join(root, "etc/systemd/system/postern-arm.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nBefore=kubelet.service\n", "\nWantedBy=kubelet.service\n", "\nRequiresMountsFor=/opt/postern /var/lib/postern /sys/fs/cgroup\n",
		"\nExecStart=/opt/postern/postern agent arm --state-dir=/var/lib/postern --cgroup-root=/sys/fs/cgroup\n",
	} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("got no %q in the unit, want it:\n%s", want, unit)
		}
	}
	info, err := os.Stat(filepath.Join(root, "opt/postern/postern"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("got %v, %v, want a program that can be run", info, err)
	}

	if err := install(t, append(arguments, "--require")...); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, root)[0], "/etc/systemd/system/kubelet.service.requires/postern-arm.service -> ../postern-arm.service"; got != want {
		t.Errorf("got %q, want %q alone", got, want)
	}
	others := filepath.Join(root, "etc/systemd/system/other.service")
	if err := os.WriteFile(others, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeArm(filepath.Join(root, defaultBinDir), filepath.Join(root, defaultUnitDir)); err != nil {
			t.Fatal(err)
		}
	}
	if got := files(t, root); !slices.Equal(got, []string{"/etc/systemd/system/other.service"}) {
		t.Errorf("got %q after it was taken away, want another's file alone", got)
	}
}

func TestInstalledUnitIsWhatSystemdUnderstands(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	testenv.Need(t, err == nil, "systemd-analyze (apt-get install systemd)")
	root := t.TempDir() // the program that the unit names has to be there
	if err := install(t, "--bin-dir", root+"/bin", "--unit-dir", root+"/units", "--pods-cgroup=kubepods.slice"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", root+"/units/"+armUnit).CombinedOutput(); err != nil || strings.Contains(string(out), armUnit) {
		t.Errorf("got %v and %q, want nothing to be found", err, out)
	}
}

func TestInstallRefusesWhatSystemdWouldReadOtherwise(t *testing.T) {
	for _, argument := range []string{
		"--state-dir=/var/lib/%n", "--bin-dir=opt", "--unit-dir=/etc/systemd system", "--cgroup-root=/sys/$HOME",
		"--before=", "--before=kubelet", "--before=../kubelet.service", "--before=a.service b.service",
	} {
		root := t.TempDir()
		if err := install(t, "--host-root", root, argument); err == nil {
			t.Errorf("got %s taken, want an error", argument)
		}
		if got := files(t, root); len(got) > 0 {
			t.Errorf("got %q for %s, want nothing written", got, argument)
		}
	}
}
