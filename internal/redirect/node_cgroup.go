package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// podsNames are what kubelets call the cgroup of all pods: with the driver
// cgroupfs, and with systemd.
//
// Source: Kubernetes, pkg/kubelet/cm/node_container_manager_linux.go and
// pkg/kubelet/cm/cgroup_manager_linux.go.
var podsNames = []string{"kubepods", "kubepods.slice"}

// findPods answers the path of the pods' cgroup below the root.
func findPods(root, given string) (string, error) {
	if given != "" {
		given = strings.Trim(filepath.Clean(given), "/")
		if given == "" || given == "." || strings.HasPrefix(given, "..") {
			return "", fmt.Errorf("pods' cgroup %q is not below %s", given, root)
		}
		return given, os.MkdirAll(filepath.Join(root, given), 0o755)
	}
	found, err := podsAnywhere(root)
	if err != nil || found != "" {
		return found, err
	}
	name := podsNames[0]
	if _, err := os.Stat("/run/systemd/system"); err == nil { // sd_booted(3)
		name = podsNames[1]
	}
	err = os.Mkdir(filepath.Join(root, name), 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return name, nil
}

// podsAnywhere is the path of the pods' cgroup below the root or one level deeper;
// empty: there is none.
func podsAnywhere(root string) (string, error) {
	found, err := podsBelow(root, "")
	if err != nil || found != "" {
		return found, err
	}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return "", err
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		if found, err := podsBelow(root, d.Name()); err != nil || found != "" {
			return found, err
		}
	}
	return "", nil
}

func podsBelow(root, dir string) (string, error) {
	for _, name := range podsNames {
		path := filepath.Join(dir, name)
		st, err := os.Stat(filepath.Join(root, path))
		if err == nil && st.IsDir() {
			return path, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// levelOf is the depth of a path below the root.
func levelOf(path string) int { return strings.Count(path, "/") + 1 }

// podCgroup is the id of a pod's cgroup, which must be where programs look for
// it: one or two below the pods'.
func (n *Node) podCgroup(dir string) (uint64, error) {
	path, err := filepath.Rel(filepath.Join(n.root, n.podsPath), dir)
	if err != nil {
		return 0, err
	}
	if level := levelOf(path); strings.HasPrefix(path, ".") || level > 2 {
		return 0, fmt.Errorf("%s is not a pod's cgroup of %s", dir, n.podsPath)
	}
	for _, qos := range []string{"besteffort", "burstable"} {
		if path == qos || strings.HasSuffix(path, "-"+qos+".slice") {
			return 0, fmt.Errorf("%s is the cgroup of many pods", dir)
		}
	}
	return cgroupID(dir)
}

// cgroupsBelow are the ids of a cgroup and of all below it.
func cgroupsBelow(dir string) (map[uint64]bool, error) {
	ids := make(map[uint64]bool)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.IsDir() {
			return nil // removed meanwhile, or no cgroup
		}
		if err != nil {
			return err
		}
		id, err := cgroupID(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		ids[id] = true
		return err
	})
	return ids, err
}
