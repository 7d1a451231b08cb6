package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNewestFirst(t *testing.T) {
	names := []string{
		"linux-image-6.1.0-9-cloud-amd64",
		"linux-image-6.1.0-56-cloud-amd64",
		"linux-image-6.1.0-56-cloud-amd64-dbg",
		"linux-image-6.1.0-56-cloud-amd64-unsigned",
		"linux-image-6.1.0-57-rt-amd64",
		"linux-image-6.12.107+deb12-cloud-amd64",
		"linux-image-6.12.99+deb12-cloud-amd64",
		"linux-image-6.12-cloud-amd64",
	}
	for series, want := range map[string][]string{
		"6.1":  {"linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"},
		"6.12": {"linux-image-6.12.107+deb12-cloud-amd64", "linux-image-6.12.99+deb12-cloud-amd64"},
		"6":    nil,
		"5.10": nil,
	} {
		if got := newestFirst(names, series); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", series, got, want)
		}
	}
}

// unarchive reads an archive as the kernel does; folders end in a slash.
func unarchive(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	found := make(map[string]string)
	next := func(n int) (taken []byte) {
		taken, raw = raw[:n], raw[n:]
		return taken
	}
	for {
		header := next(110)
		field := func(i int) int {
			n, err := strconv.ParseUint(string(header[6+8*i:14+8*i]), 16, 32)
			if err != nil || string(header[:6]) != "070701" {
				t.Fatalf("got header %q, want 070701 and thirteen numbers", header)
			}
			return int(n)
		}
		name := string(bytes.TrimRight(next(field(11)), "\x00"))
		next(-(110 + field(11)) & 3)
		content := string(next(field(6)))
		next(-len(content) & 3)
		if name == trailer {
			if len(raw) != 0 {
				t.Errorf("got %d bytes after the trailer, want 0", len(raw))
			}
			return found
		}
		if field(1) == modeDir {
			name += "/"
		}
		found[name] = content
	}
}

func TestArchiveHoldsWhatIsWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "golden"), []byte("five!"), 0o644); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	a := &archive{out: bufio.NewWriter(&raw)}
	a.dir("tests")
	a.file("empty", nil)
	a.file("even", []byte("four"))
	a.tree("data", dir)
	a.tree("none", filepath.Join(dir, "absent"))
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"tests/": "", "empty": "", "even": "four", "data/": "", "data/sub/": "", "data/sub/golden": "five!",
	}
	if got := unarchive(t, raw.Bytes()); !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	a = &archive{out: bufio.NewWriter(&raw)}
	a.copy("x", filepath.Join(dir, "absent"))
	a.dir("y")
	if err := a.close(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: got %v, want %v", err, os.ErrNotExist)
	}
}

// TestStatusDecides plays machines that end in every way there is.
func TestStatusDecides(t *testing.T) {
	for _, row := range []struct {
		name, script, out, want string
	}{
		{"passed", "echo PASS; echo 'kernel-test-status: 0'", "PASS\n", ""},
		{"failed", "echo FAIL; echo 'kernel-test-status: 2'", "FAIL\n", "tests failed on this kernel (exit status 2)"},
		{"panicked", "printf 'half a li'", "half a li", "the machine ended without saying a status\nthe kernel's last messages:\nKernel panic"},
		{"garbled", "echo 'kernel-test-status: '", "", "the machine ended without saying a status"},
		{"no start", "exit 1", "", "exit status 1"},
		{"hung", "exec sleep 1000", "", "the machine hung: it was still running after 10s\nthe kernel's last messages:\nKernel panic"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := fakeMachine(t, row.script)
			if row.name == "hung" {
				m.limit = 200 * time.Millisecond
				row.want = strings.Replace(row.want, "10s", m.limit.String(), 1)
			}
			var out strings.Builder
			err := boot(t.Context(), m, &out)
			if got := fmt.Sprint(err); (row.want == "") != (err == nil) || !strings.Contains(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if out.String() != row.out {
				t.Errorf("got %q printed, want %q", out.String(), row.out)
			}
		})
	}
}

// TestNoMachineIsLeft: whoever stops the command stops the machine.
func TestNoMachineIsLeft(t *testing.T) {
	m := fakeMachine(t, "echo $$; exec sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	var pid int
	err := boot(ctx, m, writer(func(line []byte) {
		if _, err := fmt.Sscan(string(line), &pid); err != nil {
			t.Errorf("got line %q, want a process id", line)
		}
		cancel(interrupted)
	}))
	if !errors.Is(err, interrupted) {
		t.Errorf("got %v, want %v", err, interrupted)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: got %v, want %v", pid, err, unix.ESRCH)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// fakeMachine has a shell script for QEMU and a panic on its console.
func fakeMachine(t *testing.T, script string) machine {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	m := machine{console: filepath.Join(dir, "console"), limit: time.Minute}
	if err := os.WriteFile(m.console, []byte("Kernel panic"), 0o644); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPackagesMustBeNamed(t *testing.T) {
	if _, err := parse([]string{"-kernel", "6.12"}); err == nil {
		t.Error("got no error, want one")
	}
	o, err := parse([]string{"-kernel", "6.12", "./internal/redirect"})
	if err != nil {
		t.Fatal(err)
	}
	if o.series != "6.12" || !slices.Equal(o.packages, []string{"./internal/redirect"}) {
		t.Errorf("got %+v, want 6.12 and one package", o)
	}
}
