package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"postern.dev/postern/internal/policy"
)

// Options say what to guard, and where things lie.
type Options struct {
	Policies       []string // files
	User           string   // of the command; empty: who called sudo
	TokenFile      string   // OIDC token that proves who the command is; empty: the Linux user is
	LogDir         string   // of the trail
	OperatorKey    string   // private key that certifies logs; made when it is not there
	CheckpointFile string   // where the newest checkpoint is kept too; empty: nowhere
	CAFile         string   // where to write the run's CA certificate; empty: nowhere
	MetricsAddress string   // where to serve metrics and health; empty: nowhere
	Drain          time.Duration
	Command        []string
	Version        string
	Stderr         io.Writer // for the line at the end
	Log            logrus.FieldLogger
}

// absolute makes every path of o absolute.
func (o Options) absolute() (Options, error) {
	o.Policies = slices.Clone(o.Policies)
	paths := []*string{&o.TokenFile, &o.LogDir, &o.OperatorKey, &o.CheckpointFile, &o.CAFile}
	for i := range o.Policies {
		paths = append(paths, &o.Policies[i])
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		full, err := filepath.Abs(*path)
		if err != nil {
			return o, fmt.Errorf("find the current folder: %w", err)
		}
		*path = full
	}
	return o, nil
}

// oldest is the first kernel that has every hook and helper that a run needs.
//
// Source: include/uapi/linux/bpf.h of 5.15: bpf_get_netns_cookie for sockops.
const oldestMajor, oldestMinor = 5, 15

// checkMachine says in plain words what run cannot do without.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("run needs root to guard a command: put sudo before it; the command itself will not be root")
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask the kernel's version: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read the kernel's version %s: %w", release, err)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fmt.Errorf("run needs Linux %d.%d or later; this is %s", oldestMajor, oldestMinor, release)
	}
	return nil
}

// checkFiles refuses a run whose user could undo it: read what is secret, or
// write what decides. Every mistake is reported at once.
func (o Options) checkFiles(user account, set *policy.Set) error {
	program, err := os.Readlink(self)
	if err != nil {
		return fmt.Errorf("find this program's file: %w", err)
	}
	decisive := append([]string{program}, o.Policies...)
	secret := []string{o.LogDir, o.OperatorKey}
	if o.CheckpointFile != "" {
		decisive = append(decisive, o.CheckpointFile)
	}
	for _, target := range set.Targets() {
		if ca := target.Spec.TLS.CA; ca != nil {
			decisive = append(decisive, ca.File)
		}
		if credential := target.Spec.Credential; credential != nil && credential.File != "" {
			secret = append(secret, credential.File)
		}
	}
	for _, access := range set.Policies() {
		if credential := access.Spec.Credential; credential != nil {
			secret = append(secret, credential.File)
		}
	}
	for _, issuer := range set.Issuers() {
		if ca := issuer.Spec.CA; ca != nil {
			decisive = append(decisive, ca.File)
		}
	}
	var errs []error
	for _, path := range secret {
		errs = append(errs, user.mustNotReach(path))
	}
	for _, path := range decisive {
		errs = append(errs, user.mustNotWrite(path))
	}
	return errors.Join(errs...)
}

var notInNodeName = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// nodeName is the machine's name, as the trail calls it.
func nodeName() (string, error) {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the machine's name: %w", err)
	}
	return notInNodeName.ReplaceAllString(name, "_"), nil
}

// harden keeps the agent's memory, which holds credentials, from everybody.
//
// Shape: it returns the soft limit of core files that the agent had.
// Source: PR_SET_DUMPABLE(2const): no core, and no ptrace by a user of the same ID.
func harden() (coreSize uint64, err error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("keep the agent's memory private: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return 0, fmt.Errorf("read core limit: %w", err)
	}
	coreSize, limit.Cur = limit.Cur, 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return 0, fmt.Errorf("set core limit: %w", err)
	}
	return coreSize, nil
}
