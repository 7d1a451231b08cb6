package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

func TestRunThatWasTypedWrongSaysWhatToType(t *testing.T) {
	for _, row := range []struct {
		name string
		args []string
		want string
	}{
		{"no command", []string{"run", "-f", "policy.yaml"}, "put it behind --"},
		{"no policy", []string{"run", "--", "true"}, "name its file with -f"},
		{"unknown flag", []string{"run", "--bogus", "--", "true"}, "--bogus"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := run(context.Background(), row.args, io.Discard)
			var said strings.Builder
			if got := exitCode(err, &said); got != runFailed || !strings.Contains(said.String(), row.want) {
				t.Errorf("got exit code %d and %q, want %d and %q", got, said.String(), runFailed, row.want)
			}
		})
	}
}
