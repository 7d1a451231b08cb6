// Package credential holds how the agent logs in at a Target: the login lies in
// a file that only root reads, and is read again when that file changes.
package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// maxFile is far more than a user and a password need.
const maxFile = 64 << 10 // bytes

// Login is a user and a password at a Target.
//
// Shape: Version tells one login from the next: when its file was written. It is
// no hash, from which a weak password could be guessed.
type Login struct {
	User, Password, Version string
}

// String names the user only, so that a login that is printed by mistake does
// not show its password.
func (l Login) String() string { return "login of " + l.User }

// GoString is String: %#v shows no password either.
func (l Login) GoString() string { return l.String() }

// Files are the login files that Targets name.
type Files struct {
	guarded uint32

	mu   sync.Mutex
	read map[string]entry
}

// entry is a file as it was when it was read.
type entry struct {
	login Login
	state state
}

// state changes when a file's content does.
type state struct {
	device, inode uint64
	size          int64
	modified      time.Time
}

// NewFiles makes an empty cache of login files that the user uid, whose
// processes are guarded, must not be able to read.
func NewFiles(uid uint32) *Files {
	return &Files{guarded: uid, read: make(map[string]entry)}
}

// Login reads the login in file, again if the file has changed. The file is
// YAML or JSON with the keys username and password.
//
// Errors: a file that is missing, not regular, over 64 KiB, owned by the
// guarded user, open to its group or others, or holds anything else. The error
// names the path and what to type, never what the file holds.
func (f *Files) Login(_ context.Context, file string) (Login, error) {
	opened, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Login{}, fmt.Errorf("read login: %w", err)
	}
	defer opened.Close()
	now, err := f.inspect(opened)
	if err != nil {
		return Login{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.read[file]; ok && known.state == now {
		return known.login, nil
	}
	login, err := parse(opened)
	if err != nil {
		return Login{}, fmt.Errorf("read login %s: %w", file, err)
	}
	login.Version = now.modified.UTC().Format(time.RFC3339Nano)
	f.read[file] = entry{login: login, state: now}
	return login, nil
}

// inspect refuses a file that others can read. It looks at the open file: the
// path may lead elsewhere by now.
func (f *Files) inspect(opened *os.File) (state, error) {
	name := opened.Name()
	var st unix.Stat_t
	if err := unix.Fstat(int(opened.Fd()), &st); err != nil {
		return state{}, fmt.Errorf("read login %s: %w", name, err)
	}
	others := st.Mode&0o077 != 0 // an access control list shows here too, by its mask
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return state{}, fmt.Errorf("read login %s: not a regular file", name)
	case st.Uid != 0 && st.Uid == f.guarded:
		return state{}, fmt.Errorf("read login %s: it belongs to the guarded user; type: chown root:root %s && chmod 600 %s", name, name, name)
	case others:
		return state{}, fmt.Errorf("read login %s: others than its owner have access; type: chmod 600 %s", name, name)
	case st.Size > maxFile:
		return state{}, fmt.Errorf("read login %s: larger than %d bytes", name, maxFile)
	}
	return state{device: st.Dev, inode: st.Ino, size: st.Size, modified: time.Unix(st.Mtim.Unix())}, nil
}

func parse(r io.Reader) (Login, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return Login{}, err
	}
	var fields struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	// The parser's own error may quote the line that it could not read.
	if yaml.UnmarshalStrict(text, &fields) != nil {
		return Login{}, errors.New("not YAML or JSON with the keys username and password alone")
	}
	if fields.Username == "" || fields.Password == "" {
		return Login{}, errors.New("username or password is missing")
	}
	return Login{User: fields.Username, Password: fields.Password}, nil
}
