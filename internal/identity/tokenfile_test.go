package identity

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"postern.dev/postern/testenv"
)

const marker = "claim-that-nobody-may-see"

func TestTokenNamesItsUserAndGroups(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	file := write(t, issuer.MustToken(t, map[string]any{"user": "acme/reports", "groups": []string{"data"}, "jti": "t1", "exp": ends.Unix()})+"\n")
	got, err := open(t, file, issuer).Identify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.User != "ci:acme/reports" || !slices.Equal(got.Groups, []string{"ci:data"}) || got.Verified != Signed {
		t.Errorf("got %q, %q, %q; want ci:acme/reports, ci:data, %s", got.User, got.Groups, got.Verified, Signed)
	}
	if want := (Token{Issuer: issuer.URL, Subject: "subject", ID: "t1"}); *got.Token != want {
		t.Errorf("got token %+v, want %+v", *got.Token, want)
	}
	if !got.Expires.Equal(ends) {
		t.Errorf("got end %v, want the token's %v", got.Expires, ends)
	}
}

func TestTokenForSeveralAudiencesIsTaken(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	file := write(t, issuer.MustToken(t, map[string]any{"user": "a", "aud": []string{"other", testenv.Audience}}))
	if _, err := open(t, file, issuer).Identify(t.Context()); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}

func TestTokensThatProveNothingAreRefusedByReason(t *testing.T) {
	issuer, stranger := testenv.StartIssuer(t), testenv.StartIssuer(t)
	ago, ahead := time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Hour).Unix()
	user := map[string]any{"user": marker}
	with := func(name string, value any) map[string]any {
		return map[string]any{"user": marker, name: value}
	}
	for name, row := range map[string]struct {
		token string
		want  Reason
	}{
		"empty":              {"", Empty},
		"white space":        {" \n\t", Empty},
		"too large":          {strings.Repeat("a", maxToken+1), TooLarge},
		"text":               {marker, Malformed},
		"two parts":          {"a.b", Malformed},
		"encrypted":          {"e30.e30.e30.e30.e30", Malformed},
		"no header":          {"." + body(issuer.MustToken(t, user)) + ".", Malformed},
		"header no JSON":     {"aaaa." + body(issuer.MustToken(t, user)) + ".aaaa", Malformed},
		"no algorithm":       {"e30." + body(issuer.MustToken(t, user)) + ".aaaa", Malformed},
		"alg none":           {issuer.Unsigned(t, user), Unsigned},
		"HS256, public key":  {issuer.Confused(t, user), Algorithm},
		"expired":            {issuer.MustToken(t, with("exp", ago)), Expired},
		"no expiry":          {issuer.MustToken(t, with("exp", nil)), Expired},
		"not yet valid":      {issuer.MustToken(t, with("nbf", ahead)), NotYetValid},
		"other audience":     {issuer.MustToken(t, with("aud", marker)), WrongAudience},
		"no audience":        {issuer.MustToken(t, with("aud", nil)), WrongAudience},
		"other issuer":       {stranger.MustToken(t, user), UnknownIssuer},
		"no issuer":          {issuer.MustToken(t, with("iss", nil)), UnknownIssuer},
		"forged":             {issuer.Forged(t, user), Signature},
		"signed by stranger": {stranger.MustToken(t, with("iss", issuer.URL)), Signature},
		"payload exchanged":  {exchange(issuer.MustToken(t, user), issuer.MustToken(t, with("x", 1))), Signature},
		"signature cut":      {strings.TrimRight(issuer.MustToken(t, user), "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), Signature},
		"refused claims":     {issuer.MustToken(t, map[string]any{"other": marker}), Claims},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, write(t, row.token), issuer).Identify(t.Context())
			wantReason(t, err, row.want)
		})
	}
}

func TestOnlyAPlainFileIsReadAsToken(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	token := issuer.MustToken(t, map[string]any{"user": "a"})
	for name, make := range map[string]func(path string) error{
		"missing": func(string) error { return nil },
		"folder":  func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":    func(path string) error { return os.Symlink(write(t, token), path) },
		"two names": func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(token), 0o600), os.Link(path, path+".2"))
		},
		"folder is a link by now": func(path string) error {
			folder := filepath.Dir(path)
			return errors.Join(os.Remove(folder), os.Symlink(filepath.Dir(write(t, token)), folder))
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "tokens")
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			file := open(t, filepath.Join(folder, "token"), issuer)
			if err := make(file.path); err != nil {
				t.Fatal(err)
			}
			_, err := file.Identify(t.Context())
			wantReason(t, err, Missing)
		})
	}
}

func TestNewTokenCountsAtOnce(t *testing.T) {
	issuer := testenv.StartIssuer(t)
	path := write(t, "")
	file := open(t, path, issuer)
	_, err := file.Identify(t.Context())
	wantReason(t, err, Empty)
	for _, user := range []string{"a", "b"} {
		if err := os.WriteFile(path, []byte(issuer.MustToken(t, map[string]any{"user": user})), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := file.Identify(t.Context())
		if err != nil || got.User != "ci:"+user {
			t.Errorf("got %q and error %v, want ci:%s", got.User, err, user)
		}
	}
}

// wantReason checks the reason, and that the error tells nothing that the token holds.
func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got error %v, want an *Error", err)
	}
	if refused.Reason != want {
		t.Errorf("got %v (%v), want %v", refused.Reason, err, want)
	}
	if refused.Message == "" || refused.Message == message("") {
		t.Errorf("got message %q for %s, want one of its own", refused.Message, want)
	}
	if strings.Contains(err.Error(), marker) {
		t.Errorf("got %q, want nothing of the token", err)
	}
}

func open(t *testing.T, path string, issuers ...*testenv.Issuer) *TokenFile {
	t.Helper()
	file, err := NewTokenFile(path, func() []Issuer { return trusted(issuers...) })
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func trusted(issuers ...*testenv.Issuer) []Issuer {
	var list []Issuer
	for _, issuer := range issuers {
		list = append(list, Issuer{URL: issuer.URL, Audience: testenv.Audience, CAFile: issuer.CAFile, Subject: subject})
	}
	return list
}

func subject(claims map[string]any) (string, []string, error) {
	user, ok := claims["user"].(string)
	if !ok {
		return "", nil, errors.New("claims name no user")
	}
	var groups []string
	list, _ := claims["groups"].([]any)
	for _, group := range list {
		groups = append(groups, "ci:"+group.(string))
	}
	return "ci:" + user, groups, nil
}

func write(t *testing.T, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func body(token string) string { return strings.Split(token, ".")[1] }

// exchange puts the payload of another token between header and signature.
func exchange(token, other string) string {
	parts := strings.Split(token, ".")
	return parts[0] + "." + body(other) + "." + parts[2]
}
