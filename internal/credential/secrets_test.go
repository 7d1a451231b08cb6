package credential

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// store is the Secrets of a namespace that a test makes up.
type store map[string]map[string][]byte

func (s store) Secret(_ context.Context, name string) (map[string][]byte, string, error) {
	data, ok := s[name]
	if !ok {
		return nil, "", errors.New("not found")
	}
	return data, "7", nil
}

func (store) SecretFailed(string, string) {}

func TestLoginIsReadFromASecret(t *testing.T) {
	secrets := NewSecrets(store{"orders": {"username": []byte("app_ro"), "password": []byte(secret), "ca.crt": []byte("pem")}})
	got, err := secrets.Login(t.Context(), Reference{Secret: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Login{User: "app_ro", Password: secret, Version: "7"}); got != want {
		t.Errorf("got %v of version %q, want %v of version %q and its password", got, got.Version, want, want.Version)
	}
	if pem, err := secrets.Certificates(t.Context(), Reference{Secret: "orders"}); err != nil || string(pem) != "pem" {
		t.Errorf("got %q and error %v, want the certificates", pem, err)
	}
}

func TestFaultySecretsAreRefusedWithoutTheirContent(t *testing.T) {
	for name, row := range map[string]struct {
		data map[string][]byte
		from Reference
		want string
	}{
		"missing":     {nil, Reference{Secret: "other"}, "read login secret other: not found"},
		"no username": {map[string][]byte{"password": []byte(secret)}, Reference{Secret: "orders"}, "it has no username or no password"},
		"no password": {map[string][]byte{"username": []byte(secret)}, Reference{Secret: "orders"}, "it has no username or no password"},
		"too large": {map[string][]byte{"username": []byte("a"), "password": []byte(strings.Repeat(secret, maxFile))},
			Reference{Secret: "orders"}, "larger than"},
		"no text": {map[string][]byte{"username": []byte("\xff" + secret), "password": []byte(secret)}, Reference{Secret: "orders"}, "not UTF-8"},
		"a file":  {nil, Reference{File: "/etc/passwd"}, "name a secret"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewSecrets(store{"orders": row.data}).Login(t.Context(), row.from)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v and error %v, want %q", got, err, row.want)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, got, got), secret) {
				t.Errorf("got %v, want nothing of the secret", err)
			}
			if _, err := NewSecrets(store{"orders": nil}).Certificates(t.Context(), row.from); err == nil {
				t.Error("got certificates, want an error")
			}
		})
	}
}
