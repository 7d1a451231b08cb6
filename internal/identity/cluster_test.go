package identity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv"
)

// reporter is the pod that the tokens of these tests are about.
func reporter() Pod {
	return Pod{UID: "uid-1", Namespace: "agents", Name: "reporter-7", ServiceAccount: "reporter", Node: "n1"}
}

// apiServer serves an issuer's documents where an API server has them.
func apiServer(issuer *testenv.Issuer) Fetch {
	from := source{url: issuer.URL, caFile: issuer.CAFile}
	return func(_ context.Context, path string, max int64) ([]byte, error) {
		client, err := from.client()
		if err != nil {
			return nil, err
		}
		if path == keysPath {
			path = "/keys"
		}
		response, err := client.Get(issuer.URL + path)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		return io.ReadAll(io.LimitReader(response.Body, max))
	}
}

// bound are the claims of a projected token of the reporter; change changes kubernetes.io.
func bound(change map[string]any) map[string]any {
	private := map[string]any{
		"namespace":      "agents",
		"pod":            map[string]any{"name": "reporter-7", "uid": "uid-1"},
		"node":           map[string]any{"name": "n1", "uid": "node-uid"},
		"serviceaccount": map[string]any{"name": "reporter", "uid": "account-uid"},
	}
	maps.Copy(private, change)
	return map[string]any{"sub": "system:serviceaccount:agents:reporter", "jti": "t1", "kubernetes.io": private}
}

func with(claims map[string]any, name string, value any) map[string]any {
	claims[name] = value
	return claims
}

func TestTokenOfThePodIsASecondProof(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	cluster := NewCluster(apiServer(issuer))
	for name, claims := range map[string]map[string]any{
		"with node":                bound(nil),
		"without node, as to 1.29": bound(map[string]any{"node": nil}),
	} {
		got, err := cluster.Identify(t.Context(), issuer.MustToken(t, claims), reporter())
		if err != nil {
			t.Fatalf("%s: got %v, want none", name, err)
		}
		if want := "k8s:system:serviceaccount:agents:reporter"; got.User != want || got.Verified != Signed {
			t.Errorf("%s: got %s by %s, want %s by %s", name, got.User, got.Verified, want, Signed)
		}
		if want := []string{"k8s:system:serviceaccounts", "k8s:system:serviceaccounts:agents"}; !slices.Equal(got.Groups, want) {
			t.Errorf("%s: got groups %v, want %v", name, got.Groups, want)
		}
		if want := (Token{Issuer: issuer.URL, Subject: "system:serviceaccount:agents:reporter", ID: "t1"}); *got.Token != want {
			t.Errorf("%s: got token %+v, want %+v", name, *got.Token, want)
		}
		if !got.Expires.IsZero() {
			t.Errorf("%s: got end %v, want none: the kubelet renews the token", name, got.Expires)
		}
	}
	if got, want := issuer.Fetches(), 1; got != want {
		t.Errorf("got %d fetches of keys, want %d", got, want)
	}
}

func TestTokensThatDoNotProveThePodAreRefusedByReason(t *testing.T) {
	issuer, stranger := testenv.StartIssuer(t), testenv.StartIssuer(t)
	ago := time.Now().Add(-time.Minute).Unix()
	object := func(name, uid string) map[string]any { return map[string]any{"name": name, "uid": uid} }
	token := issuer.MustToken
	for name, row := range map[string]struct {
		token string
		want  Reason
	}{
		"another pod's":             {token(t, bound(map[string]any{"pod": object("reporter-8", "uid-2")})), OtherPod},
		"an earlier pod's name":     {token(t, bound(map[string]any{"pod": object("reporter-7", "uid-0")})), OtherPod},
		"the UID of another name":   {token(t, bound(map[string]any{"pod": object("other", "uid-1")})), OtherPod},
		"bound to no pod":           {token(t, bound(map[string]any{"pod": nil})), Unbound},
		"no private claims":         {token(t, with(bound(nil), "kubernetes.io", nil)), Unbound},
		"private claims of a type":  {token(t, with(bound(nil), "kubernetes.io", "text")), Malformed},
		"of another node":           {token(t, bound(map[string]any{"node": object("n2", "x")})), OtherNode},
		"of another namespace":      {token(t, bound(map[string]any{"namespace": "other"})), OtherAccount},
		"of another account":        {token(t, bound(map[string]any{"serviceaccount": object("admin", "x")})), OtherAccount},
		"of another subject":        {token(t, with(bound(nil), "sub", "system:serviceaccount:agents:admin")), OtherAccount},
		"expired":                   {token(t, with(bound(nil), "exp", ago)), Expired},
		"for another audience":      {token(t, with(bound(nil), "aud", "https://kubernetes.default.svc")), WrongAudience},
		"of another issuer":         {stranger.MustToken(t, bound(nil)), UnknownIssuer},
		"says another issuer":       {token(t, with(bound(nil), "iss", "https://other")), UnknownIssuer},
		"a stranger's in this name": {stranger.MustToken(t, with(bound(nil), "iss", issuer.URL)), Signature},
		"forged":                    {issuer.Forged(t, bound(nil)), Signature},
		"unsigned":                  {issuer.Unsigned(t, bound(nil)), Unsigned},
		"confused":                  {issuer.Confused(t, bound(nil)), Algorithm},
		"text":                      {marker, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewCluster(apiServer(issuer)).Identify(t.Context(), row.token, reporter())
			wantReason(t, err, row.want)
		})
	}
}

func TestPlantedTokenFilesAreRefusedByReason(t *testing.T) {
	for name, row := range map[string]struct {
		plant func(path string) error
		want  Reason
	}{
		"10 MB":  {func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("a"), 10<<20), 0o600) }, TooLarge},
		"pipe":   {func(path string) error { return unix.Mkfifo(path, 0o600) }, Missing},
		"folder": {func(path string) error { return os.Mkdir(path, 0o700) }, Missing},
		"device": {func(path string) error { return os.Symlink("/dev/zero", path) }, Missing},
		"empty":  {func(path string) error { return os.WriteFile(path, []byte(" \n"), 0o600) }, Empty},
		"two names": {func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(marker), 0o600), os.Link(path, path+".2"))
		}, Missing},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			if err := row.plant(path); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // as a descriptor that came from elsewhere
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			_, err = Read(file)
			wantReason(t, err, row.want)
		})
	}
	path := write(t, " token\n")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := Read(file); err != nil || got != "token" {
		t.Errorf("got %q and error %v, want the token", got, err)
	}
}

func TestTokenOfAnUnheardOfKeyKeepsNobodyWaiting(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	ask, now := apiServer(issuer), &clock{time.Now()}
	asked, answer := make(chan struct{}), make(chan struct{})
	first := true
	c := newCluster(func(ctx context.Context, path string, max int64) ([]byte, error) {
		if !first {
			close(asked)
			<-answer
			return nil, errors.New("the API server is away")
		}
		first = path != keysPath
		return ask(ctx, path, max)
	}, now.now)
	good := issuer.MustToken(t, with(bound(nil), "aud", ClusterAudience))
	if _, err := c.Identify(t.Context(), good, reporter()); err != nil {
		t.Fatal(err)
	}
	now.Time = now.Add(fetchInterval)
	refused := make(chan error, 1)
	go func() {
		_, err := c.Identify(t.Context(), issuer.Forged(t, with(bound(nil), "aud", ClusterAudience)), reporter())
		refused <- err
	}()
	<-asked
	if _, err := c.Identify(t.Context(), good, reporter()); err != nil {
		t.Errorf("got %v for a good token while the keys are asked for again, want it taken", err)
	}
	close(answer)
	wantReason(t, <-refused, Signature)
}

func TestClusterThatDoesNotAnswerWellIsUnreachable(t *testing.T) {
	for name, answer := range map[string]string{
		"no JSON":   "<html>",
		"no issuer": `{"keys":[]}`,
		"no keys":   `{"issuer":"https://kubernetes.default.svc","keys":[]}`,
		"too large": strings.Repeat(" ", maxDocument+1),
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			cluster := NewCluster(func(context.Context, string, int64) ([]byte, error) {
				asked++
				return []byte(answer), nil
			})
			issuer := testenv.StartIssuer(t)
			for range 10 {
				_, err := cluster.Identify(t.Context(), issuer.MustToken(t, bound(nil)), reporter())
				wantReason(t, err, Unreachable)
			}
			if asked > 2 {
				t.Errorf("got %d questions for ten tokens, want one for each document", asked)
			}
		})
	}
}
