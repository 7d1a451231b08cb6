package testenv

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ServerName is the host name in a [Postgres] server's certificate, beside
// localhost and the loopback addresses.
const ServerName = "db.postern.test"

// Superuser is the bootstrap role of a [Postgres] server.
const Superuser = "postgres"

// Postgres is a running throwaway PostgreSQL server: a data directory and a
// port of its own on the loopback addresses, TLS, and scram-sha-256 as the only
// way to log in over TCP.
type Postgres struct {
	Port     int    // on 127.0.0.1 and, where the machine has it, ::1
	Dir      string // data directory, socket directory and certificates; removed by Close
	CAFile   string // PEM of the CA that signed the server's certificate
	Password string // the superuser's
	Version  int    // major

	server *exec.Cmd
	exited chan error
	log    *bytes.Buffer
}

// StartPostgres starts a server for the length of a test.
//
// Errors: the test skips, or fails in strict runs, where no PostgreSQL server
// is installed or the tests do not run as root.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	_, err := postgresBinaries()
	Need(t, err == nil, "PostgreSQL server (apt-get install postgresql)")
	Need(t, os.Geteuid() == 0, "root, to start PostgreSQL as its own user")
	server, err := RunPostgres(context.Background(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// RunPostgres starts a server and returns once it takes connections. Each of
// settings is one line of postgresql.conf and overrides the defaults here.
//
// Errors: what initdb or the server wrote is part of the error.
func RunPostgres(ctx context.Context, settings ...string) (*Postgres, error) {
	binaries, err := postgresBinaries()
	if err != nil {
		return nil, err
	}
	owner, err := postgresOwner()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "postern-postgres-")
	if err != nil {
		return nil, err
	}
	p := &Postgres{Dir: dir, Password: randomHex(), exited: make(chan error, 1), log: new(bytes.Buffer)}
	p.Version, err = strconv.Atoi(filepath.Base(filepath.Dir(binaries)))
	if err == nil {
		err = p.create(ctx, binaries, owner, settings)
	}
	if err == nil {
		err = p.start(ctx, binaries, owner)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Address is the server's IPv4 address and port.
func (p *Postgres) Address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port))
}

// SocketDir is the directory of the server's unix socket.
func (p *Postgres) SocketDir() string { return p.Dir }

// URL names the server as the superuser reaches it, over TCP without TLS.
func (p *Postgres) URL(database string) string {
	return p.UserURL(Superuser, p.Password, database)
}

// UserURL is [Postgres.URL] for another role.
func (p *Postgres) UserURL(role, password, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", role, password, p.Address(), database)
}

// Exec runs SQL, several statements at once, as the superuser.
func (p *Postgres) Exec(ctx context.Context, database, sql string) error {
	conn, err := pgconn.Connect(ctx, p.URL(database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// MustExec is [Postgres.Exec] for tests.
func (p *Postgres) MustExec(t testing.TB, database, sql string) {
	t.Helper()
	if err := p.Exec(t.Context(), database, sql); err != nil {
		t.Fatal(err)
	}
}

// Close stops the server, waits for it and removes its directory.
func (p *Postgres) Close() error {
	if p.server != nil {
		// A fast shutdown: sessions are ended, the data directory is left clean.
		_ = p.server.Process.Signal(syscall.SIGINT)
		select {
		case <-p.exited:
		case <-time.After(20 * time.Second):
			_ = p.server.Process.Kill()
			<-p.exited
		}
	}
	return os.RemoveAll(p.Dir)
}

func (p *Postgres) create(ctx context.Context, binaries string, owner *syscall.Credential, settings []string) error {
	passwordFile := filepath.Join(p.Dir, "password")
	if err := os.WriteFile(passwordFile, []byte(p.Password), 0o600); err != nil {
		return err
	}
	if err := p.writeCertificates(); err != nil {
		return err
	}
	if err := chownTree(p.Dir, owner); err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(binaries, "initdb"), "--pgdata", p.data(),
		"--username", Superuser, "--pwfile", passwordFile, "--auth-local", "peer", "--auth-host", "scram-sha-256",
		"--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	initdb.Dir = p.Dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := p.configure(settings); err != nil {
		return err
	}
	return chownTree(p.Dir, owner)
}

func (p *Postgres) configure(settings []string) error {
	port, err := FreePort()
	if err != nil {
		return err
	}
	p.Port = port
	lines := append([]string{
		"listen_addresses = '127.0.0.1, ::1'",
		"port = " + strconv.Itoa(port),
		"unix_socket_directories = '" + p.SocketDir() + "'",
		"password_encryption = scram-sha-256",
		"ssl = on",
		"ssl_cert_file = '" + filepath.Join(p.Dir, "server.crt") + "'",
		"ssl_key_file = '" + filepath.Join(p.Dir, "server.key") + "'",
		"max_connections = 100",
		"fsync = off", // the data does not outlive the test
		"log_min_messages = fatal",
	}, settings...)
	f, err := os.OpenFile(filepath.Join(p.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(lines, "\n") + "\n")
	return errors.Join(err, f.Close())
}

func (p *Postgres) start(ctx context.Context, binaries string, owner *syscall.Credential) error {
	p.server = exec.Command(filepath.Join(binaries, "postgres"), "-D", p.data())
	p.server.SysProcAttr = &syscall.SysProcAttr{
		Credential: owner,
		Setsid:     true,            // Ctrl-C reaches the program under test first
		Pdeathsig:  syscall.SIGQUIT, // a killed test leaves no server behind
	}
	p.server.Dir = p.Dir
	p.server.Stdout, p.server.Stderr = p.log, p.log
	if err := p.server.Start(); err != nil {
		p.server = nil
		return err
	}
	server := p.server
	go func() { p.exited <- server.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := p.Exec(ctx, "postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case exit := <-p.exited:
			p.server = nil
			return fmt.Errorf("start postgres: %w\n%s", exit, p.log.Bytes())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("reach postgres: %w", err)
		}
	}
}

func (p *Postgres) data() string { return filepath.Join(p.Dir, "data") }

func (p *Postgres) writeCertificates() error {
	ca, err := NewAuthority("Postern test CA")
	if err != nil {
		return err
	}
	certificate, key, err := ca.Issue(ServerName, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return err
	}
	p.CAFile = filepath.Join(p.Dir, "ca.crt")
	return errors.Join(
		os.WriteFile(p.CAFile, ca.PEM(), 0o644),
		os.WriteFile(filepath.Join(p.Dir, "server.crt"), certificate, 0o644),
		os.WriteFile(filepath.Join(p.Dir, "server.key"), key, 0o600),
	)
}

// postgresBinaries finds the folder of the newest installed server, as Debian
// lays it out: /usr/lib/postgresql/<major>/bin.
func postgresBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("find a PostgreSQL server below /usr/lib/postgresql: none installed")
	}
	major := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	sort.Slice(found, func(i, j int) bool { return major(found[i]) > major(found[j]) })
	return filepath.Dir(found[0]), nil
}

// postgresOwner is the account that the server runs as: it refuses to be root.
func postgresOwner() (*syscall.Credential, error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func chownTree(dir string, owner *syscall.Credential) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}

// FreePort is a TCP port that nobody listened on a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func randomHex() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}
