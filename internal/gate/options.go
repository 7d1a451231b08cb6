package gate

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
)

// Options say where a gate runs.
type Options struct {
	Socket   string        // where the agent finds the gate
	AgentUID uint32        // the agent's user; never 0
	State    string        // folder for what has to outlive the gate
	Root     string        // the node's root folder; empty: that of the process that started this container
	Cgroups  string        // the cgroup v2 root as this process sees it; empty: found in Root
	Pods     string        // the pods' cgroup below it; empty: found
	Kubelet  string        // the kubelet's folder on the node; empty: /var/lib/kubelet
	NRI      string        // the runtime's NRI socket on the node; empty: /var/run/nri/nri.sock; "none": not used
	Hold     time.Duration // how long a pod's start may be held; 0: 1 s
	Log      logrus.FieldLogger
}

// Run is the gate: it returns when ctx ends. The guard stays as it is.
func Run(ctx context.Context, o Options) error {
	return errors.New("not built yet")
}
