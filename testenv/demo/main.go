// Command demo shows Postern's main job on one machine, start to finish: an
// unmodified psql and an unmodified AutoGen agent with wrong passwords, under
// `postern run`, read masked rows from a real PostgreSQL, are refused a DDL, and
// leave a trail that verifies and that nobody changes unseen. Everything it makes,
// it removes, also after Ctrl-C, but for the packages that it installed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Println("\nInterrupted; everything the demo made is removed.")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the kernel hooks need root: type `sudo make demo`")
	}
	postern, err := filepath.Abs("bin/postern")
	if err != nil {
		return err
	}
	d := &demo{postern: postern}
	defer func() { err = errors.Join(err, d.close()) }()
	fmt.Println("Postern, start to finish: an unmodified psql and an AutoGen agent, guarded.")
	for _, step := range []func(context.Context) error{
		d.startServer, d.startIssuer, d.fill, d.writePolicy,
		d.unguarded, d.guarded, d.refused, d.autogen, d.trail, d.verify, d.tamper,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}
