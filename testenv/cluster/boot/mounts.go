package boot

import (
	"bufio"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/layout"
)

//go:embed conf
var conf embed.FS

// owned are the folders that the node has for itself, kept over a reboot: what
// its programs and the pods' hostPath volumes write does not touch the machine.
var owned = []struct{ dir, source string }{
	{"/var/lib", "node/var/lib"},
	{"/var/lib/containerd", "containerd"}, // survives down: its images are of use again
	{"/var/log", "log/var"},               // survives down, as the other logs do
	{"/opt", "node/opt"},
}

// mountAll makes the node's view of the file system: the machine's, with a /run,
// /etc, [owned] folders and a bpffs of its own. Nothing of it is seen outside
// this mount namespace, and it is gone with the node's last process.
func mountAll(args Args) error {
	// Private first: where the machine's / is shared, as systemd has it, our
	// mounts would otherwise appear there.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	for _, step := range []func(Args) error{mountRun, mountEtc, mountOwned, mountBPF, mountBootID} {
		if err := step(args); err != nil {
			return err
		}
	}
	// Shared, because mounts of a pod's volumes are to reach the pods.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make the mounts shared: %w", err)
	}
	return writeConf(args)
}

func mountRun(args Args) error {
	// What is mounted below /run holds network namespaces of others alive.
	if err := detachBelow("/run/"); err != nil {
		return err
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{layout.Inside, "/run/netns", "/run/lock", "/run/containerd", "/run/nri", bin} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return mount(string(args.Dir), layout.Inside, "", unix.MS_BIND, "")
}

// mountEtc lays the node's own files over the machine's /etc.
func mountEtc(Args) error {
	upper, work := layout.Inside+"/node/etc", layout.Inside+"/node/etc.work"
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	if err := mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"/etc/hostname":    layout.Node + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n::1 localhost\n" + layout.Node4.Addr().String() + " " + layout.Node + "\n",
		"/etc/resolv.conf": "nameserver " + layout.DNS4 + "\n",
	} {
		// It may be a link into the /run that we just left.
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func mountOwned(Args) error {
	for _, own := range owned {
		source := layout.Inside + "/" + own.source
		if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(own.dir, 0o755)); err != nil {
			return err
		}
		if err := mount(source, own.dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// mountBPF gives the node an empty bpffs, as every boot does.
func mountBPF(Args) error {
	for {
		var fs unix.Statfs_t
		if err := unix.Statfs("/sys/fs/bpf", &fs); err != nil {
			return fmt.Errorf("look at /sys/fs/bpf: %w", err)
		}
		if fs.Type != unix.BPF_FS_MAGIC {
			break
		}
		if err := unix.Unmount("/sys/fs/bpf", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount the machine's bpffs: %w", err)
		}
	}
	return mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700")
}

// mountBootID gives the node the boot ID of its own boot: the kubelet tells a
// reboot by it (kubernetes 1.37, pkg/kubelet/kubelet_node_status.go).
func mountBootID(args Args) error {
	const file = "/run/boot_id"
	if err := os.WriteFile(file, []byte(args.BootID+"\n"), 0o444); err != nil {
		return err
	}
	return mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
}

// writeConf writes the programs' configuration to where they look for it.
func writeConf(args Args) error {
	for name, path := range map[string]string{
		"containerd.toml":  containerdConf,
		"kubelet.yaml":     kubeletConf,
		"kube-proxy.yaml":  kubeProxyConf,
		"10-pods.conflist": "/etc/cni/net.d/10-pods.conflist",
	} {
		text, err := conf.ReadFile("conf/" + name)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if name == "10-pods.conflist" && exists(path) {
			continue // after a reboot: an agent may have chained a plugin
		}
		if name == "kube-proxy.yaml" {
			text = append(text, "mode: "+args.ProxyMode+"\n"...)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func detachBelow(prefix string) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	var below []string
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], prefix) {
			below = append(below, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	slices.Reverse(below) // the innermost first
	for _, point := range below {
		err := unix.Unmount(unescape.Replace(point), unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// unescape undoes what the kernel does to blanks in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
