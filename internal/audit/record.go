package audit

import "time"

// Version is the version of the record's schema; 0 until it is frozen.
const Version = 0

// Kind says what a record is about.
type Kind string

// The kinds in use.
const (
	KindAgentStart    Kind = "agent.start"
	KindAgentStop     Kind = "agent.stop"
	KindAgentArm      Kind = "agent.arm" // since when the kernel refuses what nobody has decided
	KindAgentAttach   Kind = "agent.attach"
	KindAgentDetach   Kind = "agent.detach"
	KindAgentReload   Kind = "agent.reload"
	KindAgentDegraded Kind = "agent.degraded"
	KindSessionOpen   Kind = "session.open"
	KindSessionClose  Kind = "session.close"
	KindRequest       Kind = "request"
	KindOutcome       Kind = "outcome"
	KindCancel        Kind = "cancel"
	KindRefusal       Kind = "refusal"
	KindCredential    Kind = "credential"
	KindPolicy        Kind = "policy"
	KindLedger        Kind = "ledger"
	KindLoss          Kind = "loss"
	KindKey           Kind = "key"
	KindPrevious      Kind = "checkpoint"
)

// Record is one line of the trail. Fields that do not apply are left out.
//
// Shape: the order of the fields is the order of the keys in the line.
type Record struct {
	V       int       `json:"v"`                 // version of this schema
	Log     string    `json:"log"`               // node and instance that the log belongs to
	Index   int64     `json:"index"`             // position in the log, from 0
	ID      string    `json:"id"`                // UUID version 7
	Time    time.Time `json:"time"`              // UTC, RFC 3339 with nanoseconds
	Kind    Kind      `json:"kind"`              // what the record is about
	Session string    `json:"session,omitempty"` // UUID version 7
	Seq     int64     `json:"seq,omitempty"`     // number of the request within its session, from 1
	Node    string    `json:"node"`              // host name
	Agent   string    `json:"agent"`             // version
	// StaleUS is for how long, in µs, the cluster's API server had not confirmed the
	// objects by which the agent decides. Left out while that is less than a minute.
	StaleUS int64 `json:"stale_us,omitempty"`
	// RequestID is the request that an outcome or a cancel belongs to, and
	// RequestLog the log it lies in when that is another one.
	RequestID  string `json:"request_id,omitempty"`
	RequestLog string `json:"request_log,omitempty"`

	Workload   *Workload   `json:"workload,omitempty"`
	Initiator  *Initiator  `json:"initiator,omitempty"`
	Claimed    *Claimed    `json:"claimed,omitempty"`
	Target     *Target     `json:"target,omitempty"`
	Request    *Request    `json:"request,omitempty"`
	Decision   *Decision   `json:"decision,omitempty"`
	Outcome    *Outcome    `json:"outcome,omitempty"`
	Refusal    *Refusal    `json:"refusal,omitempty"`
	Event      *Event      `json:"event,omitempty"`
	Credential *Credential `json:"credential,omitempty"`
	Policy     *Policy     `json:"policy,omitempty"`
	Ledger     *Ledger     `json:"ledger,omitempty"`
	Loss       *Loss       `json:"loss,omitempty"`
	Key        *Key        `json:"key,omitempty"`
	Previous   *Previous   `json:"previous,omitempty"`

	// Bytes is what the record and its values take in the log, once it is written.
	Bytes int `json:"-"`
}

// Workload is who connected: what the kernel saw and what was proven.
type Workload struct {
	Namespace      string   `json:"namespace,omitempty"`       // of the pod
	Pod            string   `json:"pod,omitempty"`             // its name
	UID            string   `json:"uid,omitempty"`             // of the pod
	ServiceAccount string   `json:"service_account,omitempty"` // of the pod
	Container      string   `json:"container,omitempty"`       // its name
	Image          string   `json:"image,omitempty"`           // with digest
	User           string   `json:"user,omitempty"`            // the proven subject, qualified: "linux:ada", "ci:acme/reports"
	Groups         []string `json:"groups,omitempty"`          // proven, qualified
	PID            uint32   `json:"pid,omitempty"`             // in the initial namespace
	Process        string   `json:"process,omitempty"`         // comm: the process chooses it
	Exe            string   `json:"exe,omitempty"`             // file that the process ran when it connected
	LinuxUID       uint32   `json:"linux_uid"`                 // of the process
	LinuxUser      string   `json:"linux_user,omitempty"`      // its name
	Cgroup         uint64   `json:"cgroup,omitempty"`          // id
	Verified       string   `json:"verified,omitempty"`        // "kernel" or "token"
	Token          *Token   `json:"token,omitempty"`
}

// Token names the token that proved an identity; never the token itself.
type Token struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	ID      string `json:"jti,omitempty"`
}

// Initiator is who caused the workload to exist.
type Initiator struct {
	User     string   `json:"user"`
	Groups   []string `json:"groups,omitempty"`
	Source   string   `json:"source"`
	Verified bool     `json:"verified"`
}

// Claimed is what a client says of itself. It never decides.
type Claimed struct {
	ApplicationName string `json:"application_name,omitempty"`
	Traceparent     string `json:"traceparent,omitempty"`
	UserAgent       string `json:"user_agent,omitempty"`
	User            string `json:"user,omitempty"` // the name it asked the server for
}

// Target is what was connected to.
type Target struct {
	Name              string `json:"name,omitempty"`               // empty when the address belongs to no Target
	Protocol          string `json:"protocol,omitempty"`           // postgres
	Address           string `json:"address,omitempty"`            // as dialled
	Host              string `json:"host,omitempty"`               // name that the Target gives it
	TLS               string `json:"tls,omitempty"`                // mode: verify-full, require or disable
	Database          string `json:"database,omitempty"`           // as asked for
	User              string `json:"user,omitempty"`               // the role that Postern logged in as
	CredentialVersion string `json:"credential_version,omitempty"` // of the login, never the login
}

// Request is what was asked for.
//
// Shape: Text and Parameters are values. They go to the values file; the leaf
// holds their commitments. What is longer than [Options.MaxValueBytes] is cut
// and Truncated set. Parameters are literals in the protocol's own notation,
// so that a NULL differs from the text of the same spelling.
type Request struct {
	Operations  []string `json:"operations"`            // words, as policies use them
	Relations   []string `json:"relations"`             // "schema.name", or as written where the schema is not known
	Functions   []string `json:"functions"`             // likewise
	Text        string   `json:"text,omitempty"`        // commitment to the text; joined for readers
	Fingerprint string   `json:"fingerprint,omitempty"` // equal for texts that differ in literals alone
	Parameters  []string `json:"parameters,omitempty"`  // commitments to the parameters; joined for readers
	Truncated   bool     `json:"truncated"`             // a value was longer than is kept
}

// Decision is what the policies said.
type Decision struct {
	Action string    `json:"action"` // "allow" or "deny"
	Policy string    `json:"policy,omitempty"`
	Rule   string    `json:"rule,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Hash   string    `json:"hash"`            // of the policies that decided
	Masks  []string  `json:"masks,omitempty"` // sensitive columns of the relations it names
	Would  []Verdict `json:"would,omitempty"`
}

// Verdict is what an observed policy would have said.
type Verdict struct {
	Action string `json:"action"` // "allow", "deny" or "mask"
	Policy string `json:"policy"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Outcome is how a request or a session ended.
//
// Shape: Code is the SQLSTATE or status code, never the server's message.
type Outcome struct {
	Status     Status           `json:"status"`           // ok, error, refused, canceled or unknown
	Code       string           `json:"code,omitempty"`   // SQLSTATE
	Rows       int64            `json:"rows"`             // that the client received, or changed
	Bytes      int64            `json:"bytes"`            // of the rows
	DurationUS int64            `json:"duration_us"`      // µs
	Masked     map[string]int64 `json:"masked,omitempty"` // values masked, by column
}

// Status is one word for how a request ended.
type Status string

// The statuses of an [Outcome].
const (
	StatusOK       Status = "ok"
	StatusError    Status = "error"    // the server said no
	StatusRefused  Status = "refused"  // Postern said no
	StatusCanceled Status = "canceled" // the client took it back
	StatusUnknown  Status = "unknown"  // the agent or the connection ended first
)

// Refusal says why a connection or an identity was turned away.
type Refusal struct {
	Reason  string `json:"reason"`            // from a closed list
	Message string `json:"message,omitempty"` // what the peer was told
	Code    string `json:"code,omitempty"`    // SQLSTATE or status code
}

// Event is something in the agent's own life.
type Event struct {
	Reason string            `json:"reason,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
}

// Credential says what became of a login that the policies name; never what it is.
//
// Shape: Version is what the records of its sessions have as credential_version.
type Credential struct {
	Source  string   `json:"source"`            // "secret name" or the path of a file
	Targets []string `json:"targets,omitempty"` // that it opens by the policies in force
	Event   string   `json:"event"`             // "fetched", "rotated" or "failed"
	User    string   `json:"user,omitempty"`    // the role
	Version string   `json:"version,omitempty"`
	Reason  string   `json:"reason,omitempty"` // of a failure
}

// Policy names the policies in force from this record on.
type Policy struct {
	Hash    string   `json:"hash"`
	Files   []string `json:"files,omitempty"`
	Targets []string `json:"targets,omitempty"`
}

// Ledger compares the connections that the kernel counted with the sessions
// that were recorded.
type Ledger struct {
	Seen       uint64 `json:"seen"`
	Redirected uint64 `json:"redirected"`
	Refused    uint64 `json:"refused"`
	Dropped    uint64 `json:"dropped"`
	Sessions   uint64 `json:"sessions"`
	Missing    int64  `json:"missing"` // redirected and not recorded
}

// Loss says that a log has fewer records than a checkpoint of it covers.
type Loss struct {
	Log        string `json:"log"`
	Known      int64  `json:"known"` // records that the checkpoint covers
	Found      int64  `json:"found"` // records that are there
	Checkpoint string `json:"checkpoint"`
}

// Key is a log's public key and the operator's word for it.
type Key struct {
	Public      string `json:"public"`      // a verifier key of C2SP signed-note
	Certificate string `json:"certificate"` // a note signed by the operator's key
}

// Previous is an earlier log of the node as this instance found it.
type Previous struct {
	Log        string  `json:"log"`
	State      State   `json:"state"`
	Size       int64   `json:"size"`
	Root       string  `json:"root"` // base64
	Checkpoint string  `json:"checkpoint,omitempty"`
	Repair     *Repair `json:"repair,omitempty"`
}

// State says how a log was left.
type State string

// The states of a log.
const (
	StateClosed  State = "closed"  // it ends with agent.stop
	StateUnclean State = "unclean" // its agent was killed
	StateLive    State = "live"    // its agent is running
)

// Repair says what a killed agent left unfinished, and was cut off.
type Repair struct {
	LeafBytes  int64 `json:"leaf_bytes"`
	ValueBytes int64 `json:"value_bytes"`
	Lines      int64 `json:"lines"` // lines begun or whole that no checkpoint covered and that could not be read
}
