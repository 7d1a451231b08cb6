package gate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openToken opens a file in a pod's projected volume.
//
// Shape: kubelet is the kubelet's folder. The kubelet writes such a volume as
// links within it (..data, renamed at each change), so links are followed but
// never out of it. A file that is not a regular one is not waited for.
// Source: Kubernetes, pkg/volume/util/atomic_writer.go; pkg/volume/projected
// (kubernetes.io~projected).
func openToken(kubelet, uid, volume, file string) (*os.File, error) {
	if !uidPattern.MatchString(uid) {
		return nil, fmt.Errorf("%q is no pod's UID", uid)
	}
	if !volumePattern.MatchString(volume) {
		return nil, fmt.Errorf("%q is no volume's name", volume)
	}
	dir := filepath.Join(kubelet, "pods", uid, "volumes", "kubernetes.io~projected", volume)
	at, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Openat2(at, file, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(volume, file), Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s: not a regular file", filepath.Join(volume, file))
	}
	return os.NewFile(uintptr(fd), file), nil
}

// TokenAudience is whom a token must be meant for, and nobody else, so that the gate
// hands it over.
const TokenAudience = "postern"

// maxTokenBytes is more than any token has.
const maxTokenBytes = 64 << 10

// TokenError is a file that the gate does not hand over because of what is in it.
type TokenError struct {
	Reason TokenReason `json:"reason"`
}

// TokenReason says why a file is no token for Postern.
type TokenReason string

// The reasons of a [TokenError].
const (
	TokenEmpty     TokenReason = "empty"     // nothing but white space
	TokenTooLarge  TokenReason = "too-large" // over 64 KiB
	TokenMalformed TokenReason = "malformed" // not a JSON Web Token
	TokenAudiences TokenReason = "audience"  // meant for somebody else, or for others too
)

// Error names the reason.
func (e *TokenError) Error() string { return "the file is no token for Postern: " + string(e.Reason) }

// checkToken lets nothing through but what claims to be a token for Postern alone.
// Besides those, projected volumes hold tokens for the API server, Secrets and
// ConfigMaps: an agent that was taken over gets none of them. Whether the claim is
// true is the agent's to find out.
//
// Shape: file is where it was. The kubelet writes a file anew, and never over an old
// one, so that what is read here is what is handed over.
// Errors: [*TokenError].
// Source: RFC 7519 §3, §4.1.3.
func checkToken(file *os.File) error {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxTokenBytes+1))
	if err != nil {
		return err
	}
	if len(text) > maxTokenBytes {
		return &TokenError{TokenTooLarge}
	}
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return &TokenError{TokenEmpty}
	}
	parts := bytes.Split(text, []byte("."))
	if len(parts) != 3 {
		return &TokenError{TokenMalformed}
	}
	payload, err := base64.RawURLEncoding.AppendDecode(nil, parts[1])
	var claims struct {
		Audience json.RawMessage `json:"aud"`
	}
	if errors.Join(err, json.Unmarshal(payload, &claims)) != nil {
		return &TokenError{TokenMalformed}
	}
	var one string
	var several []string
	if json.Unmarshal(claims.Audience, &several) == nil && len(several) == 1 {
		one = several[0]
	} else if json.Unmarshal(claims.Audience, &one) != nil {
		return &TokenError{TokenAudiences}
	}
	if one != TokenAudience {
		return &TokenError{TokenAudiences}
	}
	return nil
}
