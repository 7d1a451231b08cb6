// Package autogen is a program that the tests and the demo guard: an agent of
// AutoGen whose tools use ordinary database drivers, and a Python that can run it.
package autogen

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is the agent, in Python. It reads how to reach the database from the
// variables DSN (of libpq) and URL (of SQLAlchemy), and prints its trace.
//
//go:embed agent.py
var Program string

const (
	// python is the distribution's: one in somebody's home is not everybody's to run.
	python = "/usr/bin/python3"
	// cache can be entered by the user whom the demo guards, as root's own cannot.
	cache = "/var/cache/postern"
)

// Python gives the path of a Python that has what a requirements file names, in
// a virtual environment that every user can run and that is kept for the next time.
// PyPI is asked for wheels alone: nothing of it runs here but what the program imports.
//
// Errors: what pip wrote is part of the error.
func Python(ctx context.Context, requirements string) (path string, err error) {
	pins, err := os.ReadFile(requirements)
	if err != nil {
		return "", fmt.Errorf("read what Python needs: %w", err)
	}
	version, err := output(ctx, python, "--version")
	if err != nil {
		return "", fmt.Errorf("find Python (apt-get install python3-venv): %w", err)
	}
	key := sha256.Sum256(append(pins, version...))
	dir := filepath.Join(cache, fmt.Sprintf("python-%x", key[:8]))
	path = filepath.Join(dir, "bin", "python")
	done := filepath.Join(dir, "complete")
	if _, err := os.Stat(done); err == nil {
		return path, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(cache, 0o755)); err != nil {
		return "", err
	}
	for _, words := range [][]string{
		{python, "-m", "venv", dir},
		{path, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
			"--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement=" + requirements},
	} {
		if _, err := output(ctx, words...); err != nil {
			return "", fmt.Errorf("make the Python of the AutoGen agent: %w", err)
		}
	}
	return path, os.WriteFile(done, nil, 0o644)
}

// output runs a command, and makes what it wrote part of its error.
func output(ctx context.Context, words ...string) (string, error) {
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(words[:min(len(words), 4)], " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
