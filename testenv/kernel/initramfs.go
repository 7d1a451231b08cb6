package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Where the guest finds what it needs.
const (
	guestPath     = "/init"
	programsPath  = "/bin"
	modulesPath   = "modules"
	testsPath     = "tests"
	argumentsPath = "arguments"
)

// programs are what the tests run of a machine. Each is a file of its own, and no
// link: a process is known by the file that it runs.
var programs = []string{"sh", "sleep", "true", "unshare"}

// test is a compiled test binary and what it finds beside it.
type test struct {
	name   string // the package's path, with dots for slashes
	binary string // called as go test calls it
	data   string // its testdata folder; may not exist
}

// build compiles the guest's first process and the packages' tests into a
// folder, static: the guest has no libraries. Packages without tests are left
// out.
func build(ctx context.Context, packages []string, work string) (guest string, tests []test, err error) {
	guest = filepath.Join(work, "guest")
	if err := compile(ctx, "build", "-o", guest, "postern.dev/postern/testenv/kernel"); err != nil {
		return "", nil, err
	}
	const format = "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}\t{{.Dir}}{{end}}"
	listed, err := output(ctx, "", "go", append([]string{"list", "-f", format}, packages...)...)
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(listed)) {
		path, dir, found := strings.Cut(strings.TrimSpace(line), "\t")
		if !found {
			continue
		}
		name := strings.ReplaceAll(path, "/", ".")
		t := test{name: name, binary: filepath.Join(work, name, filepath.Base(dir)+".test"), data: filepath.Join(dir, "testdata")}
		if err := compile(ctx, "test", "-c", "-o", t.binary, path); err != nil {
			return "", nil, err
		}
		tests = append(tests, t)
	}
	if len(tests) == 0 {
		return "", nil, fmt.Errorf("find tests in %s: none is there", strings.Join(packages, " "))
	}
	return guest, tests, nil
}

func compile(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// pack writes an initramfs.
func pack(to, guest string, k kernel, tests []test, arguments string) error {
	busybox, err := exec.LookPath("busybox") // Debian's is static
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	a := &archive{out: bufio.NewWriter(f)}
	for _, dir := range []string{modulesPath, testsPath, programsPath[1:], "etc", "dev", "proc", "sys", "tmp", "run"} {
		a.dir(dir)
	}
	a.copy(guestPath[1:], guest)
	for _, name := range programs {
		a.copy(programsPath[1:]+"/"+name, busybox)
	}
	a.file("etc/passwd", []byte("root:x:0:0::/tmp:/bin/sh\n"))
	for i, m := range k.modules {
		a.copy(fmt.Sprintf("%s/%02d-%s", modulesPath, i, filepath.Base(m)), m)
	}
	for _, t := range tests {
		at := testsPath + "/" + t.name
		a.dir(at)
		a.copy(at+"/"+filepath.Base(t.binary), t.binary)
		a.tree(at+"/testdata", t.data)
	}
	a.file(argumentsPath, []byte(arguments))
	return errors.Join(a.close(), f.Close())
}

// archive writes the format that the kernel unpacks its first file system from.
// After an error it writes no more; close answers that error.
//
// Source: Documentation/driver-api/early-userspace/buffer-format.rst.
type archive struct {
	out     *bufio.Writer
	entries int
	err     error
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
	trailer  = "TRAILER!!!"
)

func (a *archive) dir(name string) { a.entry(name, modeDir, nil) }

func (a *archive) file(name string, content []byte) { a.entry(name, modeFile, content) }

func (a *archive) copy(name, from string) {
	content, err := os.ReadFile(from)
	a.err = errors.Join(a.err, err)
	a.file(name, content)
}

// tree copies a folder, if it exists.
func (a *archive) tree(name, from string) {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, path)
		switch at := filepath.Join(name, below); {
		case err != nil:
			return err
		case d.IsDir():
			a.dir(at)
		default:
			a.copy(at, path)
		}
		return nil
	})
	if !errors.Is(err, fs.ErrNotExist) {
		a.err = errors.Join(a.err, err)
	}
}

func (a *archive) entry(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	a.entries++
	// Inode, mode, owner, group, links, time, size, four device numbers, length
	// of the name with its zero byte, checksum; all in eight hexadecimal digits.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.entries, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.padded(header + name + "\x00")
	a.padded(string(content))
}

// padded writes up to a multiple of four bytes.
func (a *archive) padded(text string) {
	_, err := io.WriteString(a.out, text+strings.Repeat("\x00", -len(text)&3))
	a.err = errors.Join(a.err, err)
}

func (a *archive) close() error {
	a.entry(trailer, 0, nil)
	return errors.Join(a.err, a.out.Flush())
}
