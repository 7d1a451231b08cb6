package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// issuerOf makes an Issuer named ci of the fields of its spec.
func issuerOf(t *testing.T, fields string) *Issuer {
	t.Helper()
	set, err := Parse("f", []byte(head+"---\napiVersion: postern.dev/v1alpha1\nkind: Issuer\nmetadata: {name: ci}\nspec: {url: https://token.ci.example, audience: postern, "+fields+"}\n"))
	if err != nil {
		t.Fatalf("got %v, want a set", err)
	}
	return set.Issuers()[0]
}

func TestIssuerNamesTheSubject(t *testing.T) {
	claims := map[string]any{
		"sub": "repo:acme/reports", "repository": "acme/reports", "ref": "refs/heads/main", "run": 7.0, "empty": "", "secret": "hunter2",
		"teams": []any{"data", "ops"}, "team": "data", "mixed": []any{"data", 7.0}, "none": []any{}, "odd": "a\nb", "long": strings.Repeat("x", 257),
		"many": manyGroups(501), "nested": map[string]any{"user": "ada"}, "colon": "a:b",
	}
	for _, row := range []struct{ name, fields, want string }{
		{"a claim", "username: claims.repository", "ci:acme/reports []"},
		{"an expression", `username: "'x-' + claims.repository"`, "ci:x-acme/reports []"},
		{"a nested claim", "username: claims.nested.user", "ci:ada []"},
		{"a name with a colon stays behind the prefix", "username: claims.colon", "ci:a:b []"},
		{"groups as a list", "username: claims.sub, groups: claims.teams", "ci:repo:acme/reports [ci:data ci:ops]"},
		{"groups as a text", "username: claims.sub, groups: claims.team", "ci:repo:acme/reports [ci:data]"},
		{"groups as a literal list", `username: claims.sub, groups: "['a', claims.team]"`, "ci:repo:acme/reports [ci:a ci:data]"},
		{"no groups", "username: claims.sub, groups: claims.none", "ci:repo:acme/reports []"},
		{"groups that may be missing", `username: claims.sub, groups: "has(claims.absent) ? claims.absent : []"`, "ci:repo:acme/reports []"},
		{"a requirement that holds", `username: claims.sub, require: "claims.ref == 'refs/heads/main'"`, "ci:repo:acme/reports []"},
		{"a requirement that does not", `username: claims.sub, require: "claims.ref == 'refs/heads/dev'"`, "require of Issuer/ci is not true of them"},
		{"a requirement of another type", `username: claims.sub, require: claims.sub`, "require of Issuer/ci is not true of them"},
		{"a requirement on a missing claim", `username: claims.sub, require: "claims.absent == 'x'"`, "require of Issuer/ci fails on them; a claim that it reads may be missing"},
		{"a missing claim", "username: claims.absent", "username of Issuer/ci fails on them; a claim that it reads may be missing"},
		{"a number as name", "username: claims.run", "username of Issuer/ci gives no usable name"},
		{"an empty name", "username: claims.empty", "username of Issuer/ci gives no usable name"},
		{"a name with a line break", "username: claims.odd", "username of Issuer/ci gives no usable name"},
		{"a name beyond its bound", "username: claims.long", "username of Issuer/ci gives no usable name"},
		{"groups of mixed types", "username: claims.sub, groups: claims.mixed", "groups of Issuer/ci gives neither text nor a list of texts"},
		{"groups that are a mapping", "username: claims.sub, groups: claims.nested", "groups of Issuer/ci gives neither text nor a list of texts"},
		{"groups with an empty name", `username: claims.sub, groups: "['a', '']"`, "groups of Issuer/ci gives an unusable name"},
		{"missing groups", "username: claims.sub, groups: claims.absent", "groups of Issuer/ci fails on them; a claim that it reads may be missing"},
		{"groups beyond their bound", "username: claims.sub, groups: claims.many", "groups of Issuer/ci gives more than 500 groups"},
		{"an expression dearer than the limit", `username: claims.sub, require: "` + dear + `"`, "require of Issuer/ci fails on them; a claim that it reads may be missing"},
		{"a failure on a value", `username: claims.sub, require: "int(claims.secret) == 7"`, "require of Issuer/ci fails on them; a claim that it reads may be missing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			user, groups, err := issuerOf(t, row.fields).Subject(claims)
			got := fmt.Sprint(user, " ", groups)
			if err != nil {
				if user != "" || groups != nil || !errors.Is(err, ErrClaims) {
					t.Errorf("got %q, %q, %v, want ErrClaims alone", user, groups, err)
				}
				got = strings.TrimPrefix(err.Error(), ErrClaims.Error()+": ")
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func manyGroups(n int) []any {
	groups := make([]any, n)
	for i := range groups {
		groups[i] = fmt.Sprint("g", i)
	}
	return groups
}

func TestIssuerThatWasNotLoadedRefuses(t *testing.T) {
	if user, _, err := new(Issuer).Subject(map[string]any{"sub": "ada"}); !errors.Is(err, ErrClaims) {
		t.Errorf("got %q and %v, want ErrClaims", user, err)
	}
}

func TestIssuerURL(t *testing.T) {
	for url, want := range map[string]bool{
		"https://token.ci.example":         true,
		"https://token.ci.example/a/b":     true,
		"https://127.0.0.1:8443":           true,
		"http://token.ci.example":          false,
		"https://":                         false,
		"https:token.ci.example":           false,
		"https://user@token.ci.example":    false,
		"https://token.ci.example?x=1":     false,
		"https://token.ci.example?":        false,
		"https://token.ci.example/#x":      false,
		"//token.ci.example":               false,
		"token.ci.example":                 false,
		"https://token.ci.example/\u0085x": false,
	} {
		if got := isIssuerURL(url); got != want {
			t.Errorf("got %v for %q, want %v", got, url, want)
		}
	}
}
