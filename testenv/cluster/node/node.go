// Package node starts, stops and enters the node from outside.
//
// The node has a network, UTS, IPC and mount namespace of its own, and shares
// the machine's process numbers, cgroups and kernel. All its processes are in
// cgroups that [Stop] kills; everything else hangs on those processes.
package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
)

// ErrDown says that no node runs out of the state folder.
var ErrDown = errors.New("no cluster is up: run make cluster-up")

// Options change how a node boots.
type Options struct {
	BeforeKubelet string // a shell command run in the node before containerd and the kubelet
	ProxyMode     string // of kube-proxy: nftables or iptables
	Report        func(step string)
	// Load is run once containerd answers, while the rest boots; it may be nil.
	Load func(context.Context) error
}

// Start boots a node out of dir, where pki and bin are ready, and returns when
// the API server answers and every program is started. What state it finds in
// dir/node it goes on from.
//
// Errors: a node that does not boot is stopped again; its logs stay.
func Start(ctx context.Context, dir layout.Dir, options Options) (layout.Facts, error) {
	h, err := findHierarchies()
	if err != nil {
		return layout.Facts{}, err
	}
	if err := record(dir, h); err != nil {
		return layout.Facts{}, fmt.Errorf("record the machine's settings: %w", err)
	}
	facts, err := start(ctx, dir, h, options)
	if err != nil {
		return layout.Facts{}, errors.Join(err, Stop(context.WithoutCancel(ctx), dir))
	}
	return facts, dir.WriteFacts(facts)
}

// Stop ends the node's processes, all at once, and removes what it made of the
// machine: link, cgroups, settings. The state folder stays.
func Stop(ctx context.Context, dir layout.Dir) error {
	h, err := findHierarchies()
	if err != nil {
		return err
	}
	if err := stop(ctx, dir, h); err != nil {
		return err
	}
	return restore(dir, h)
}

// Reboot cuts the node's power and boots it again: its processes, /run, bpffs,
// links and rules are gone, its disk is there.
func Reboot(ctx context.Context, dir layout.Dir, options Options) (layout.Facts, error) {
	if _, err := Pid(dir); err != nil {
		return layout.Facts{}, err
	}
	h, err := findHierarchies()
	if err != nil {
		return layout.Facts{}, err
	}
	if err := stop(ctx, dir, h); err != nil {
		return layout.Facts{}, err
	}
	options.Report("power cut")
	return Start(ctx, dir, options)
}

func stop(ctx context.Context, dir layout.Dir, h hierarchies) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not done within 30 seconds"))
	defer cancel()
	if err := os.Remove(dir.Path("cluster.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := h.kill(ctx); err != nil {
		return err
	}
	if err := cutCable(); err != nil {
		return err
	}
	return h.remove(ctx)
}

// Owner is the state folder of the cluster that runs on this machine, whoever
// started it; empty if none does.
func Owner() (string, error) { return cableOwner() }

// start makes the node's first process and wires it.
func start(ctx context.Context, dir layout.Dir, h hierarchies, options Options) (layout.Facts, error) {
	var facts layout.Facts
	if err := os.MkdirAll(dir.Path("log"), 0o755); err != nil {
		return facts, err
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return facts, err
	}
	first, err := spawn(dir, h, boot.Args{
		Dir: dir, BootID: strings.TrimSpace(string(bootID)), BeforeKubelet: options.BeforeKubelet, ProxyMode: options.ProxyMode,
	})
	if err != nil {
		return facts, fmt.Errorf("start the node's first process: %w", err)
	}
	defer first.reports.Close()
	if err := os.WriteFile(dir.Path("node", "pid"), []byte(strconv.Itoa(first.pid)), 0o644); err != nil {
		return facts, err
	}
	err = layCable(dir, first.pid)
	first.cable.Close()
	// It may have died before there was a link: then this is what it says.
	if err := errors.Join(err, first.follow(ctx, options)); err != nil {
		return facts, err
	}
	return layout.Facts{
		Node: layout.Node, Pid: first.pid, BootID: strings.TrimSpace(string(bootID)), ProxyMode: options.ProxyMode,
		APIServer: layout.APIServer, Issuer: layout.Issuer,
		Kubeconfig: dir.Path("kubeconfig"), CA: dir.Path("pki", "ca.crt"), Logs: dir.Path("log"),
		NodeIPs:    []string{layout.Node4.Addr().String(), layout.Node6.Addr().String()},
		HostIPs:    []string{layout.Host4.Addr().String(), layout.Host6.Addr().String()},
		PodCIDRs:   []string{layout.Pods4.String(), layout.Pods6.String()},
		Services:   []string{layout.Services4.String(), layout.Services6.String()},
		CgroupRoot: h.v2, PodCgroups: filepath.Join(h.v2, layout.PodCgroup),
		Images: []string{layout.ImageProduct, layout.ImageWorkload},
	}, nil
}

// A process is the node's first, seen from outside.
type process struct {
	pid     int
	reports *os.File // what it tells us
	cable   *os.File // closed when its link is there
}

// spawn starts this very program again, as the node's first process: in new
// namespaces and, from its first instruction, in the node's cgroup.
func spawn(dir layout.Dir, h hierarchies, args boot.Args) (*process, error) {
	cgroup := filepath.Join(h.v2, layout.NodeCgroup)
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		return nil, err
	}
	cgroupDir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer cgroupDir.Close()
	log, err := os.OpenFile(dir.Path("log", "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	reports, reportsEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reportsEnd.Close()
	cableEnd, cable, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, reports.Close())
	}
	defer cableEnd.Close()
	cmd := exec.Command("/proc/self/exe", "boot", "--dir", string(args.Dir), "--boot-id", args.BootID,
		"--before-kubelet", args.BeforeKubelet, "--proxy-mode", args.ProxyMode)
	cmd.Env = append(os.Environ(), "PATH="+boot.Path)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{reportsEnd, cableEnd} // boot.ReportFD, boot.CableFD
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, UseCgroupFD: true, CgroupFD: int(cgroupDir.Fd()),
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, reports.Close(), cable.Close())
	}
	pid := cmd.Process.Pid // Release forgets it
	return &process{pid: pid, reports: reports, cable: cable}, cmd.Process.Release()
}

// follow passes on what the first process reports, until it says that the node
// is booted and the images are loaded.
func (p *process) follow(ctx context.Context, options Options) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { p.reports.Close() })()
	group.Go(func() error {
		lines := bufio.NewScanner(p.reports)
		for lines.Scan() {
			kind, quoted, _ := strings.Cut(lines.Text(), " ")
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return fmt.Errorf("read the node's report %q: %w", lines.Text(), err)
			}
			switch boot.Report(kind) {
			case boot.ReportStep:
				options.Report(text)
				if text == boot.StepContainerd && options.Load != nil {
					group.Go(func() error { return options.Load(ctx) })
				}
			case boot.ReportError:
				return errors.New(text)
			case boot.ReportBooted:
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.Join(errors.New("boot the node: its first process ended (see node.log in the log folder)"), lines.Err())
	})
	return group.Wait()
}
