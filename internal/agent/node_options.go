package agent

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
)

// What becomes of pods whose guard cannot be enforced.
const (
	StrictReport = "report" // it is said
	StrictRefuse = "refuse" // they reach no Target at all
)

// NodeOptions say where a node's agent runs.
type NodeOptions struct {
	Gate           string // socket of the gate
	Node           string // name of the Node object
	Namespace      string // Postern's own
	Kubeconfig     string // empty: the service account of the pod that this process is in
	LogDir         string // of the trail, and of what outlives a restart
	OperatorKey    string // private key that certifies logs
	CheckpointFile string // where the newest checkpoint is kept too; empty: nowhere
	MetricsAddress string // where to serve metrics and health; empty: nowhere
	StatusSocket   string // where to tell postern status; empty: nowhere
	StrictPods     string // report or refuse
	MaxStale       time.Duration
	Drain          time.Duration
	AllowRoot      bool // for nodes where the trail's folder is root's
	Version        string
	Log            logrus.FieldLogger
}

// check reports every mistake at once.
func (o NodeOptions) check() error {
	var errs []error
	demand := func(holds bool, text string) {
		if !holds {
			errs = append(errs, errors.New(text))
		}
	}
	demand(o.Gate != "", "the gate's socket is not given: name it with --gate")
	demand(o.Node != "", "the node's name is not given: set NODE_NAME to spec.nodeName")
	demand(o.Namespace != "", "Postern's namespace is not given: name it with --namespace")
	demand(o.LogDir != "", "the trail's folder is not given: name it with --log-dir")
	demand(o.StrictPods == StrictReport || o.StrictPods == StrictRefuse, "--strict-pods is report or refuse")
	demand(o.MaxStale > 0, "--max-stale is no time: objects would be too old at once")
	demand(o.AllowRoot || os.Geteuid() != 0,
		"the agent reads what pods and servers send, and must not be root: give it another user, or --allow-root where that is worth the risk")
	if len(errs) > 0 {
		return fmt.Errorf("start agent: %w", errors.Join(errs...))
	}
	return nil
}
