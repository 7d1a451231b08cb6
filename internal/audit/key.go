package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	operatorName = "postern-operator"
	// keyDomain keeps an operator's signature under a log's key from meaning
	// anything else.
	keyDomain   = "postern.dev/audit/log-key/v1"
	maxKeyBytes = 4 << 10
)

// EnsureOperatorKey makes the operator's key pair, unless it is there: the
// private half in path, the public half in path + ".pub".
//
// Shape: it returns the public half, which [Verify] needs and which should be
// kept where nobody who could change the log can change it.
// Errors: it fails when others than the owner can read the private half.
func EnsureOperatorKey(path string) (public string, err error) {
	key, err := readOperatorKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeOperatorKey(path); err != nil {
			return "", fmt.Errorf("make operator key: %w", err)
		}
		key, err = readOperatorKey(path)
	}
	if err != nil {
		return "", err
	}
	public, err = publicKey(key)
	if err != nil {
		return "", fmt.Errorf("read operator key %s: %w", path, err)
	}
	if b, err := os.ReadFile(path + ".pub"); err == nil && strings.TrimSpace(string(b)) == public {
		return public, nil
	}
	if err := replaceFile(path+".pub", []byte(public+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write operator key: %w", err)
	}
	return public, nil
}

// GenerateOperatorKey makes an operator's key pair and keeps none of it.
func GenerateOperatorKey() (private, public string, err error) {
	return note.GenerateKey(rand.Reader, operatorName)
}

// PublicOperatorKey is the public half of an operator's key.
func PublicOperatorKey(private []byte) (string, error) {
	return publicKey(strings.TrimSpace(string(private)))
}

// makeOperatorKey writes a new key whole or not at all, and leaves one alone
// that another process made in the meantime.
func makeOperatorKey(path string) error {
	private, _, err := GenerateOperatorKey()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + "." + randomName()
	if err := writeFile(temporary, []byte(private+"\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(temporary)
	if err := os.Link(temporary, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readOperatorKey reads a private key that only its owner can read.
func readOperatorKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read operator key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read operator key: %w", err)
	}
	if mode := info.Mode(); mode&0o077 != 0 || !mode.IsRegular() {
		return "", fmt.Errorf("read operator key %s: others can read it: chmod 600 %[1]s", path)
	}
	b, err := readAtMost(f, maxKeyBytes)
	if err != nil {
		return "", fmt.Errorf("read operator key %s: %w", path, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// publicKey derives the verifier key of a signer key.
//
// Source: C2SP signed-note; x/mod/sumdb/note, GenerateKey.
func publicKey(signer string) (string, error) {
	if _, err := note.NewSigner(signer); err != nil {
		return "", errors.New("it is not a signer key")
	}
	parts := strings.SplitN(signer, "+", 5) // PRIVATE, KEY, name, hash, algorithm and seed
	seed, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("it is not a signer key")
	}
	public, ok := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("it is not an Ed25519 key")
	}
	return note.NewEd25519VerifierKey(parts[2], public)
}

// certify has the operator say that public is the key of a log.
func certify(log, public, operatorKey string) (string, error) {
	private, err := readOperatorKey(operatorKey)
	if err != nil {
		return "", err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return "", fmt.Errorf("read operator key %s: it is not a signer key", operatorKey)
	}
	signed, err := note.Sign(&note.Note{Text: keyStatement(log, public)}, signer)
	if err != nil {
		return "", fmt.Errorf("certify log key: %w", err)
	}
	return string(signed), nil
}

func keyStatement(log, public string) string {
	return keyDomain + "\n" + log + "\n" + public + "\n"
}

// certifiedBy returns what verifies the checkpoints of a log, when one of the
// operators says that it is the log's key.
func (k *Key) certifiedBy(log string, operators note.Verifiers) (note.Verifier, error) {
	n, err := note.Open([]byte(k.Certificate), operators)
	if err != nil {
		return nil, errors.New("the operator's key has not certified it")
	}
	if n.Text != keyStatement(log, k.Public) {
		return nil, errors.New("its certificate is for another log or key")
	}
	v, err := note.NewVerifier(k.Public)
	if err != nil {
		return nil, errors.New("it is not a verifier key")
	}
	return v, nil
}
