// Command bench measures what Postern costs: pgbench's select-only run in its
// three protocol modes and a result of a million rows, over a direct
// connection, through a plain TCP relay (the floor of any proxy in Go), and
// through Postern without and with masks.
//
// Absolute times drift on shared machines, so that the four are run in turn,
// round after round, and each figure is the median of its ratios to direct of
// the same round. The table that it prints is the README's.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	postern string        // path of the binary under test
	user    string        // account that the guarded load runs as
	rounds  int           // runs of each case and way
	length  time.Duration // of one pgbench run
	rows    int           // of the large result
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		exit(work(os.Stdin, os.Stdout))
	}
	if len(os.Args) > 2 && os.Args[1] == "relay" {
		exit(relay(os.Args[2], os.Stdout))
	}
	var o options
	flag.StringVar(&o.postern, "postern", "bin/postern", "the binary to measure")
	flag.StringVar(&o.user, "user", guardedUser(), "the account that the guarded load runs as")
	flag.IntVar(&o.rounds, "rounds", 5, "runs of each case; the median counts")
	flag.DurationVar(&o.length, "length", 2*time.Second, "length of one pgbench run")
	flag.IntVar(&o.rows, "rows", 1_000_000, "rows of the large result")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// guardedUser is whoever called sudo, else an account that owns nothing.
func guardedUser() string {
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		return name
	}
	return "nobody"
}

// run brings the ways up, measures each case in each of them, and prints.
func run(ctx context.Context, o options) error {
	bench, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer bench.close()
	results := newTable(bench.ways)
	for round := range o.rounds {
		for _, c := range cases(o) {
			for i := range bench.ways {
				// Another way goes first in each round: none always runs on a warm cache.
				w := bench.ways[(i+round)%len(bench.ways)]
				figure, err := w.measure(ctx, c)
				if err != nil {
					return fmt.Errorf("run %s, %s: %w", c.Name, w.name, err)
				}
				results.add(c.Name, w.name, figure)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, c.Name)
		}
	}
	return results.print(os.Stdout, o)
}
