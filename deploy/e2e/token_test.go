package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tokenVolume is a projected volume whose file token is for Postern; more sources
// come after it.
func tokenVolume(more string) string {
	return fmt.Sprintf(`volumes:
  - name: proof
    projected:
      sources:
        - serviceAccountToken: {audience: postern, path: token, expirationSeconds: 600}
%s`, indentBy(more, 8))
}

// The kubelet mounts only what a container mounts.
const mountProof = "volumeMounts: [{name: proof, mountPath: /proof, readOnly: true}]"

const guardLabel = `{postern.dev/guard: "true"}`

// verifiedAs is how the last record of a pod says that it is proven.
func (w *world) verifiedAs(t *testing.T, name string) string {
	t.Helper()
	uid := w.uid(t, name)
	mine := records(t, func(r record) bool { return r.Kind == "request" && r.Workload.UID == uid })
	if len(mine) == 0 {
		t.Fatalf("got no request of %s in the trail, want one", name)
	}
	return mine[len(mine)-1].Workload.Verified
}

func TestTokenProvesItsPod(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, pod{name: "with", labels: guardLabel, inside: mountProof, extra: tokenVolume("- serviceAccountToken: {audience: vault, path: vault}")})
	w.create(t, pod{name: "unmounted", labels: guardLabel, extra: tokenVolume("")})
	w.create(t, pod{name: "without", labels: guardLabel})
	proven := map[string]string{"with": "token", "unmounted": "kernel", "without": "kernel"}
	for name, want := range proven {
		kubectl(t, "wait", "-n", w.namespace, "pod/"+name, "--for=condition=Ready", "--timeout=90s")
		w.guarded(t, name)
		if got := w.verifiedAs(t, name); got != want {
			t.Errorf("got %q in the records of %s, want %q", got, name, want)
		}
	}

	kubectl(t, "patch", "accesspolicy", w.namespace, "--type=merge", "-p", `{"spec":{"requireToken":true}}`)
	for name, want := range map[string]string{
		"unmounted": "target shop demands an identity proven by a token: the OIDC token is missing",
		"without":   "target shop demands an identity proven by a token",
	} {
		eventually(t, name+" refused", func() bool {
			out, err := w.psql(name, w.host, "SELECT 1")
			return err != nil && strings.Contains(out, want)
		})
	}
	w.guarded(t, "with")
}

// TestPlantedTokensProveNothing: a later source of the volume puts its own file
// over the token's (the API server does no more than warn of two with one path).
// What is planted so is refused, even where policies demand no token. Not possible
// by the API: a file of more than a Secret's 1 MiB, a link, and a write by the pod,
// whose mount is read-only.
func TestPlantedTokensProveNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, pod{name: "other"})
	kubectl(t, "create", "serviceaccount", "-n", w.namespace, "stranger")
	w.create(t, pod{name: "another", extra: "serviceAccountName: stranger"})

	planted := map[string]struct {
		make func(t *testing.T, name string) string
		want string
	}{
		"other-pod":     {w.boundTo("default", "other", "postern"), "the pod's token is another pod's"},
		"other-account": {w.boundTo("stranger", "another", "postern"), "the pod's token is another pod's"},
		"unbound": {func(t *testing.T, _ string) string { return w.token(t, "default", "--audience=postern") },
			"the pod's token is bound to no pod"},
		"audience": {func(t *testing.T, name string) string { return w.boundTo("default", name, "vault")(t, name) },
			"the OIDC token is meant for another audience"},
		"own":     {w.signed(0), ""}, // only its signer is not the API server
		"expired": {w.signed(-time.Hour), "the OIDC token has expired"},
		"forged":  {w.forged, "the OIDC token is signed by no key of its issuer"},
		"garbage": {func(*testing.T, string) string { return "garbage" }, "the OIDC token is not a signed JSON Web Token"},
		"empty":   {func(*testing.T, string) string { return " \n" }, "the OIDC token is empty"},
		"large":   {func(*testing.T, string) string { return strings.Repeat("a", 900<<10) }, "the OIDC token is larger than 64 KiB"},
	}
	names := slices.Sorted(maps.Keys(planted))
	for _, name := range names { // each waits for its Secret, which may name the pod
		w.create(t, pod{name: name, labels: guardLabel, inside: mountProof, extra: tokenVolume("- secret: {name: " + name + "}")})
		b64 := base64.StdEncoding.EncodeToString([]byte(planted[name].make(t, name)))
		apply(t, fmt.Sprintf(`{apiVersion: v1, kind: Secret, metadata: {name: %s, namespace: %s}, data: {token: %s}}`, name, w.namespace, b64))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			kubectl(t, "wait", "-n", w.namespace, "pod/"+name, "--for=condition=Ready", "--timeout=90s")
			if planted[name].want == "" {
				w.guarded(t, name)
				return
			}
			want := "identity is not proven: " + planted[name].want
			var last string
			defer func() {
				if t.Failed() {
					t.Logf("the last answer was %q", last)
				}
			}()
			eventually(t, name+" refused", func() bool {
				out, err := w.psql(name, w.host, "SELECT current_user")
				last = out
				if err == nil {
					t.Fatalf("got %q, want no session", out)
				}
				return strings.Contains(out, want)
			})
		})
	}
}

// token has the API server make one for a service account.
func (w *world) token(t *testing.T, account string, more ...string) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, append([]string{"create", "token", "-n", w.namespace, account}, more...)...))
}

// boundTo makes tokens that are bound to a pod.
func (w *world) boundTo(account, name, audience string) func(*testing.T, string) string {
	return func(t *testing.T, _ string) string {
		t.Helper()
		return w.token(t, account, "--audience="+audience, "--bound-object-kind=Pod", "--bound-object-name="+name, "--bound-object-uid="+w.uid(t, name))
	}
}

// signed makes tokens that say what the pod's own would have said at another time,
// with the cluster's own key.
func (w *world) signed(move time.Duration) func(*testing.T, string) string {
	return func(t *testing.T, name string) string {
		t.Helper()
		return w.resigned(t, name, clusterKey(t), move)
	}
}

// clusterKey is what the API server signs tokens with.
func clusterKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(cluster.kubeconfig), "pki/sa.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// forged signs what the pod's own token says, with a key that is not the cluster's.
func (w *world) forged(t *testing.T, name string) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return w.resigned(t, name, key, 0)
}

// resigned is the pod's own token, moved in time and signed anew.
func (w *world) resigned(t *testing.T, name string, key *rsa.PrivateKey, move time.Duration) string {
	t.Helper()
	parts := strings.Split(w.boundTo("default", name, "postern")(t, name), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"iat", "nbf"} {
		claims[at] = int64(claims[at].(float64)) + int64(move/time.Second)
	}
	claims["exp"] = claims["iat"].(int64) + 600 // whatever it was
	if payload, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
