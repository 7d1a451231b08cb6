// Package image builds the cluster's programs and, out of them and of what the
// distribution and PyPI have, its images. What is unchanged is not built again.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"postern.dev/postern/testenv/cluster/layout"
)

// Versions that the programs report; go.mod says what they are built from.
const (
	kubernetesVersion = "v1.37.2"
	containerdVersion = "v2.4.2"
)

// A Builder builds into a state folder, from this repository.
type Builder struct {
	Dir    layout.Dir
	Root   string            // the repository's
	Binary string            // the product's, if it is not to be built from Root
	Report func(step string) // called for what was built, not for what was there
}

// A program is a Go command of this module.
type program struct {
	name, folder string
}

var programs = []program{
	{"knode", "knode"}, {"containerd-shim-runc-v2", "shim"}, {"kubectl", "kubectl"}, {"coredns", "dns"}, {"pause", "pause"},
}

// Programs builds the cluster's own programs into bin.
func (b Builder) Programs(ctx context.Context) error {
	for _, p := range programs {
		key, err := b.programKey(p)
		if err != nil {
			return err
		}
		built, err := b.once(b.Dir.Path("bin", p.name), key, func(target string) error {
			return b.compile(ctx, b.module(), target, "./"+p.folder, "-tags", tags, "-ldflags", linkerFlags())
		})
		if err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
		if built {
			b.Report("program " + p.name)
		}
	}
	return nil
}

// product is Postern's binary, built as `make build` does; what is unchanged is
// for the go command to find out.
func (b Builder) product(ctx context.Context) (string, error) {
	if b.Binary != "" {
		return b.Binary, nil
	}
	target := b.Dir.Path("bin", "postern")
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	return target, b.compile(ctx, b.Root, target, "./cmd/postern")
}

// tags leave out what needs C or a file system that a test node has not got.
const tags = "no_btrfs,no_zfs,no_devmapper,no_tracing"

func linkerFlags() string {
	flags := []string{"-s", "-w"}
	for _, setting := range []string{
		"k8s.io/component-base/version.gitVersion=" + kubernetesVersion,
		"k8s.io/component-base/version.gitMajor=1",
		"k8s.io/component-base/version.gitMinor=" + strings.Split(kubernetesVersion, ".")[1],
		"k8s.io/client-go/pkg/version.gitVersion=" + kubernetesVersion,
		"github.com/containerd/containerd/v2/version.Version=" + containerdVersion,
	} {
		flags = append(flags, "-X", setting)
	}
	return strings.Join(flags, " ")
}

// compile runs go build with the flags that the product is built with, so that
// both share one build cache.
func (b Builder) compile(ctx context.Context, dir, target, pkg string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-o", target}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return output(cmd)
}

func (b Builder) module() string { return filepath.Join(b.Root, "testenv", "cluster") }

// programKey names what a program is built from.
func (b Builder) programKey(p program) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), tags, linkerFlags())
	files, err := filepath.Glob(filepath.Join(b.module(), p.folder, "*.go"))
	if err != nil {
		return "", err
	}
	for _, file := range append(files, filepath.Join(b.module(), "go.mod"), filepath.Join(b.module(), "go.sum")) {
		if err := hashFile(sum, file); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// once makes a file unless it was made under the same key before; make writes to
// the path that it is given, which then takes the file's place.
func (b Builder) once(file, key string, build func(target string) error) (built bool, err error) {
	keyFile := file + ".key"
	if old, err := os.ReadFile(keyFile); err == nil && string(old) == key {
		if _, err := os.Stat(file); err == nil {
			return false, nil
		}
	}
	// Without its key, a file that is half made is made again.
	if err := os.Remove(keyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, err
	}
	draft := file + ".new"
	if err := build(draft); err != nil {
		return false, err
	}
	if err := os.Rename(draft, file); err != nil {
		return false, err
	}
	return true, os.WriteFile(keyFile, []byte(key), 0o644)
}

func hashFile(sum io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(sum, file)
	return err
}

// output runs a command, and makes what it wrote part of its error.
func output(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(out)))
	}
	return nil
}
