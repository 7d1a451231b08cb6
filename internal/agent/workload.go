package agent

import (
	"context"
	"net"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
	"postern.dev/postern/proxy"
)

// origins tells the proxy where a connection wanted to go and who opened it.
type origins struct{ kernel *redirect.Run }

// Owner is [proxy.Origins]'s: there is one workload.
func (origins) Owner(net.Conn) audit.Workload { return audit.Workload{} }

// Origin is [proxy.Origins]'s.
func (o origins) Origin(conn net.Conn) (proxy.Origin, error) {
	origin, err := o.kernel.Origin(conn)
	if err != nil {
		return proxy.Origin{}, err
	}
	facts := workload.Describe(workload.Process{
		PID: origin.PID, UID: origin.UID, Comm: origin.Comm, Started: origin.Started,
		Cgroup: origin.Cgroup, ExeDev: origin.ExeDev, ExeInode: origin.ExeInode,
	})
	return proxy.Origin{Dialled: origin.Dialled, Workload: audit.Workload{
		PID: facts.PID, Process: facts.Process, Exe: facts.Exe,
		LinuxUID: facts.UID, LinuxUser: facts.User, Cgroup: facts.Cgroup,
	}}, nil
}

// identifier proves who the command is: by its token when it was given one,
// else as the Linux user it runs as.
type identifier struct {
	token *identity.TokenFile // nil without one
	user  account
}

// Identify is [proxy.Identifier]'s.
func (i identifier) Identify(ctx context.Context, _ proxy.Origin) (identity.Identity, error) {
	if i.token != nil {
		return i.token.Identify(ctx)
	}
	return identity.Linux(i.user.name, i.user.groupNames), nil
}

// Pod is [proxy.Identifier]'s: there is none.
func (identifier) Pod(proxy.Origin) *policy.PodSubject { return nil }
