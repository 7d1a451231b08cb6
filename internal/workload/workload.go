// Package workload describes the process that opened a connection: what the
// kernel recorded when it connected, completed by what /proc says of that very
// process while it is still there.
package workload

import "time"

// Process is what the kernel recorded of a process when it connected.
type Process struct {
	PID       uint32 // thread group, as the agent's PID namespace sees it
	UID       uint32
	Comm      string
	Start     time.Duration // since boot
	Cgroup    uint64
	ExeDevice uint64
	ExeInode  uint64
}

// Facts are a process as a record shows it.
type Facts struct {
	PID     int
	Process string // comm, which a process may choose itself
	Exe     string // empty when the process was gone, or another one had its PID
	UID     int
	User    string // empty when the UID has no name
	Cgroup  uint64
}

// Describe completes p.
func Describe(p Process) Facts {
	return Facts{PID: int(p.PID), Process: p.Comm, UID: int(p.UID), Cgroup: p.Cgroup}
}
