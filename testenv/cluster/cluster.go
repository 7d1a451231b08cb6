package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/image"
	"postern.dev/postern/testenv/cluster/layout"
	"postern.dev/postern/testenv/cluster/node"
	"postern.dev/postern/testenv/cluster/pki"
)

// A cluster is a state folder and the way to tell what happens to it.
type cluster struct {
	dir     layout.Dir
	builder image.Builder
	stderr  io.Writer
	began   time.Time
}

func open(stderr io.Writer) (*cluster, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("run this as root: a node needs namespaces, cgroups and mounts")
	}
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	for _, hidden := range []string{"/run", "/var/lib", "/var/log", "/opt", "/etc"} {
		if strings.HasPrefix(string(dir), hidden+"/") {
			return nil, fmt.Errorf("use the state folder %s: the node has a %s of its own; set %s", dir, hidden, envDir)
		}
	}
	root, err := repository()
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, stderr: stderr, began: time.Now()}
	c.builder = image.Builder{Dir: dir, Root: root, Binary: os.Getenv(envBinary), Report: c.report}
	return c, os.MkdirAll(string(dir), 0o755)
}

// report prints a step and the seconds since the command began.
func (c *cluster) report(step string) {
	fmt.Fprintf(c.stderr, "cluster: %5.1f s  %s\n", time.Since(c.began).Seconds(), step)
}

// locked keeps others from the state folder while f runs.
func (c *cluster) locked(f func() error) error {
	lock, err := os.OpenFile(c.dir.Path("lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		c.report("another command works on this cluster: waiting")
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return f()
}

func (c *cluster) up(ctx context.Context, hook string) error {
	if err := check(); err != nil {
		return err
	}
	if err := c.alone(); err != nil {
		return err
	}
	if _, err := node.Pid(c.dir); err == nil {
		if hook != "" {
			return errors.New("run the command before the kubelet: the cluster is up already; use reboot")
		}
		c.report("up already")
		images, err := c.images(ctx)
		if err != nil {
			return err
		}
		return c.load(ctx, images...)
	}
	// What is left of a cluster whose machine or starter died.
	if err := c.down(ctx); err != nil {
		return err
	}
	images, err := c.images(ctx)
	if err != nil {
		return err
	}
	if err := c.prepare(); err != nil {
		return err
	}
	options := c.options(hook)
	options.Load = func(ctx context.Context) error { return c.load(ctx, images...) }
	facts, err := node.Start(ctx, c.dir, options)
	if err != nil {
		return err
	}
	if err := node.InstallDNS(ctx, c.dir); err != nil {
		return err
	}
	return node.AwaitReady(ctx, c.dir, facts, c.report)
}

func (c *cluster) down(ctx context.Context) error {
	if err := c.alone(); err != nil {
		return err
	}
	if err := node.Stop(ctx, c.dir); err != nil {
		return err
	}
	for _, name := range []string{"node", "pki", "kubeconfig"} {
		if err := os.RemoveAll(c.dir.Path(name)); err != nil {
			return err
		}
	}
	c.report("down")
	return nil
}

func (c *cluster) reboot(ctx context.Context, hook string) error {
	facts, err := c.dir.ReadFacts()
	if errors.Is(err, fs.ErrNotExist) {
		return node.ErrDown
	}
	if err != nil {
		return err
	}
	options := c.options(hook)
	options.ProxyMode = facts.ProxyMode // what it was started with
	facts, err = node.Reboot(ctx, c.dir, options)
	if err != nil {
		return err
	}
	return node.AwaitReady(ctx, c.dir, facts, c.report)
}

// image builds the product again and gives it to the node.
func (c *cluster) image(ctx context.Context) error {
	if _, err := node.Pid(c.dir); err != nil {
		return err
	}
	product, err := c.builder.Product(ctx)
	if err != nil {
		return err
	}
	return c.load(ctx, product)
}

func (c *cluster) images(ctx context.Context) ([]image.Image, error) {
	images, err := c.builder.All(ctx)
	if err == nil {
		c.report("programs and images")
	}
	return images, err
}

func (c *cluster) load(ctx context.Context, images ...image.Image) error {
	for _, i := range images {
		imported, err := node.Import(ctx, c.dir, i.File, i.Key)
		if err != nil {
			return err
		}
		if imported {
			c.report("imported " + i.Name)
		}
	}
	return nil
}

// prepare makes a new cluster's folders and keys.
func (c *cluster) prepare() error {
	if err := os.RemoveAll(c.dir.Path("log")); err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir.Path("node"), 0o755); err != nil {
		return err
	}
	if err := node.RecycleStore(c.dir); err != nil {
		return err
	}
	if err := pki.Create(c.dir.Path("pki")); err != nil {
		return err
	}
	return os.Link(c.dir.Path("pki", "admin.kubeconfig"), c.dir.Path("kubeconfig"))
}

func (c *cluster) options(hook string) node.Options {
	mode := os.Getenv(envProxy)
	if mode == "" {
		mode = "nftables"
	}
	return node.Options{BeforeKubelet: hook, ProxyMode: mode, Report: c.report}
}

// alone says whose cluster runs if it is not this one.
func (c *cluster) alone() error {
	owner, err := node.Owner()
	if err != nil {
		return err
	}
	if owner != "" && owner != string(c.dir) {
		return fmt.Errorf("another cluster is up on this machine: end it with %s=%s cluster down", envDir, owner)
	}
	return nil
}

// check names everything that the machine lacks, and what gives it.
func check() error {
	var lacking []string
	for _, tool := range []string{"runc", "nft", "iptables", "conntrack", "mmdebstrap", "go", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacking = append(lacking, tool)
		}
	}
	plugin := func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "bridge"))
		return err == nil
	}
	if !slices.ContainsFunc([]string{"/usr/lib/cni"}, plugin) {
		lacking = append(lacking, "the CNI plugins in /usr/lib/cni")
	}
	filesystems, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for _, kind := range []string{"overlay", "cgroup2", "bpf"} {
		if !strings.Contains(string(filesystems), "\t"+kind+"\n") {
			lacking = append(lacking, "the file system "+kind+" in the kernel")
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("start a cluster: this machine lacks %s; testenv/packages --cluster installs what a distribution has", strings.Join(lacking, ", "))
	}
	return nil
}
