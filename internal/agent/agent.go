package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/sql"
	"postern.dev/postern/internal/trust"
	"postern.dev/postern/proxy"
	"postern.dev/postern/proxy/postgres"
)

const (
	clearTimeout   = 30 * time.Second
	releaseTimeout = 30 * time.Second
	dialTimeout    = 10 * time.Second
)

// agent guards one command.
type agent struct {
	o        Options
	id       string
	user     account
	coreSize uint64 // the caller's limit, which the command gets back
	signals  signals
	policies policies
	targets  *targets
	token    *identity.TokenFile // nil without one
	ca       *trust.CA
	parser   *sql.Parser
	metrics  *metrics.Metrics
	trail    *audit.Log
	recorder *recorder
	kernel   *redirect.Run
	ready    atomic.Bool
}

// Run guards one command from its start to its end, and returns its exit code.
//
// Errors: the command was not started, or not everything was put back after it.
func Run(ctx context.Context, o Options) (code int, err error) {
	if err := checkMachine(); err != nil {
		return 0, err
	}
	if o, err = o.absolute(); err != nil {
		return 0, err
	}
	a := &agent{
		o: o, id: strings.ToLower(rand.Text()[:12]), signals: catchSignals(), metrics: metrics.New(),
		targets:  &targets{resolve: net.DefaultResolver.LookupNetIP, log: o.Log},
		policies: policies{files: o.Policies},
		parser:   sql.New(sql.Options{}),
	}
	if a.user, err = findAccount(o.User); err != nil {
		return 0, err
	}
	if a.coreSize, err = harden(); err != nil {
		return 0, err
	}
	set, err := a.policies.load()
	if err != nil {
		return 0, err
	}
	if err := o.checkFiles(a.user, set); err != nil {
		return 0, err
	}
	a.policies.use(set)
	a.metrics.Build(o.Version)
	a.metrics.PolicyLoaded(true)
	if o.TokenFile != "" {
		if a.token, err = identity.NewTokenFile(o.TokenFile, a.policies.issuers); err != nil {
			return 0, err
		}
	}
	if a.ca, err = trust.NewCA("Postern run " + a.id); err != nil {
		return 0, err
	}
	if err := clearDead(ctx, o.Log); err != nil {
		return 0, err
	}
	return a.record(ctx)
}

// clearDead removes what is left of runs whose agent and keeper were killed.
func clearDead(ctx context.Context, log logrus.FieldLogger) error {
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	_, err := redirect.Clear(ctx, "", log) // which says what it clears
	return err
}

// record keeps the trail while the command is guarded.
func (a *agent) record(ctx context.Context) (code int, err error) {
	name, err := nodeName()
	if err != nil {
		return 0, err
	}
	if _, err := audit.EnsureOperatorKey(a.o.OperatorKey); err != nil {
		return 0, err
	}
	a.trail, err = audit.Open(audit.Options{
		Dir: a.o.LogDir, Node: name, Agent: a.o.Version, OperatorKey: a.o.OperatorKey,
		CheckpointFile: a.o.CheckpointFile, Log: a.o.Log,
	})
	if err != nil {
		return 0, err
	}
	a.recorder = &recorder{trail: a.trail, metrics: a.metrics, log: a.o.Log}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var writer errgroup.Group
	writer.Go(func() error { return a.trail.Run(writing) })
	code, err = a.guard(ctx)
	stop()
	err = errors.Join(err, writer.Wait())
	a.summarize()
	return code, err
}

// guard attaches the programs, runs the command and puts everything back.
func (a *agent) guard(ctx context.Context) (code int, err error) {
	var written *caFile
	if a.o.CAFile != "" { // before there is a keeper, which removes what lies there
		if written, err = writeCA(a.o.CAFile, a.ca.PEM()); err != nil {
			return 0, err
		}
		defer written.remove()
	}
	a.kernel, err = redirect.New(redirect.Options{ID: a.id, UID: a.user.uid, Log: a.o.Log})
	if err != nil {
		return 0, fmt.Errorf("guard the command: %w", err)
	}
	a.metrics.Kernel(a.verdicts)
	a.recorder.put(a.policies.record())
	a.recorder.note(audit.KindAgentAttach, "", map[string]string{
		"run": a.id, "user": a.user.name, "command": filepath.Base(a.o.Command[0]), // its arguments may hold a password
	})
	keeping, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer letGo()
	var keepers errgroup.Group
	keeper, err := startKeeper(a.id, written, func(died error) {
		a.o.Log.WithError(died).Warn("Keeper died, another takes its place")
		a.recorder.note(audit.KindAgentDegraded, "keeper", nil)
	})
	if err == nil {
		ctx, cancel := context.WithCancel(ctx)
		keepers.Go(func() error {
			defer cancel() // without a keeper the command does not go on
			return keeper.run(keeping)
		})
		code, err = a.serve(ctx)
	}
	letGo()
	err = errors.Join(err, a.release(ctx), keepers.Wait())
	a.ledger() // now that nothing can connect any more
	return code, errors.Join(err, a.kernel.Close())
}

// release ends the run, as the keeper does at the same time: whoever is first.
func (a *agent) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := redirect.Release(ctx, "", a.id); err != nil {
		a.recorder.note(audit.KindAgentDegraded, "release", map[string]string{"run": a.id})
		return err
	}
	a.recorder.note(audit.KindAgentDetach, "", map[string]string{"run": a.id})
	return nil
}

// serve listens, runs the command, and serves its connections until both it
// and they have ended.
func (a *agent) serve(ctx context.Context) (code int, err error) {
	if err := a.targets.mustResolve(ctx, a.policies.current.Load().Targets()); err != nil {
		return 0, err
	}
	handler, err := a.handler()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, handler.Close()) }()
	listeners, err := a.kernel.Listen()
	if err != nil {
		return 0, err
	}
	server := proxy.New(proxy.Config{
		Handler: handler, Origins: origins{kernel: a.kernel}, Recorder: a.recorder, Metrics: a.metrics, Log: a.o.Log,
	})
	accepting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	sessions, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	working, failed := errgroup.WithContext(ctx)
	warmed := make(chan error, 1)
	// Not in the group: compiling takes seconds of both processors and cannot be
	// cancelled, while Ctrl-C and short commands end at once. Whoever does not wait
	// for it ends the process right after; for the same reason the parser, whose
	// memory is the process's, is not closed: that waits for its workers.
	go func() { warmed <- a.parser.Warm(failed) }()
	working.Go(func() error { return a.awaitParser(accepting, warmed) })
	for _, listener := range listeners {
		working.Go(func() error { return server.Serve(accepting, sessions, listener) })
	}
	a.targets.replace(ctx, a.policies.current.Load().Targets())
	a.feed(ctx)
	working.Go(func() error { a.watch(accepting); return nil })
	code, err = a.runCommand(failed, accepting, working)
	stop()
	defer time.AfterFunc(a.o.Drain, end).Stop()
	return code, errors.Join(err, working.Wait())
}

// runCommand starts the command when all else is ready for it.
func (a *agent) runCommand(ctx, accepting context.Context, working *errgroup.Group) (code int, err error) {
	if a.o.MetricsAddress != "" {
		s, err := metrics.Listen(a.o.MetricsAddress, a.metrics, a.healthy, a.ready.Load)
		if err != nil {
			return 0, err
		}
		working.Go(func() error { return s.Run(accepting) })
	}
	if number := a.signals.pending(); number != 0 {
		return 128 + number, nil
	}
	command, err := startCommand(ctx, a.o.Command, a.user, a.kernel.Command(), a.coreSize)
	if err != nil {
		return 0, err
	}
	working.Go(func() error { a.signals.forward(accepting, command.cmd.Process); return nil })
	return command.wait(), nil
}

// awaitParser says that the agent is ready once the SQL parser is, seconds
// after the command has started; it does not wait when ctx is done.
func (a *agent) awaitParser(ctx context.Context, warmed <-chan error) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-warmed:
		if err != nil {
			return fmt.Errorf("start the SQL parser: %w", err)
		}
		a.ready.Store(true)
		return nil
	}
}

// handler makes what serves PostgreSQL.
func (a *agent) handler() (*postgres.Handler, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	return postgres.New(postgres.Config{
		Policy:      a.policies.current.Load,
		Targets:     a.targets,
		Identifier:  identifier{token: a.token, user: a.user},
		Credentials: newLogins(credential.NewFiles(a.user.uid), a.policies.current.Load, a.recorder.put),
		Parser:      a.parser,
		CA:          a.ca,
		Dial: func(ctx context.Context, _ proxy.Origin, to proxy.Destination) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", to.Address.String())
		},
		Metrics: a.metrics,
		Log:     a.o.Log,
	})
}

// healthy tells why requests are refused that the policy allows, or nil.
func (a *agent) healthy() error { return errors.Join(a.trail.Err(), a.parser.Err()) }
