package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"postern.dev/postern/testenv/cluster/layout"
)

// Kubectl runs kubectl as cluster-admin and gives its output.
func Kubectl(ctx context.Context, dir layout.Dir, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, dir.Path("bin", "kubectl"), append([]string{"--kubeconfig", dir.Path("kubeconfig")}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// A Condition is something that kubectl prints once it is so.
type Condition struct {
	What string
	Args []string
	Want string
}

// ready lists what must be so before pods can be created on the booted node: its
// kubelet is of this boot and ready, and the service account of pods that name
// none is there (Node Ready comes before it; such pods are refused until then).
func ready(facts layout.Facts) []Condition {
	return []Condition{
		{
			"node Ready",
			[]string{
				"get", "node", facts.Node, "-o",
				`jsonpath={.status.nodeInfo.bootID} {.status.conditions[?(@.type=="Ready")].status}`,
			},
			facts.BootID + " True",
		},
		{
			"service account default",
			[]string{"-n", "default", "get", "serviceaccount", "default", "-o", "jsonpath={.metadata.name}"},
			"default",
		},
	}
}

// AwaitReady waits until pods can be created and names are resolved.
func AwaitReady(ctx context.Context, dir layout.Dir, facts layout.Facts, report func(step string)) error {
	for _, c := range ready(facts) {
		if err := Await(ctx, dir, c); err != nil {
			return err
		}
		report(c.What)
	}
	// Asked by its Service's address: kube-proxy is part of the answer.
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(layout.DNS4, "53"))
	}}
	err := poll(ctx, "cluster DNS", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	})
	if err == nil {
		report("cluster DNS")
	}
	return err
}

// Await waits until the condition is so.
func Await(ctx context.Context, dir layout.Dir, c Condition) error {
	return poll(ctx, c.What, func(ctx context.Context) error {
		got, err := Kubectl(ctx, dir, nil, c.Args...)
		if err == nil && got != c.Want {
			err = fmt.Errorf("got %q, want %q", got, c.Want)
		}
		return err
	})
}

func poll(ctx context.Context, what string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not so within 2 minutes"))
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
