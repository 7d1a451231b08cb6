package agent

import (
	"fmt"
	"slices"
	"testing"

	"postern.dev/postern/internal/policy"
)

// sensitiveTarget is a Target with these sensitive columns.
func sensitiveTarget(t *testing.T, columns string) *policy.Target {
	t.Helper()
	set, rejected, err := policy.Compile([]policy.Document{{Name: "Target/db", JSON: fmt.Appendf(nil,
		`{"apiVersion":"postern.dev/v1alpha1","kind":"Target","metadata":{"name":"db"},"spec":{"protocol":"postgres","hosts":["10.0.0.1"],
		"credential":{"secret":"login"},"sensitive":[{"mask":"redact","columns":[%s]}]}}`, columns)}})
	if err != nil || len(rejected) > 0 {
		t.Fatal(err, rejected)
	}
	return set.Targets()[0]
}

func TestColumnIsMissingWhenNoDatabaseHasIt(t *testing.T) {
	v := newView(nil)
	target := sensitiveTarget(t, `"public.users.email","*.ssn","public.users.emial"`)
	expect := func(when string, wantFound, wantMissing []string) {
		t.Helper()
		if found, missing := v.sensitive(target); !slices.Equal(found, wantFound) || !slices.Equal(missing, wantMissing) {
			t.Errorf("%s: got %q found and %q missing, want %q and %q", when, found, missing, wantFound, wantMissing)
		}
	}
	expect("nobody has looked", nil, nil)
	v.looked(target, "postgres", nil)
	expect("an empty database", nil, []string{"*.ssn", "public.users.email", "public.users.emial"})
	v.looked(target, "orders", []string{"public.users.email"})
	v.looked(target, "people", []string{"*.ssn"})
	expect("two more", []string{"*.ssn", "public.users.email"}, []string{"public.users.emial"})
	v.looked(target, "people", nil)
	expect("a column was dropped", []string{"public.users.email"}, []string{"*.ssn", "public.users.emial"})
	target = sensitiveTarget(t, `"public.users.email"`)
	expect("the Target was changed", nil, nil)
	v.looked(target, "orders", []string{"public.users.email"})
	expect("somebody logged in again", []string{"public.users.email"}, nil)
	for i := range 10 * maxDatabases {
		v.looked(target, fmt.Sprint("database", i), nil)
	}
	if got := len(v.columns["db"].found); got > maxDatabases {
		t.Errorf("got %d databases kept, want at most %d", got, maxDatabases)
	}
}
