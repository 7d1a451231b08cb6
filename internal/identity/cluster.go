package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ClusterAudience is whom a pod's token for Postern is meant for. Tokens for
// others are never read.
const ClusterAudience = "postern"

// Where an API server serves what it signs tokens with.
//
// Source: Kubernetes, "Configure Service Accounts for Pods", service account issuer discovery.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/openid/v1/jwks"
)

// Pod is the pod that the kernel says is connecting, as the cluster knows it.
type Pod struct {
	UID, Namespace, Name, ServiceAccount string
	Node                                 string // where this agent is
}

// User is the pod's service account as policies name it.
//
// Source: Kubernetes, "Authenticating", service account tokens.
func (p Pod) User() string {
	return "k8s:system:serviceaccount:" + p.Namespace + ":" + p.ServiceAccount
}

// Identity is the pod as the kernel alone proves it.
func (p Pod) Identity() Identity {
	return Identity{
		User:     p.User(),
		Groups:   []string{"k8s:system:serviceaccounts", "k8s:system:serviceaccounts:" + p.Namespace},
		Verified: Kernel,
	}
}

// Fetch reads a document of at most max bytes of the cluster's API server, as the agent itself.
type Fetch func(ctx context.Context, path string, max int64) ([]byte, error)

// Cluster verifies the tokens that the cluster's own issuer gives to pods.
//
// Shape: the keys come through the API server, whom the agent trusts anyway: the
// issuer's own address may be public, or nobody's.
type Cluster struct {
	fetch  Fetch
	keys   *keySet
	issuer atomic.Pointer[string]
	now    func() time.Time
}

// NewCluster verifies tokens by what fetch reads; nothing is read before the first token.
func NewCluster(fetch Fetch) *Cluster { return newCluster(fetch, time.Now) }

func newCluster(fetch Fetch, now func() time.Time) *Cluster {
	c := &Cluster{fetch: fetch, now: now}
	c.keys = newKeySet(c.ask, now)
	return c
}

// Read reads the token in an open file of a pod's volume.
//
// Errors: [*Error] for what is no regular file of one name, is empty, or over 64 KiB.
func Read(file *os.File) (string, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return "", refuse(Missing, fmt.Errorf("inspect token file: %w", err))
	}
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = inspect(int(fd)) }); err != nil {
		return "", refuse(Missing, fmt.Errorf("inspect token file: %w", err))
	}
	if refused != nil {
		return "", refused
	}
	return readAll(file)
}

// Identify says that a token proves pod to be who the kernel says it is.
//
// Shape: the identity does not expire with the token, which the kubelet renews: it
// ends with the pod, of which the agent hears.
// Errors: [*Error]; a token that proves another pod is an error with a reason of its own.
func (c *Cluster) Identify(ctx context.Context, token string, pod Pod) (Identity, error) {
	claimed, err := claimedIssuer(token)
	if err != nil {
		return Identity{}, err
	}
	// A token that no key verifies makes the keys be asked for, and with them who the issuer is.
	verified, payload, err := check(ctx, token, Issuer{URL: claimed, Audience: ClusterAudience}, c.keys, c.now)
	if known := c.issuer.Load(); known != nil && *known != claimed {
		return Identity{}, refuse(UnknownIssuer, nil) // whatever else is wrong with it
	}
	if err != nil {
		return Identity{}, err
	}
	id, err := pod.match(payload)
	if err != nil {
		return Identity{}, err
	}
	proven := pod.Identity()
	proven.Verified = Signed
	proven.Token = &Token{Issuer: verified.Issuer, Subject: verified.Subject, ID: id}
	return proven, nil
}

// match compares a token's private claims with the pod, and gives its ID.
//
// Source: k8s.io/kubernetes pkg/serviceaccount/claims.go; the node is there since 1.30.
func (p Pod) match(payload []byte) (id string, err error) {
	type object struct {
		Name string `json:"name"`
		UID  string `json:"uid"`
	}
	var claims struct {
		ID         string `json:"jti"`
		Subject    string `json:"sub"`
		Kubernetes struct {
			Namespace string  `json:"namespace"`
			Pod       *object `json:"pod"`
			Node      *object `json:"node"`
			Account   object  `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return "", refuse(Malformed, nil)
	}
	bound := claims.Kubernetes
	switch {
	case bound.Pod == nil || bound.Pod.UID == "":
		return "", refuse(Unbound, nil)
	case bound.Pod.UID != p.UID || bound.Pod.Name != p.Name:
		return "", refuse(OtherPod, nil)
	case bound.Node != nil && bound.Node.Name != p.Node:
		return "", refuse(OtherNode, nil)
	case bound.Namespace != p.Namespace, bound.Account.Name != p.ServiceAccount, "k8s:"+claims.Subject != p.User():
		return "", refuse(OtherAccount, nil)
	}
	return claims.ID, nil
}

// ask gets the cluster's keys, and learns who its issuer is.
func (c *Cluster) ask(ctx context.Context) ([]jose.JSONWebKey, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
	}
	if err := c.get(ctx, discoveryPath, &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer == "" {
		return nil, errors.New("read discovery document: it names no issuer")
	}
	var set keyDocument
	if err := c.get(ctx, keysPath, &set); err != nil {
		return nil, err
	}
	keys, err := usable(set.Keys)
	if err == nil {
		c.issuer.Store(&discovery.Issuer)
	}
	return keys, err
}

func (c *Cluster) get(ctx context.Context, path string, into any) error {
	text, err := c.fetch(ctx, path, maxDocument)
	switch {
	case err != nil:
		return fmt.Errorf("ask API server for %s: %w", path, err)
	case len(text) > maxDocument:
		return fmt.Errorf("ask API server for %s: more than %d bytes", path, maxDocument)
	case json.Unmarshal(text, into) != nil:
		return fmt.Errorf("ask API server for %s: not the JSON expected", path)
	}
	return nil
}

// Unreadable is the error of a token that is there and cannot be opened as one.
func Unreadable(cause error) *Error { return refuse(Missing, cause) }
