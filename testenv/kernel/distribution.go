package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// modules are what the tests need beyond what Debian's cloud kernels have built
// in, each after what it depends on.
var modules = []string{
	"inet_diag", "tcp_diag", // listing and ending of sockets by netlink
	"sch_ingress", "cls_bpf", // programs on a device before tcx
	"veth", "macvlan", "tun", "llc", "stp", "bridge", "udp_tunnel", "ip6_udp_tunnel", "vxlan",
}

// kernel is one of the distribution's, unpacked.
type kernel struct {
	name    string // package and version
	image   string // path of the compressed kernel
	modules []string
}

// find answers the newest kernel of a series that the machine's package sources
// have, downloading it unless the cache has it.
//
// Errors: names the series when the sources have none of it.
func find(ctx context.Context, series, cache string) (kernel, error) {
	names, err := output(ctx, "", "apt-cache", "pkgnames", "linux-image-"+series+".")
	if err != nil {
		return kernel{}, err
	}
	for _, name := range newestFirst(strings.Fields(string(names)), series) {
		version, err := candidate(ctx, name)
		if err != nil {
			return kernel{}, err
		}
		if version == "" {
			continue // known of an installed package's relations alone
		}
		return fetch(ctx, name, version, cache)
	}
	return kernel{}, fmt.Errorf("find a cloud kernel %s in the package sources: none is there (is apt-get update due?)", series)
}

// newestFirst picks the signed cloud kernels of a series.
func newestFirst(names []string, series string) []string {
	pattern := regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(series) + `\.[0-9]+(-[0-9]+|\+[a-z]+[0-9]*)-cloud-amd64$`)
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !pattern.MatchString(name) })
	slices.SortFunc(names, func(a, b string) int { return slices.Compare(numbers(b), numbers(a)) })
	return names
}

var digits = regexp.MustCompile(`[0-9]+`)

func numbers(name string) (list []int) {
	for _, field := range digits.FindAllString(name, -1) {
		n, err := strconv.Atoi(field)
		if err == nil {
			list = append(list, n)
		}
	}
	return list
}

// candidate is the version that would be installed; empty: none.
func candidate(ctx context.Context, name string) (string, error) {
	policy, err := output(ctx, "", "apt-cache", "policy", name)
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut(string(policy), "Candidate: ")
	version, _, _ := strings.Cut(rest, "\n")
	if !found || version == "(none)" {
		return "", nil
	}
	return version, nil
}

// fetch unpacks the package into the cache, under a name that says its version,
// unless all that is needed of it is there.
func fetch(ctx context.Context, name, version, cache string) (kernel, error) {
	dir := filepath.Join(cache, name+"_"+strings.ReplaceAll(version, ":", "."))
	k := kernel{name: name + " " + version, image: filepath.Join(dir, "vmlinuz")}
	for _, m := range modules {
		k.modules = append(k.modules, filepath.Join(dir, m+".ko"))
	}
	isThere := func(path string) bool { _, err := os.Stat(path); return err == nil }
	if isThere(k.image) && !slices.ContainsFunc(k.modules, func(path string) bool { return !isThere(path) }) {
		return k, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(cache, 0o755)); err != nil {
		return kernel{}, err
	}
	part, err := os.MkdirTemp(cache, "part-")
	if err != nil {
		return kernel{}, err
	}
	defer os.RemoveAll(part)
	if _, err := output(ctx, part, "apt-get", "download", "-q", name+"="+version); err != nil {
		return kernel{}, err
	}
	if err := unpack(ctx, part); err != nil {
		return kernel{}, fmt.Errorf("unpack %s: %w", name, err)
	}
	return k, os.Rename(part, dir)
}

// unpack replaces the package in a folder by the files of it that are needed.
func unpack(ctx context.Context, dir string) error {
	packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("got %d packages, want 1: %w", len(packages), err)
	}
	content := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", packages[0])
	out, err := content.StdoutPipe()
	if err != nil {
		return err
	}
	if err := content.Start(); err != nil {
		return err
	}
	found, err := pick(ctx, tar.NewReader(out), dir)
	_, drained := io.Copy(io.Discard, out)
	if err := errors.Join(err, drained, content.Wait()); err != nil {
		return err
	}
	if want := 1 + len(modules); found != want {
		return fmt.Errorf("got %d of %d files: the kernel, %s", found, want, strings.Join(modules, ", "))
	}
	return os.Remove(packages[0])
}

// pick writes the kernel and the modules to a folder and counts them.
func pick(ctx context.Context, content *tar.Reader, dir string) (found int, err error) {
	for {
		header, err := content.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		name := path.Base(header.Name)
		if strings.HasPrefix(name, "vmlinuz-") {
			name = "vmlinuz"
		}
		name, compressed := strings.CutSuffix(name, ".xz")
		if module, isModule := strings.CutSuffix(name, ".ko"); name != "vmlinuz" && (!isModule || !slices.Contains(modules, module)) {
			continue
		}
		bytes, err := io.ReadAll(content)
		if err == nil && compressed {
			bytes, err = decompress(ctx, bytes)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), bytes, 0o644)
		}
		if err != nil {
			return found, fmt.Errorf("%s: %w", header.Name, err)
		}
		found++
	}
}

func decompress(ctx context.Context, compressed []byte) ([]byte, error) {
	xz := exec.CommandContext(ctx, "xz", "-dc")
	xz.Stdin = bytes.NewReader(compressed)
	return xz.Output()
}

// output runs a command in a folder and answers what it printed; its complaints
// are the error's text.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(complaints.Bytes()))
	}
	return out, nil
}
