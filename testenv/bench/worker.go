package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A job is one case for a worker: pgbench with arguments, or a query whose rows
// are counted. It is one line of JSON, as is the answer.
type job struct {
	Name    string
	PgBench []string
	Query   string
	Host    string
	Port    int
	Login   login
}

type login struct{ User, Password, Database string }

// An answer is what a job did.
type answer struct {
	Done    float64 // transactions or rows
	Seconds float64
	Bytes   int64 // of the rows' messages
	Error   string
}

// work runs jobs from in until it ends. The bench starts it once as root and
// once under each guard, so that no start-up time is in any figure.
func work(in io.Reader, out io.Writer) error {
	jobs, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var j job
		if err := jobs.Decode(&j); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := j.run(context.Background())
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func (j job) run(ctx context.Context) (answer, error) {
	if j.Query != "" {
		return j.countRows(ctx)
	}
	return j.runPgBench(ctx)
}

var (
	processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failed    = regexp.MustCompile(`number of failed transactions: (\d+)`)
	tps       = regexp.MustCompile(`tps = ([0-9.]+) \(without`)
)

func (j job) runPgBench(ctx context.Context) (answer, error) {
	pgbench := exec.CommandContext(ctx, "pgbench", j.PgBench...)
	pgbench.Env = append(os.Environ(), "PGHOST="+j.Host, "PGPORT="+strconv.Itoa(j.Port), "PGUSER="+j.Login.User,
		"PGPASSWORD="+j.Login.Password, "PGDATABASE="+j.Login.Database, "PGSSLMODE=disable", "PGGSSENCMODE=disable")
	out, err := pgbench.CombinedOutput()
	if err != nil {
		return answer{}, fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	number := func(r *regexp.Regexp) float64 {
		found := r.FindSubmatch(out)
		if found == nil {
			return 0
		}
		n, _ := strconv.ParseFloat(string(found[1]), 64)
		return n
	}
	if number(processed) == 0 || number(tps) == 0 || number(failed) > 0 {
		return answer{}, fmt.Errorf("pgbench processed nothing or failed:\n%s", out)
	}
	return answer{Done: number(processed), Seconds: number(processed) / number(tps)}, nil
}

// countRows reads the result as fast as a client can: it walks the message
// headers and looks at nothing else.
func (j job) countRows(ctx context.Context) (answer, error) {
	address := net.JoinHostPort(j.Host, strconv.Itoa(j.Port))
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable",
		j.Login.User, j.Login.Password, address, j.Login.Database))
	if err != nil {
		return answer{}, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return answer{}, err
	}
	defer hijacked.Conn.Close()
	start := time.Now()
	query := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(j.Query)+5))
	if _, err := hijacked.Conn.Write(append(append(query, j.Query...), 0)); err != nil {
		return answer{}, err
	}
	var a answer
	for r := bufio.NewReaderSize(hijacked.Conn, 128<<10); ; {
		header, err := r.Peek(5)
		if err != nil {
			return answer{}, err
		}
		kind, length := header[0], int(binary.BigEndian.Uint32(header[1:]))+1
		if _, err := r.Discard(length); err != nil {
			return answer{}, err
		}
		switch kind {
		case 'D':
			a.Done++
			a.Bytes += int64(length)
		case 'E':
			return answer{}, errors.New("the server answered with an error")
		case 'Z':
			a.Seconds = time.Since(start).Seconds()
			return a, nil
		}
	}
}

func cases(o options) []job {
	var all []job
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, clients := range []int{1, 8, 32} {
			seconds := max(1, int(o.length.Seconds()))
			arguments := fmt.Sprintf("-n -S -M %s -c %d -j %d -T %d", mode, clients, min(clients, 2), seconds)
			all = append(all, job{Name: fmt.Sprintf("%s, %d", mode, clients), PgBench: strings.Fields(arguments)})
		}
	}
	return append(all, job{Name: "rows", Query: "SELECT * FROM large"})
}
