package gate

import (
	"encoding/json"
	"net/netip"
	"time"

	"postern.dev/postern/internal/redirect"
	"postern.dev/postern/internal/workload"
)

// Pod is a pod of this node as the API server knows it.
type Pod struct {
	// UID is the kubelet's: for a pod that the kubelet read from a file, the
	// annotation kubernetes.io/config.hash and not the mirror's metadata.uid.
	UID         string `json:"uid"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Guarded     bool   `json:"guarded,omitempty"`
	HostNetwork bool   `json:"hostNetwork,omitempty"`

	// Strict leaves a guarded pod without a listener, so that it reaches nothing that
	// is guarded, for as long as there is a reason why its guard is not enforced
	// (--strict-pods=refuse): see PodStatus.Reasons.
	Strict bool `json:"strict,omitempty"`
	// IPs are the pod's addresses; with one known, a namespace without it is not
	// taken for the pod's.
	IPs []netip.Addr `json:"ips,omitempty"`
	// NoRaw says that no container of the pod has CAP_NET_RAW, so that a link
	// without a program on its host end does not matter.
	NoRaw bool `json:"noRaw,omitempty"`
	// Privileges are why, by its specification, the pod cannot be held.
	Privileges []string `json:"privileges,omitempty"`
}

// Status is what a gate has done.
type Status struct {
	Pods              []PodStatus        `json:"pods"`
	GuardedNamespaces []string           `json:"guardedNamespaces,omitempty"`
	NRI               bool               `json:"nri"` // the runtime tells of pods before their containers start
	Programs          redirect.NodeState `json:"programs"`
	Since             time.Time          `json:"since"`              // the gate's start
	Armed             time.Time          `json:"armed,omitzero"`     // since when Targets are guarded in this boot, under whatever gate; zero: not yet
	Unarmed           time.Duration      `json:"unarmed,omitempty"`  // how long pods ran before Armed; it goes with Armed, and is not to be added up
	Alone             time.Time          `json:"alone,omitzero"`     // since when no other gate is on the node; zero: one is, in an upgrade
	Counters          *redirect.Counters `json:"counters,omitempty"` // of pods that nobody knew
}

// PodStatus is what a gate has done about one pod.
//
// A pod has one sandbox after the other, of the same UID: the runtime makes it a
// new one, with another network namespace, when the sandbox's process dies or the
// node was booted. Since, Took, Earlier, Accepted, Lost, GivenUp and Counters are of
// the sandbox that there is, and begin with it. It has a number of its own, which
// grows from sandbox to sandbox and is given once in a gate's life; the next gate
// (another Since in [Status]) counts anew, and what the kernel counted of the same
// sandbox before is Earlier there. Between two sandboxes a pod is unknown, and its
// Sandbox 0.
type PodStatus struct {
	UID       string            `json:"uid"`
	Sandbox   uint64            `json:"sandbox,omitempty"`
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	Known     bool              `json:"known"`               // the agent has told of it
	Class     string            `json:"class"`               // unknown, plain, guarded
	Since     time.Time         `json:"since,omitzero"`      // of the class
	Took      time.Duration     `json:"took,omitempty"`      // from the first word of it to the class
	Listeners []netip.AddrPort  `json:"listeners,omitempty"` // in the pod's namespace
	Uncovered []string          `json:"uncovered,omitempty"` // links without a program on their host end
	Reasons   []string          `json:"reasons,omitempty"`   // why it cannot be enforced; none: it is
	Refused   bool              `json:"refused,omitempty"`   // for these reasons, as it is strict
	Accepted  uint64            `json:"accepted,omitempty"`  // by this gate, of those that the kernel led to it
	Earlier   uint64            `json:"earlier,omitempty"`   // that the kernel led here before this gate knew the pod
	InFlight  int               `json:"inFlight,omitempty"`  // accepted, and not yet taken by the agent
	Lost      uint64            `json:"lost,omitempty"`      // accepted without a record, and closed
	GivenUp   uint64            `json:"givenUp,omitempty"`   // the same, by clients that had gone before
	Counters  redirect.Counters `json:"counters,omitzero"`   // of all gates that there were since the kernel knows the pod
}

// The kinds of [Event].
const (
	Guarded       = "guarded"        // a pod's guard is complete
	NotEnforced   = "not-enforced"   // it is not, and why; without a reason: it is by now
	KernelRefused = "kernel-refused" // the kernel refused a connection
	Gone          = "gone"           // a pod's sandbox is: its last counters; the pod may come again, in another
)

// Event is something that happened on the node.
type Event struct {
	Kind      string             `json:"kind"`
	Time      time.Time          `json:"time"`
	PodUID    string             `json:"podUID,omitempty"`    // empty: the namespace is of no pod that the gate knows
	Sandbox   uint64             `json:"sandbox,omitempty"`   // Guarded, Gone: the pod's, see PodStatus
	Took      time.Duration      `json:"took,omitempty"`      // Guarded: from the first word of it to the guard
	Destroyed int                `json:"destroyed,omitempty"` // Guarded: earlier connections that were ended
	Reasons   []string           `json:"reasons,omitempty"`   // NotEnforced
	Refusal   *Refusal           `json:"refusal,omitempty"`   // KernelRefused
	Counters  *redirect.Counters `json:"counters,omitempty"`  // Gone; nil: they could not be read, and the last ones count
	Accepted  uint64             `json:"accepted,omitempty"`  // Gone: see PodStatus
	Lost      uint64             `json:"lost,omitempty"`      // events before this one that found no room
}

// Refusal is what the kernel refused, as it saw it.
type Refusal struct {
	Dialled     netip.AddrPort `json:"dialled"`
	Why         string         `json:"why"`
	Facts       workload.Facts `json:"facts"`
	ContainerID string         `json:"containerID,omitempty"`
}

// arrival is what comes with an accepted connection.
type arrival struct {
	PodUID      string          `json:"podUID"`
	Sandbox     uint64          `json:"sandbox"`
	Origin      redirect.Origin `json:"origin"`
	Facts       workload.Facts  `json:"facts"`
	ContainerID string          `json:"containerID,omitempty"`
}

// The calls, and what the gate sends by itself.
const (
	opGuard   = "guard"  // guardCall
	opPods    = "pods"   // podsCall; the reply is a podsReply
	opSocket  = "socket" // socketCall; the reply has one descriptor
	opToken   = "token"  // tokenCall; the reply has one descriptor
	opStatus  = "status" // nothing; the reply is a Status
	opTook    = "took"   // tookCall; there is no reply
	opReply   = "reply"
	opArrival = "arrival" // arrival, with one descriptor
	opEvent   = "event"   // Event
)

// guardCall's lists are decoded item by item: see decodeList.
type guardCall struct {
	Guards  json.RawMessage `json:"guards"`  // of redirect.Guard
	Sockets json.RawMessage `json:"sockets"` // of string
}

// podsCall's lists are decoded item by item: see decodeList.
type podsCall struct {
	Pods              json.RawMessage `json:"pods"`              // of Pod
	GuardedNamespaces json.RawMessage `json:"guardedNamespaces"` // of string
}

// podsReply says what of a call's lists was left out, for people to read.
type podsReply struct {
	LeftOut []string `json:"leftOut,omitempty"`
}

type socketCall struct {
	PodUID  string `json:"podUID"`
	Network string `json:"network"`
}

type tokenCall struct {
	PodUID string `json:"podUID"`
	Volume string `json:"volume"`
	File   string `json:"file"`
}

type tookCall struct {
	PodUID string `json:"podUID"`
}

// message is a frame's content.
type message struct {
	ID    uint64          `json:"id,omitempty"` // of a call and its reply
	Op    string          `json:"op"`
	Error string          `json:"error,omitempty"` // of a reply: the call was refused
	Token *TokenError     `json:"token,omitempty"` // of a reply: and why the token was
	Files int             `json:"files,omitempty"` // descriptors that came with it
	Body  json.RawMessage `json:"body,omitempty"`
}
