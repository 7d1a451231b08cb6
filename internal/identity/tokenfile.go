package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const maxToken = 64 << 10 // bytes

// TokenFile proves an identity by the OIDC token in a file.
type TokenFile struct {
	path     string
	verifier verifier
}

// NewTokenFile verifies the token in the file path; issuers is asked each time,
// because a policy can change. Links on the way to the file's folder are
// followed now and never again.
func NewTokenFile(path string, issuers func() []Issuer) (*TokenFile, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find token file: %w", err)
	}
	if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(folder, filepath.Base(path))
	}
	return &TokenFile{path: path, verifier: newVerifier(issuers, time.Now)}, nil
}

// Identify reads the file and verifies its token. Both happen each time, so a
// new token, a new policy and a key that its issuer withdrew count at once.
//
// Errors: [*Error].
func (f *TokenFile) Identify(ctx context.Context) (Identity, error) {
	token, err := read(f.path)
	if err != nil {
		return Identity{}, err
	}
	return f.verifier.verify(ctx, token)
}

// read returns the token in the file path, without the white space around it.
//
// The folder may belong to the guarded user while the agent reads as root. So
// that nobody borrows another one's token or has a device opened, no link is
// followed, a file with several names is refused, and nothing is opened for
// reading before it is known to be a regular file.
//
// Source: openat2(2), RESOLVE_NO_SYMLINKS; open(2), O_PATH.
func read(path string) (string, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	handle, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err != nil {
		return "", refuse(Missing, fmt.Errorf("open token file: %w", err))
	}
	defer unix.Close(handle)
	if err := inspect(handle); err != nil {
		return "", err
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", handle))
	if err != nil {
		return "", refuse(Missing, fmt.Errorf("open token file: %w", err))
	}
	defer file.Close()
	return readAll(file)
}

// inspect refuses what is no file of its own, or too large for a token.
func inspect(handle int) error {
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return refuse(Missing, fmt.Errorf("inspect token file: %w", err))
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse(Missing, errors.New("token file is not a regular file"))
	case st.Nlink > 1:
		return refuse(Missing, errors.New("token file has several names"))
	case st.Size > maxToken:
		return refuse(TooLarge, nil)
	}
	return nil
}

// readAll reads a token, without the white space around it.
func readAll(file io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	switch text = bytes.TrimSpace(text); {
	case err != nil:
		return "", refuse(Missing, fmt.Errorf("read token file: %w", err))
	case len(text) > maxToken:
		return "", refuse(TooLarge, nil)
	case len(text) == 0:
		return "", refuse(Empty, nil)
	}
	return string(text), nil
}
