package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/proxy"
	"postern.dev/postern/testenv"
)

// volume is a pod's projected volume: a file, or none.
type volume string

func (v volume) Token(context.Context, string, string, string) (*os.File, error) {
	return os.Open(string(v))
}

func TestPodIsProvenByTheKernelAndByItsToken(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	keys := func(_ context.Context, path string, _ int64) ([]byte, error) {
		if path == "/openid/v1/jwks" {
			return issuer.PublicKeys(t), nil
		}
		return []byte(`{"issuer":"` + issuer.URL + `"}`), nil
	}
	token := func(podUID string) string {
		return issuer.MustToken(t, map[string]any{"sub": "system:serviceaccount:agents:reporter", "kubernetes.io": map[string]any{
			"namespace": "agents", "pod": map[string]any{"name": "reporter-7", "uid": podUID}, "serviceaccount": map[string]any{"name": "reporter"},
		}})
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	for name, row := range map[string]struct {
		declared bool
		token    string // "" no file
		verified string
		without  bool
		reason   identity.Reason
	}{
		"no volume":       {false, "", identity.Kernel, false, ""},
		"nothing mounted": {true, "", identity.Kernel, true, ""},
		"its own":         {true, token("uid-1"), identity.Signed, false, ""},
		"another pod's":   {true, token("uid-2"), "", false, identity.OtherPod},
		"forged":          {true, issuer.Forged(t, nil), "", false, identity.Signature},
	} {
		t.Run(name, func(t *testing.T) {
			one := cluster.Pod{UID: "uid-1", Namespace: "agents", Name: "reporter-7", ServiceAccount: "reporter"}
			if row.declared {
				one.TokenVolume, one.TokenFile = "postern", "token"
			}
			file := filepath.Join(t.TempDir(), "token")
			if row.token != "" {
				if err := os.WriteFile(file, []byte(row.token), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			w := &witness{
				node: "n1", pods: newPods(), tokens: volume(file), cluster: identity.NewCluster(keys), log: log,
				refuses: func() *proxy.Refused { return nil },
			}
			w.pods.replace([]cluster.Pod{one})
			got, err := w.Identify(t.Context(), proxy.Origin{Workload: audit.Workload{UID: "uid-1"}})
			var unproven *identity.Error
			if errors.As(err, &unproven) != (row.reason != "") || unproven != nil && unproven.Reason != row.reason {
				t.Fatalf("got %v, want reason %q", err, row.reason)
			}
			if got.Verified != row.verified || (got.Without != nil) != row.without {
				t.Errorf("got %q without %v, want %q without %v", got.Verified, got.Without, row.verified, row.without)
			}
		})
	}
}

func TestNobodyIsServedByWhatIsTooOldOrUnknown(t *testing.T) {
	stale := &proxy.Refused{Reason: metrics.Stale, Message: "too old"}
	w := &witness{pods: newPods(), refuses: func() *proxy.Refused { return stale }}
	w.pods.replace([]cluster.Pod{{UID: "a"}})
	for uid, refuse := range map[string]*proxy.Refused{"a": stale, "unknown": nil} {
		w.refuses = func() *proxy.Refused { return refuse }
		_, err := w.Identify(t.Context(), proxy.Origin{Workload: audit.Workload{UID: uid}})
		var refused *proxy.Refused
		if !errors.As(err, &refused) || refused.Reason != metrics.Stale {
			t.Errorf("got %v for pod %s, want it refused as %s", err, uid, metrics.Stale)
		}
	}
}
