// Package boot is the node's first process. It turns the namespaces that it was
// started in (mount, UTS, IPC, network) into a node, starts the node's programs
// in order, and starts again what dies until somebody kills the node's cgroup.
//
// It is no process 1: the node shares the machine's process numbers, so that the
// pids which BPF programs and NRI hand out are the ones in /proc.
package boot

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"postern.dev/postern/testenv/cluster/layout"
)

// The descriptors that the starter gives the node's first process.
const (
	ReportFD = 3 // we write lines: a [Report]
	CableFD  = 4 // closed by the starter once the network link is in our namespace
)

// Args are what the node's first process is told.
type Args struct {
	Dir           layout.Dir // on the machine
	BootID        string
	BeforeKubelet string // a shell command, or none
	ProxyMode     string // of kube-proxy: nftables or iptables
}

// Run boots the node and blocks for good.
//
// Errors: whatever kept the node from booting; it is also reported to the
// starter.
func Run(ctx context.Context, args Args) error {
	reports := os.NewFile(ReportFD, "reports")
	cable := os.NewFile(CableFD, "cable")
	n := &node{args: args, out: reports}
	if err := n.boot(ctx, cable); err != nil {
		n.report(ReportError, err.Error())
		return err
	}
	n.report(ReportBooted, "")
	reports.Close()
	<-ctx.Done()
	return nil
}

// A Report is the first word of a line that the node's first process writes to
// its starter; the rest of the line is text.
type Report string

// The reports there are.
const (
	ReportStep   Report = "step"   // something was done
	ReportError  Report = "error"  // the last line: the node does not boot
	ReportBooted Report = "booted" // the last line
)

// StepContainerd is the step after which images can be imported.
const StepContainerd = "containerd"

type node struct {
	args Args
	out  io.Writer
}

func (n *node) report(kind Report, text string) { fmt.Fprintf(n.out, "%s %q\n", kind, text) }

func (n *node) boot(ctx context.Context, cable io.ReadCloser) error {
	if err := mountAll(n.args); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/kernel/hostname", []byte(layout.Node), 0); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, cable); err != nil {
		return err
	}
	cable.Close()
	if err := configureNetwork(); err != nil {
		return fmt.Errorf("configure the network: %w", err)
	}
	n.report(ReportStep, "mounts and network")
	if err := n.hook(ctx); err != nil {
		return err
	}
	return n.programs(ctx)
}

// hook runs the command that a test wants run before the kubelet, as a systemd
// unit with Before=kubelet.service would be. Nothing of Kubernetes runs yet, not
// even containerd: a command that needs it would not work on every machine.
func (n *node) hook(ctx context.Context) error {
	if n.args.BeforeKubelet == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", n.args.BeforeKubelet).CombinedOutput()
	os.Stdout.Write(out)
	if err != nil {
		return fmt.Errorf("run %q before the kubelet: %w: %s", n.args.BeforeKubelet, err, out)
	}
	n.report(ReportStep, "command before the kubelet")
	return nil
}
