// Package credential holds how the agent logs in at a Target, and whom it trusts
// there: both lie in files that the guarded user cannot read, or in Secrets of
// Postern's own namespace.
package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

// Reference names where a login or a bundle of certificates lies: one of the two.
type Reference struct {
	File   string // absolute path
	Secret string // in Postern's own namespace
}

// String is the reference as messages show it.
func (r Reference) String() string {
	if r.Secret != "" {
		return "secret " + r.Secret
	}
	return r.File
}

// errSecret tells that there is no cluster to ask.
var errSecret = errors.New("a secret is the cluster's: name a file")

// Files reads the files that Targets name.
type Files struct{ guarded uint32 }

// NewFiles reads login files that the user uid, whose processes are guarded,
// must not be able to read.
func NewFiles(uid uint32) *Files { return &Files{guarded: uid} }

// Login reads the login in a file, which is YAML or JSON with the keys username
// and password. It is read each time, so a new password counts at once.
//
// Errors: a file that is missing, not regular, over 64 KiB, owned by the
// guarded user, open to its group or others, or holds anything else. The error
// names the path and what to type, never what the file holds.
func (f *Files) Login(_ context.Context, from Reference) (Login, error) {
	if from.File == "" {
		return Login{}, fmt.Errorf("read login %s: %w", from, errSecret)
	}
	opened, err := os.OpenFile(from.File, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Login{}, fmt.Errorf("read login: %w", err)
	}
	defer opened.Close()
	written, err := f.inspect(opened)
	if err != nil {
		return Login{}, fmt.Errorf("read login %s: %w", from, err)
	}
	login, err := parse(opened)
	if err != nil {
		return Login{}, fmt.Errorf("read login %s: %w", from, err)
	}
	login.Version = written.UTC().Format(time.RFC3339Nano)
	return login, nil
}

// Certificates reads the bundle of certificates in a file, which is no secret.
func (f *Files) Certificates(_ context.Context, from Reference) ([]byte, error) {
	if from.File == "" {
		return nil, errSecret
	}
	return os.ReadFile(from.File)
}

// Refused is nothing to a file, which is read each time.
func (f *Files) Refused(Reference, string) {}

// inspect refuses a file that others can read, and says when it was written.
// It looks at the open file: the path may lead elsewhere by now.
func (f *Files) inspect(opened *os.File) (written time.Time, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(opened.Fd()), &st); err != nil {
		return time.Time{}, err
	}
	others := st.Mode&0o077 != 0 // an access control list shows here too, by its mask
	switch name := opened.Name(); {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return time.Time{}, errors.New("not a regular file")
	case st.Uid != 0 && st.Uid == f.guarded:
		return time.Time{}, fmt.Errorf("it belongs to the guarded user; type: chown root:root %s && chmod 600 %s", name, name)
	case others:
		return time.Time{}, fmt.Errorf("others than its owner have access; type: chmod 600 %s", name)
	case st.Size > maxFile:
		return time.Time{}, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return time.Unix(st.Mtim.Unix()), nil
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
