package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/agent"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/redirect"
)

// busyNode is a node with all that there is to say.
func busyNode() agent.NodeReport {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddrPort
	return agent.NodeReport{
		Agent: "0.1.0", Node: "n1", Log: "n1/20261123T120000.000Z-0011", Since: at, Ready: false, Why: []string{"the gate is away", "the SQL parser is not compiled yet"},
		Policy: "sha256:0123", Stale: 90*time.Second + time.Millisecond, Rejected: map[string]string{"Target/b": "no hosts", "Target/a": "no protocol"},
		Targets: []agent.TargetReport{
			{Name: "orders", Addresses: []netip.AddrPort{addr("10.8.0.5:5432"), addr("[fd00::5]:5432")}, LastLogin: at},
			{Name: "stock", Failed: "certificate has expired", Missing: []string{"service data/stock does not exist"}},
			{Name: "unused"},
		},
		Pods: []agent.PodReport{
			{
				PodStatus: gate.PodStatus{
					UID: "1", Namespace: "agents", Name: "reporter", Class: "guarded", Listeners: []netip.AddrPort{addr("127.0.0.1:40001")},
					Reasons:  []string{"hostPID", "container app has BPF"},
					Counters: redirect.Counters{Seen: 9, Redirected: 7, Refused: 2, Dropped: 3},
				},
				Connections: 1, Recorded: 6, Missing: 1,
			},
			{PodStatus: gate.PodStatus{UID: "2", Class: "unknown"}},
		},
		Gate: &gate.Status{
			NRI: true, Since: at, Armed: at, Unarmed: 1500 * time.Millisecond,
			Programs: redirect.NodeState{Root: "/sys/fs/cgroup", Placement: redirect.PlacedFirst, Missing: []string{"connect_unix (Linux 6.7): unix sockets are not guarded"}},
		},
	}
}

func TestStatusIsPrintedAsItIs(t *testing.T) {
	for name, report := range map[string]agent.NodeReport{"busy": busyNode(), "empty": {}} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := printNode(&out, report); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "status", name+".txt")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), want)
			}
		})
	}
}

// askStatus runs the command against a socket.
func askStatus(t *testing.T, socket string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	cmd := statusCommand()
	cmd.SetArgs(append([]string{"--socket", socket}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceUsage = true // as the root command has it
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestStatusIsWhatTheAgentAnswers(t *testing.T) {
	t.Chdir(t.TempDir()) // the path of a socket has room for 107 bytes
	listener, err := net.Listen("unix", "agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	want := busyNode()
	served := make(chan error, 1)
	go func() {
		served <- http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(want) }))
	}()
	text, err := askStatus(t, "agent.sock")
	var printed bytes.Buffer
	if err := printNode(&printed, want); err != nil {
		t.Fatal(err)
	}
	if err != nil || text != printed.String() {
		t.Errorf("got %q, %v, want %q", text, err, printed.String())
	}
	text, err = askStatus(t, "agent.sock", "--json")
	var got agent.NodeReport
	if err != nil || json.Unmarshal([]byte(text), &got) != nil || got.Pods[0].Missing != 1 || got.Gate.Unarmed != want.Gate.Unarmed {
		t.Errorf("got %s, %v, want all of the report", text, err)
	}
	listener.Close()
	<-served
}

func TestStatusWithoutAgentSaysWhereItWasSought(t *testing.T) {
	t.Chdir(t.TempDir())
	text, err := askStatus(t, "agent.sock")
	if err == nil || text != "" || !strings.Contains(err.Error(), "ask the agent") || !strings.Contains(err.Error(), "agent.sock") {
		t.Errorf("got %q, %v, want an error that names the socket", text, err)
	}
}
