package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"postern.dev/postern/testenv"
)

// A demo is what the steps share. Its folder holds all files and goes away
// with it.
type demo struct {
	postern string // absolute path of the binary
	dir     string
	user    string // account that the guarded commands run as
	server  *testenv.Postgres
	issuer  *testenv.Issuer
	steps   int
}

// What the agent logs in with; the guarded psql never has it.
const (
	role     = "shop_app"
	database = "shop"
)

//go:embed data.sql
var data string

//go:embed policy.yaml
var policy string

func (d *demo) step(format string, values ...any) {
	d.steps++
	fmt.Printf("\n\033[1m%2d. %s\033[0m\n", d.steps, fmt.Sprintf(format, values...))
}

func (d *demo) startServer(ctx context.Context) (err error) {
	d.user = "nobody"
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		d.user = name
	}
	if d.dir, err = os.MkdirTemp("", "postern-demo-"); err != nil {
		return err
	}
	if err := os.Chmod(d.dir, 0o711); err != nil { // psql starts in it, but lists and reads nothing there
		return err
	}
	if d.server, err = testenv.RunPostgres(ctx); err != nil {
		return err
	}
	d.step("A throwaway PostgreSQL %d: port %d, TLS, scram-sha-256 the only way in", d.server.Version, d.server.Port)
	return nil
}

func (d *demo) startIssuer(context.Context) (err error) {
	if d.issuer, err = testenv.RunIssuer(); err != nil {
		return err
	}
	token, err := d.issuer.Token(map[string]any{"sub": "job-4711", "repository": "acme/reports", "ref": "refs/heads/main"})
	if err != nil {
		return err
	}
	d.step("A throwaway OIDC issuer, and a CI job's token: repository acme/reports, branch main")
	return os.WriteFile(d.path("job.token"), []byte(token), 0o600)
}

func (d *demo) fill(ctx context.Context) error {
	d.step("A shop: customers with e-mail, SSN and card number, and their orders")
	for _, one := range []struct{ database, sql string }{
		{"postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", role, d.server.Password)},
		{"postgres", fmt.Sprintf("CREATE DATABASE %s OWNER %s", database, role)},
		{database, data},
	} {
		if err := d.server.Exec(ctx, one.database, one.sql); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) writePolicy(context.Context) error {
	d.step("policy.yaml: what is protected, who may do what, whose tokens count")
	text := fmt.Sprintf(policy, d.server.Port, d.server.CAFile, d.path("shop-login.yaml"), d.issuer.URL, d.issuer.CAFile)
	fmt.Println(indent(text))
	return errors.Join(
		os.WriteFile(d.path("policy.yaml"), []byte(text), 0o600),
		os.WriteFile(d.path("shop-login.yaml"), fmt.Appendf(nil, "username: %s\npassword: %s\n", role, d.server.Password), 0o600),
	)
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) close() error {
	var errs []error
	if d.issuer != nil {
		errs = append(errs, d.issuer.Close())
	}
	if d.server != nil {
		errs = append(errs, d.server.Close())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
