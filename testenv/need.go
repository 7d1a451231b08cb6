// Package testenv gives tests real things to work against: cgroups, network
// namespaces, a PostgreSQL server, an OIDC issuer. Only tests and the commands
// below this folder import it.
package testenv

import (
	"os"
	"testing"
)

// Need skips the test when a prerequisite is absent, naming it.
//
// Errors: with POSTERN_TEST_STRICT=1, as CI has it, an absent prerequisite
// fails the test, so that nothing is silently left out.
func Need(t testing.TB, present bool, what string) {
	t.Helper()
	if present {
		return
	}
	if os.Getenv("POSTERN_TEST_STRICT") == "1" {
		t.Fatalf("got no %s, want it: this run may not skip", what)
	}
	t.Skipf("needs %s", what)
}
