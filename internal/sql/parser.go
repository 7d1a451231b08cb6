package sql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Options bounds what one Parser may use. The zero value of a field is its default.
type Options struct {
	Workers    int // texts parsed at once, each in an instance with a memory of its own; 2
	CacheBytes int // memory of cached results, estimated; 64 MiB
	MaxBytes   int // longest text that is parsed; 1 MiB
	MaxTokens  int // most words and signs in a text; 200,000, which take about a second
	MaxDepth   int // deepest tree of one statement; 500, where the parser's stack ends beyond 1,000
}

func (o Options) withDefaults() Options {
	set := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	set(&o.Workers, 2)
	set(&o.CacheBytes, 64<<20)
	set(&o.MaxBytes, 1<<20)
	set(&o.MaxTokens, 200_000)
	set(&o.MaxDepth, 500)
	return o
}

// longText is how many bytes of text are looked through before a worker is free.
// Whoever has longer ones has his turn first: a text takes a processor about 10 ms
// for each MiB.
const longText = 16 << 10

// ErrClosed is the error of a Parser that was closed.
var ErrClosed = errors.New("the parser is closed")

// Parser reads statements with PostgreSQL's own grammar. It may be used by many goroutines.
type Parser struct {
	options Options
	workers *turns
	results *cache

	engine  engine
	closing sync.Mutex
	closed  atomic.Bool
}

// New gives a parser that has not compiled anything yet: see [Parser.Warm].
func New(options Options) *Parser {
	options = options.withDefaults()
	return &Parser{
		options: options,
		workers: newTurns(options.Workers),
		results: newCache(options.CacheBytes),
	}
}

// Warm compiles the grammar for each worker, which takes seconds, so that no client waits for it.
func (p *Parser) Warm(ctx context.Context) error {
	var workers errgroup.Group
	for i := range p.options.Workers {
		workers.Go(func() error {
			_, err := p.Parse(ctx, fmt.Sprintf("SELECT %d", i)) // texts that differ, so that each has a worker
			return err
		})
	}
	return workers.Wait()
}

// Err tells why the Parser reads nothing any more, nil while it does.
func (p *Parser) Err() error {
	if p.engine.trapped.Load() {
		return errTrapped
	}
	return nil
}

// Close waits for those at work; every later Parse fails.
func (p *Parser) Close() error {
	p.closing.Lock() // two that close would each hold what the other waits for
	defer p.closing.Unlock()
	p.closed.Store(true)
	for range p.options.Workers { // no parse takes longer than its limits let it
		if err := p.workers.acquire(context.Background(), ""); err != nil {
			return err
		}
		defer p.workers.release("")
	}
	return nil
}

// Parse tells what each statement of text does.
//
// Shape: what cannot be parsed or exceeds a limit is a Script with one Statement whose
// Unknown says why. A Script is shared by all who parse the same text: it must not be changed.
// Errors: ctx ended before a worker was free, or [ErrClosed].
func (p *Parser) Parse(ctx context.Context, text string) (*Script, error) {
	return p.ParseFor(ctx, "", text)
}

// ParseFor is [Parser.Parse] for one of several owners, such as a pod's UID: each
// has his turn, and his share of what is kept, whatever the others have waiting.
func (p *Parser) ParseFor(ctx context.Context, owner, text string) (*Script, error) {
	if len(text) > p.options.MaxBytes { // not worth a hash, nor a place in the cache
		script, _, err := p.read(ctx, owner, text)
		return script, err
	}
	key := keyOf(text)
	for {
		script, entry, mine := p.results.claim(owner, key)
		if script != nil {
			return script, nil
		}
		if mine {
			return p.fill(ctx, entry, text)
		}
		select {
		case <-entry.done:
			if entry.script != nil {
				return entry.script, nil
			}
			// Whoever was to parse it was cancelled: look again.
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fill reads the text that e waits for. Whatever happens, nobody is left waiting.
func (p *Parser) fill(ctx context.Context, e *entry, text string) (script *Script, err error) {
	cost := 0
	defer func() { p.results.settle(e, script, cost) }()
	script, cost, err = p.read(ctx, e.owner, text)
	return script, err
}

// read makes the Script of a text, and estimates the memory that it holds.
func (p *Parser) read(ctx context.Context, owner, text string) (*Script, int, error) {
	if p.closed.Load() {
		return nil, 0, ErrClosed
	}
	long := len(text) > longText && len(text) <= p.options.MaxBytes
	if long {
		if err := p.workers.acquire(ctx, owner); err != nil {
			return nil, 0, err
		}
		defer p.workers.release(owner)
	}
	reading, err := read(text, p.options)
	if err != nil {
		script := unread(err)
		script.Backslashes = strings.IndexByte(text, '\\') >= 0 // nobody knows where
		return script, entryBytes, nil
	}
	if !long {
		if err := p.workers.acquire(ctx, owner); err != nil {
			return nil, 0, err
		}
		defer p.workers.release(owner)
	}
	tree, err := p.engine.parse(text)
	var script *Script
	if err == nil {
		script, err = classify(tree)
	}
	var syntax *syntaxError
	switch {
	case errors.As(err, &syntax), errors.Is(err, errTrapped), errors.Is(err, errUnclassified):
		script := unread(err)
		script.Fingerprint, script.Backslashes = reading.fingerprint, reading.backslashes
		return script, entryBytes, nil
	case err != nil:
		return nil, 0, err
	}
	script.Fingerprint, script.Redacted, script.Literals = reading.fingerprint, reading.redacted, reading.literals
	script.Backslashes = reading.backslashes
	// Measured: the tree's Go form takes 16 to 17 times the bytes of its protobuf form.
	return script, entryBytes + 2*len(text) + 48*len(reading.literals) + 18*len(tree), nil
}

// unread is the script of a text of which nothing is known.
func unread(reason error) *Script {
	return &Script{Statements: []*Statement{{Words: []string{Unknown}, Unknown: reason.Error()}}}
}
