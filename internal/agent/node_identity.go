package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"postern.dev/postern/internal/audit"
	"postern.dev/postern/internal/gate"
	"postern.dev/postern/internal/identity"
	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/internal/policy"
	"postern.dev/postern/proxy"
)

const (
	// A pod's first process may connect before the API server has told of the pod.
	podPatience   = 3 * time.Second
	tokenPatience = 5 * time.Second
	shownID       = 12 // characters of a container's ID, as container runtimes show it
)

// tokens opens the tokens of pods.
type tokens interface {
	Token(ctx context.Context, podUID, volume, file string) (*os.File, error)
}

// witness says which pod opened a connection, and how that is proven.
type witness struct {
	node    string
	pods    *pods
	tokens  tokens
	cluster *identity.Cluster
	refuses func() *proxy.Refused // why nobody is served just now, nil: somebody is
	log     logrus.FieldLogger
}

// Origin is [proxy.Origins]'s: what the gate found out. It never fails, since the
// gate hands over what has an origin.
func (w *witness) Origin(conn net.Conn) (proxy.Origin, error) {
	c, ok := conn.(*gate.Conn)
	if !ok {
		return proxy.Origin{}, errors.New("the connection is not the gate's")
	}
	ctx, cancel := context.WithTimeout(context.Background(), podPatience)
	defer cancel()
	w.pods.await(ctx, c.PodUID) // Identify refuses a pod that did not come
	workload := audit.Workload{
		UID: c.PodUID, PID: c.Facts.PID, Process: c.Facts.Process, Exe: c.Facts.Exe, LinuxUID: c.Facts.UID,
		Cgroup: c.Facts.Cgroup, Verified: identity.Kernel,
	}
	w.describe(&workload, c.ContainerID)
	return proxy.Origin{Dialled: c.Origin.Dialled, Workload: workload}, nil
}

// describe completes a workload with what the cluster says of its pod.
//
// Shape: a container that the cluster does not know yet has its ID as name.
func (w *witness) describe(workload *audit.Workload, containerID string) {
	one, ok := w.pods.find(workload.UID)
	if !ok {
		return
	}
	workload.Namespace, workload.Pod, workload.ServiceAccount = one.Namespace, one.Name, one.ServiceAccount
	workload.Container = containerID[:min(len(containerID), shownID)]
	if container, ok := one.Containers[containerID]; ok {
		workload.Container, workload.Image = container.Name, container.Image
	}
}

// Pod is [proxy.Identifier]'s.
func (w *witness) Pod(origin proxy.Origin) *policy.PodSubject {
	one, ok := w.pods.find(origin.Workload.UID)
	if !ok {
		return nil
	}
	return one.subject
}

// Identify is [proxy.Identifier]'s: the pod that the kernel names, and its token
// where it has one. One that cannot be had (the kubelet mounts no volume that no
// container mounts) or cannot be verified leaves the kernel's word alone, which
// policies can refuse. One that proves something else is refused here: somebody
// put it there.
func (w *witness) Identify(ctx context.Context, origin proxy.Origin) (identity.Identity, error) {
	if refused := w.refuses(); refused != nil {
		return identity.Identity{}, refused
	}
	one, ok := w.pods.find(origin.Workload.UID)
	if !ok {
		return identity.Identity{}, &proxy.Refused{Reason: metrics.Stale, Message: "the cluster does not know this pod yet, or not any more: connect again"}
	}
	who := w.named(one)
	if one.TokenVolume == "" {
		return who.Identity(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenPatience)
	defer cancel()
	proven, err := w.verify(ctx, one, who)
	var unproven *identity.Error
	if errors.As(err, &unproven) && (unproven.Reason == identity.Unreachable || unproven.Reason == identity.Missing) {
		w.log.WithError(err).WithField("pod", one.UID).Debug("Pod's token not verified, the kernel's word stands alone")
		proven = who.Identity()
		proven.Without = unproven
		return proven, nil
	}
	return proven, err
}

// named is a pod as tokens name it.
func (w *witness) named(one *pod) identity.Pod {
	return identity.Pod{UID: one.UID, Namespace: one.Namespace, Name: one.Name, ServiceAccount: one.ServiceAccount, Node: w.node}
}

// subjectOf is a pod as policies see it.
func (w *witness) subjectOf(one *pod) policy.Subject {
	who := w.named(one).Identity()
	return policy.Subject{User: who.User, Groups: who.Groups, Pod: one.subject}
}

// reasons are why the gate keeps a pod's token to itself: it proves nothing here.
var reasons = map[gate.TokenReason]identity.Reason{
	gate.TokenEmpty: identity.Empty, gate.TokenTooLarge: identity.TooLarge,
	gate.TokenMalformed: identity.Malformed, gate.TokenAudiences: identity.WrongAudience,
}

func (w *witness) verify(ctx context.Context, one *pod, who identity.Pod) (identity.Identity, error) {
	file, err := w.tokens.Token(ctx, one.UID, one.TokenVolume, one.TokenFile)
	if refused, ok := errors.AsType[*gate.TokenError](err); ok {
		return identity.Identity{}, identity.Found(reasons[refused.Reason])
	}
	if err != nil {
		return identity.Identity{}, identity.Unreadable(err)
	}
	defer file.Close()
	token, err := identity.Read(file)
	if err != nil {
		return identity.Identity{}, err
	}
	return w.cluster.Identify(ctx, token, who)
}
