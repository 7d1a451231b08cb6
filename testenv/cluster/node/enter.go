package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"postern.dev/postern/testenv/cluster/boot"
	"postern.dev/postern/testenv/cluster/layout"
)

// Enter replaces this process by a command inside the node: its network, UTS,
// IPC and mount namespaces, and its cgroup, so that down ends the command too.
// It does not come back but with an error.
func Enter(dir layout.Dir, command []string) error {
	pid, err := Pid(dir)
	if err != nil {
		return err
	}
	h, err := findHierarchies()
	if err != nil {
		return err
	}
	members := filepath.Join(h.v2, layout.NodeCgroup, "cgroup.procs")
	if err := os.WriteFile(members, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("join the node's cgroup: %w", err)
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	// The thread that execs gives the process its namespaces (execve(2)).
	runtime.LockOSThread()
	if err := joinNamespaces(pid); err != nil {
		return err
	}
	if err := os.Chdir(here); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := errors.Join(os.Setenv("PATH", boot.Path), os.Setenv("KUBECONFIG", layout.Inside+"/kubeconfig")); err != nil {
		return err
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, command, os.Environ()))
}

func joinNamespaces(pid int) error {
	// setns(2): a process that shares its root with other threads may not change
	// its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the file system attributes: %w", err)
	}
	for _, kind := range []string{"net", "uts", "ipc", "mnt"} { // mnt last: /proc is ours until then
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return err
		}
		err = unix.Setns(int(ns.Fd()), 0)
		ns.Close()
		if err != nil {
			return fmt.Errorf("enter the node's %s namespace: %w", kind, err)
		}
	}
	return nil
}

// Pid is the node's first process.
//
// Errors: [ErrDown] when no node runs out of dir.
func Pid(dir layout.Dir) (int, error) {
	text, err := os.ReadFile(dir.Path("node", "pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrDown
	}
	if err != nil {
		return 0, err
	}
	h, err := findHierarchies()
	if err != nil {
		return 0, err
	}
	// A number alone may be somebody else's by now.
	members, err := os.ReadFile(filepath.Join(h.v2, layout.NodeCgroup, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for member := range strings.FieldsSeq(string(members)) {
		if member == string(text) {
			return strconv.Atoi(member)
		}
	}
	return 0, ErrDown
}
