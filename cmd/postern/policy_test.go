package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPolicyCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const object = "apiVersion: postern.dev/v1alpha1\n"
	target := write("target.yaml", object+"kind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, hosts: [db.internal], credential: {client: true}}\n")
	access := write("access.yaml", object+"kind: AccessPolicy\nmetadata: {name: readers}\nspec: {subjects: [{users: [\"linux:ada\"]}], targets: [db], rules: [{name: reads, allow: [SELECT]}]}\n")
	weak := write("weak.yaml", object+"kind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, hosts: [db.internal], credential: {client: true}, tls: {mode: disable}}\n")
	broken := write("broken.yaml", object+"kind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, colour: blue}\n")
	pods := write("pods.yaml", object+"kind: AccessPolicy\nmetadata: {name: readers}\nspec: {subjects: [{namespaces: [agents]}], targets: [other], rules: [{name: reads, allow: [SELECT]}]}\n")
	cluster := write("cluster.yaml", object+"kind: Target\nmetadata: {name: db}\nspec: {protocol: postgres, services: [{namespace: data, name: db}], credential: {secret: login}}\n---\n"+
		object+"kind: AccessPolicy\nmetadata: {name: readers}\nspec: {subjects: [{namespaces: [agents]}], targets: [db], rules: [{name: reads, allow: [SELECT]}]}\n")
	write("a,b.yaml", "")

	for _, row := range []struct {
		name           string
		args           []string
		stdout, stderr string // what they begin with, dir taken away
		wantErr        string
	}{
		{"two files", []string{"-f", target, "-f", access}, "ok, for postern run: 1 targets, 1 access policies, 0 issuers\n", "", ""},
		{
			"a warning", []string{"--file", weak, "-f", access},
			"warning: weak.yaml:4: Target/db: spec.tls.mode: disable is weaker than verified TLS: whoever is on the way reads and changes everything; every record says so\n" +
				"ok, for postern run: 1 targets, 1 access policies, 0 issuers\n", "", "",
		},
		{
			"mistakes", []string{"-f", broken}, "",
			"broken.yaml:4: Target/db: spec.colour: is not a field here; the fields are protocol, hosts, services, ports, sockets, unknownHosts, otherPorts, tls, credential, sensitive, exclusive, source\n" +
				"broken.yaml:4: Target/db: spec.hosts: is missing; name the server as clients do, and its addresses\n",
			"the policy files are not accepted: mistakes found: 2",
		},
		{"pods and Secrets", []string{"-f", cluster}, "ok, for a cluster: 1 targets, 1 access policies, 0 issuers\n", "", ""},
		{
			"pods and a file", []string{"-f", target, "-f", pods}, "",
			"pods.yaml:4: AccessPolicy/readers: spec.targets[0]: there is no Target \"other\"; name one of these files, or add it\n",
			"the policy files are not accepted: mistakes found: 1",
		},
		{"a reference across files that is not given", []string{"-f", access}, "", "access.yaml:4: AccessPolicy/readers: spec.targets[0]: there is no Target \"db\"", "the policy files are not accepted: mistakes found: 1"},
		{"a name with a comma", []string{"-f", filepath.Join(dir, "a,b.yaml")}, "", "a,b.yaml: holds no object", "the policy files are not accepted: mistakes found: 1"},
		{"no file", nil, "", "", `required flag(s) "file" not set`},
		{"a file without -f", []string{target}, "", "", `unknown command`},
	} {
		t.Run(row.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			c := policyCommand()
			c.SilenceErrors, c.SilenceUsage = true, true
			c.SetArgs(append([]string{"check"}, row.args...))
			c.SetOut(&stdout)
			c.SetErr(&stderr)
			err := c.Execute()
			for _, part := range []struct{ name, got, want string }{
				{"stdout", stdout.String(), row.stdout}, {"stderr", stderr.String(), row.stderr},
			} {
				got := strings.ReplaceAll(part.got, dir+"/", "")
				if !strings.HasPrefix(got, part.want) || part.want == "" && got != "" {
					t.Errorf("got %s\n%s\nwant\n%s", part.name, got, part.want)
				}
			}
			if row.wantErr == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), row.wantErr) {
				t.Fatalf("got %v, want %s", err, row.wantErr)
			}
			var mistakes mistakesError
			if errors.As(err, &mistakes) && mistakes.ExitCode() != 1 {
				t.Errorf("got exit code %d, want 1", mistakes.ExitCode())
			}
		})
	}
}

func TestExamplesPassTheCheck(t *testing.T) {
	for folder, want := range map[string]string{"../../deploy/examples": "ok, for postern run: ", "../../deploy/examples/cluster": "ok, for a cluster: "} {
		paths, err := filepath.Glob(folder + "/*.yaml")
		if err != nil || len(paths) < 3 {
			t.Fatalf("got %v and error %v, want examples", paths, err)
		}
		for _, path := range paths {
			var stdout, stderr bytes.Buffer
			if err := checkPolicy(&stdout, &stderr, []string{path}); err != nil || !strings.HasPrefix(stdout.String(), want) {
				t.Errorf("got %v, %s%s for %s, want %s", err, &stdout, &stderr, path, want)
			}
		}
	}
}
