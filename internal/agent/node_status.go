package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/metrics"
)

// NodeReport is what a node's agent tells `postern status`. It holds nothing secret.
type NodeReport struct {
	Agent    string            `json:"agent"` // version
	Node     string            `json:"node"`
	Log      string            `json:"log"` // ID of the trail
	Since    time.Time         `json:"since"`
	Ready    bool              `json:"ready"`
	Why      []string          `json:"why,omitempty"` // it is not ready
	Policy   string            `json:"policy"`        // hash
	Stale    time.Duration     `json:"stale"`         // what is known of the cluster
	Rejected map[string]string `json:"rejected,omitempty"`
	Targets  []TargetReport    `json:"targets"`
	Pods     []PodReport       `json:"pods"` // guarded ones, and those that nobody knows yet
	Gate     *gate.Status      `json:"gate,omitempty"`
}

// TargetReport is a Target as this node sees it.
type TargetReport struct {
	Name      string           `json:"name"`
	Addresses []netip.AddrPort `json:"addresses"`         // guarded
	Missing   []string         `json:"missing,omitempty"` // what it names, and why
	LastLogin time.Time        `json:"lastLogin,omitzero"`
	Failed    string           `json:"failed,omitempty"` // the last log-in
	// SensitiveFound and SensitiveMissing are what its databases have of its sensitive
	// columns; both are empty where nobody has logged in yet.
	SensitiveFound   []string `json:"sensitiveFound,omitempty"`
	SensitiveMissing []string `json:"sensitiveMissing,omitempty"`
}

// PodReport is what the kernel, the gate and the trail say of one pod.
type PodReport struct {
	gate.PodStatus

	Connections int    `json:"connections"` // open now
	Recorded    uint64 `json:"recorded"`    // that left a record, since the agent's start
	Missing     int64  `json:"missing"`     // that the kernel counted and no record names
}

// report says what there is to know.
func (n *node) report(ctx context.Context) NodeReport {
	r := NodeReport{
		Agent: n.o.Version, Node: n.o.Node, Log: n.trail.ID(), Since: n.view.since,
		Policy: n.policy.Load().Hash(), Stale: n.watcher.Stale(), Rejected: n.view.rejections(), Targets: n.view.targets(),
	}
	r.Why = n.notReady()
	r.Ready = len(r.Why) == 0
	status, err := n.gateStatus(ctx)
	if err != nil {
		return r
	}
	for _, p := range status.Pods {
		if p.Class == "plain" || n.ledger.over(p.UID, p.Sandbox) {
			continue
		}
		r.Pods = append(r.Pods, PodReport{
			PodStatus: p, Connections: n.pods.open(p.UID), Recorded: n.recorder.of(p.UID).all.Load(), Missing: n.ledger.missing(p.UID),
		})
	}
	status.Pods = nil
	r.Gate = &status
	return r
}

// notReady lists what is missing for guarded pods to be served.
func (n *node) notReady() []string {
	var why []string
	demand := func(holds bool, text string) {
		if !holds {
			why = append(why, text)
		}
	}
	demand(isClosed(n.known), "the cluster is not known yet")
	demand(n.connected(), "the gate is away")
	demand(n.fed.Load(), "the gate does not know yet what is guarded")
	demand(isClosed(n.warm), "the SQL parser is not compiled yet")
	demand(n.tooOld() == nil, "the API server has been away for too long")
	if err := n.healthy(); err != nil {
		why = append(why, err.Error())
	}
	return why
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// healthy tells why requests are refused that the policy allows, or nil.
func (n *node) healthy() error { return errors.Join(n.trail.Err(), n.parser.Err()) }

// serveStatus serves metrics and health, and what postern status asks for.
func (n *node) serveStatus(parts *errgroup.Group, ctx context.Context) error {
	if n.o.MetricsAddress != "" {
		s, err := metrics.Listen(n.o.MetricsAddress, n.metrics, n.healthy, func() bool { return len(n.notReady()) == 0 })
		if err != nil {
			return err
		}
		parts.Go(func() error { return s.Run(ctx) })
	}
	if n.o.StatusSocket == "" {
		return nil
	}
	if err := os.Remove(n.o.StatusSocket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serve status: %w", err)
	}
	listener, err := net.Listen("unix", n.o.StatusSocket)
	if err != nil {
		return fmt.Errorf("serve status: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: askTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(n.report(r.Context())); err != nil {
			n.o.Log.WithError(err).Debug("Status not told")
		}
	})}
	parts.Go(func() error {
		defer context.AfterFunc(ctx, func() { server.Close() })()
		if err := server.Serve(listener); ctx.Err() == nil {
			return fmt.Errorf("serve status: %w", err)
		}
		return nil
	})
	return nil
}

// AskNode asks the agent whose status socket is at path.
//
// Errors: there is no agent, or it does not answer.
func AskNode(ctx context.Context, path string) (NodeReport, error) {
	client := &http.Client{Timeout: 2 * askTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/", nil)
	if err != nil {
		return NodeReport{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return NodeReport{}, fmt.Errorf("ask the agent: %w", err)
	}
	defer response.Body.Close()
	var report NodeReport
	if err := json.NewDecoder(response.Body).Decode(&report); err != nil {
		return NodeReport{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	return report, nil
}
