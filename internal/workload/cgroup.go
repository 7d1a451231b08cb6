package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of cgroups. A pod's UID is a UUID or, of a pod that the kubelet reads
// from a file, an MD5 sum; systemd's names have no hyphens within a part.
//
// Source: kubelet, pkg/kubelet/cm/cgroup_manager_linux.go (CgroupName.ToSystemd)
// and pod_container_manager_linux.go (podCgroupNamePrefix); containerd,
// internal/cri/server/podsandbox (getCgroupsPath); CRI-O, internal/config/cgmgr.
var (
	podName       = regexp.MustCompile(`^pod([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$`)
	podSlice      = regexp.MustCompile(`^[a-z_-]+-pod([0-9a-f]{8}_[0-9a-f]{4}_[0-9a-f]{4}_[0-9a-f]{4}_[0-9a-f]{12}|[0-9a-f]{32})\.slice$`)
	containerName = regexp.MustCompile(`^(?:crio-|cri-containerd-|docker-)?([0-9a-f]{64})(?:\.scope)?$`)
)

const (
	// maxDepth, maxCgroups and maxNested bound a walk. Who may write in a container's
	// cgroup can nest others: each container has a share of its own, so that what one
	// makes hides nothing of another. A container with systemd in it has some hundred.
	maxDepth   = 16
	maxCgroups = 1 << 16 // that are no container's
	maxNested  = 1 << 12 // of one container
)

// ParseCgroup tells whose the cgroup of that path is: a pod's, and within it a
// container's. Of pods within pods, the outermost counts.
//
// Shape: path is one of /proc/<pid>/cgroup, as seen from the node's cgroup
// namespace or another ("/../../pod…"), or one below the hierarchy's mount.
// containerID is empty for the pod's own cgroup and for what is no container's,
// as CRI-O's monitor.
func ParseCgroup(path string) (podUID, containerID string, ok bool) {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		uid, isPod := podOf(part)
		if !isPod {
			continue
		}
		if i+1 < len(parts) {
			containerID = containerOf(parts[i+1])
		}
		return uid, containerID, true
	}
	return "", "", false
}

func podOf(name string) (string, bool) {
	if m := podName.FindStringSubmatch(name); m != nil {
		return m[1], true
	}
	if m := podSlice.FindStringSubmatch(name); m != nil {
		return strings.ReplaceAll(m[1], "_", "-"), true
	}
	return "", false
}

func containerOf(name string) string {
	if m := containerName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// PodCgroups lists the pods' cgroups by UID.
//
// Shape: dir is the cgroup that the kubelet puts pods in. Pods lie in it or in
// the cgroup of their class of service, and not deeper: what a container makes
// and calls by a pod's name is not looked at.
// Errors: none for a folder that is not there yet.
func PodCgroups(dir string) (map[string]string, error) {
	pods := make(map[string]string)
	classes, err := list(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range classes {
		path := filepath.Join(dir, name)
		if uid, ok := podOf(name); ok {
			pods[uid] = path
			continue
		}
		inner, err := list(path)
		if err != nil {
			return nil, err
		}
		for _, name := range inner {
			if uid, ok := podOf(name); ok {
				pods[uid] = filepath.Join(path, name)
			}
		}
	}
	return pods, nil
}

// Containers tells which container each cgroup of a pod belongs to, by the
// cgroup's id: a container's own and those nested in it.
func Containers(podDir string) (map[uint64]string, error) {
	names, err := list(podDir)
	if err != nil {
		return nil, err
	}
	ids := make(map[uint64]string)
	for _, name := range names {
		container := containerOf(name)
		if container == "" {
			continue
		}
		err := walk(filepath.Join(podDir, name), func(_ string, id uint64) error {
			ids[id] = container
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// walk visits a cgroup and those below it. One that vanishes meanwhile is left
// out.
func walk(dir string, visit func(dir string, id uint64) error) error {
	var down func(dir string, depth int, left *int, nested bool) error
	down = func(dir string, depth int, left *int, nested bool) error {
		if !nested && containerOf(filepath.Base(dir)) != "" {
			share := maxNested
			left, nested = &share, true
		}
		if *left--; depth > maxDepth || *left < 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return gone(err)
		}
		if err := visit(dir, st.Ino); err != nil {
			return err
		}
		names, err := list(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := down(filepath.Join(dir, name), depth+1, left, nested); err != nil {
				return err
			}
		}
		return nil
	}
	left := maxCgroups
	return down(dir, 0, &left, false)
}

// list names the folders in a cgroup's folder.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && gone(err) != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// gone is nil for the errors of a cgroup or process that is not there any more.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// processes lists who is in the cgroup itself.
//
// Errors: none for a cgroup that is gone, or whose members are threads: their
// process is in one above.
func processes(dir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, gone(err)
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
		if pid > 0 { // 0 is one that this process cannot see
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// CgroupOf finds the cgroup that a process is in, as a folder below root.
//
// Shape: root is where the whole hierarchy is mounted. What /proc says of a
// process is relative to the reader's cgroup namespace (cgroup_namespaces(7)),
// which in a container is mostly the container's own: where it does not lead to
// the process, all of the hierarchy is searched.
// Errors: fs.ErrNotExist when it is nowhere below root.
func CgroupOf(root string, pid int) (string, error) {
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err == nil {
		dir := filepath.Join(root, unified(string(text)))
		if pids, err := processes(dir); err == nil && slices.Contains(pids, pid) {
			return dir, nil
		}
	}
	return search(root, pid)
}

// Beside finds the cgroup that a process is in among those of the same pod as
// own, a container's cgroup.
//
// Errors: fs.ErrNotExist for a process of another pod, or of none.
func Beside(own string, pid int) (string, error) { return search(filepath.Dir(own), pid) }

func search(dir string, pid int) (string, error) {
	found := ""
	err := walk(dir, func(dir string, _ uint64) error {
		pids, err := processes(dir)
		if err != nil {
			return err
		}
		if slices.Contains(pids, pid) {
			found = dir
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return "", err
	}
	if found == "" {
		return "", fmt.Errorf("find process %d below %s: %w", pid, dir, fs.ErrNotExist)
	}
	return found, nil
}

// unified is the path of cgroup v2 in /proc/<pid>/cgroup.
//
// Source: cgroups(7), /proc/pid/cgroup: the entry of hierarchy 0.
func unified(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(strings.TrimSuffix(path, "\n"), " (deleted)")
		}
	}
	return ""
}
