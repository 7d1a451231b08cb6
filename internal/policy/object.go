package policy

// APIVersion is the version of the objects that this package reads.
const APIVersion = "postern.dev/v1alpha1"

// Metadata names an object.
//
// Here and below, the tag planned lists keys that are announced but not built: Load
// refuses them as such, and other keys as unknown.
type Metadata struct {
	_    struct{} `planned:"labels annotations"`
	Name string   `json:"name"`
}

// Target is what is protected, and how Postern itself gets in.
//
// Shape: as [Load] returns it, checked and with its defaults filled in; it must not be changed.
type Target struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   Metadata   `json:"metadata"`
	Spec       TargetSpec `json:"spec"`

	hosts     hosts
	sensitive Sensitive
	digest    digest
}

// TargetSpec describes a Target.
type TargetSpec struct {
	_            struct{}          `planned:"services clientPassword exclusive"`
	Protocol     Protocol          `json:"protocol"`               // postgres
	Hosts        []string          `json:"hosts"`                  // names, addresses and CIDRs; the only ones that Postern dials
	Ports        []int             `json:"ports,omitempty"`        // 5432 where absent
	Sockets      []string          `json:"sockets,omitempty"`      // paths of the server's unix sockets on this machine; refused
	UnknownHosts Answer            `json:"unknownHosts,omitempty"` // refuse (default) or pass: the Target's ports on addresses of no Target
	OtherPorts   Answer            `json:"otherPorts,omitempty"`   // pass (default) or refuse: other ports on the Target's addresses
	TLS          TLS               `json:"tls,omitzero"`
	Credential   *TargetCredential `json:"credential,omitempty"`
	Sensitive    []SensitiveRule   `json:"sensitive,omitempty"`
	Source       Source            `json:"source,omitempty"` // node (default): dial from the agent's own namespace
}

// TLS says how Postern proves the server to which it dials.
type TLS struct {
	Mode       TLSMode  `json:"mode,omitempty"`       // verify-full (default), require or disable
	ServerName string   `json:"serverName,omitempty"` // that the certificate must prove; needed with a CIDR or several names
	CA         *FileRef `json:"ca,omitempty"`         // absent: the system's
}

// FileRef names a file by its absolute path.
type FileRef struct {
	_    struct{} `planned:"secret"`
	File string   `json:"file"` // absolute path
}

// TargetCredential says what Postern logs in with: a file, or what the client presents.
type TargetCredential struct {
	_      struct{} `planned:"secret"`
	File   string   `json:"file,omitempty"`   // absolute path of {username, password}
	Client bool     `json:"client,omitempty"` // log in with what the client presents
}

// SensitiveRule masks the values of columns.
type SensitiveRule struct {
	_       struct{} `planned:"detect"`
	Columns []string `json:"columns"` // "public.users.email": one column; "*.ssn": that column of any table
	Mask    Mask     `json:"mask"`    // redact or "null"
}

// AccessPolicy says who may do what on which Targets.
//
// Shape: as [Load] returns it, checked and with its defaults filled in; it must not be changed.
type AccessPolicy struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Metadata   Metadata         `json:"metadata"`
	Spec       AccessPolicySpec `json:"spec"`

	rules  []*rule
	digest digest
}

// AccessPolicySpec describes an AccessPolicy.
type AccessPolicySpec struct {
	_            struct{}   `planned:"requireInitiator unmask use aggregates limits"`
	Subjects     []Selector `json:"subjects"`               // any of them
	Targets      []string   `json:"targets"`                // by name
	Credential   *FileRef   `json:"credential,omitempty"`   // absent: the Target's
	Mode         Mode       `json:"mode,omitempty"`         // enforce (default) or observe
	RequireToken bool       `json:"requireToken,omitempty"` // the Linux user is not enough
	Durability   Durability `json:"durability,omitempty"`   // strict, reply, balanced (default) or relaxed: which records are on disk before what goes on
	Record       Record     `json:"record,omitempty"`       // full, redacted (default) or none: which values the trail holds
	Rules        []Rule     `json:"rules"`
}

// Selector chooses subjects: those that match each of its fields, by any of the field's entries.
type Selector struct {
	_      struct{} `planned:"namespaces podLabels serviceAccounts initiators"`
	Users  []string `json:"users,omitempty"`  // "<issuer>:<name>", or "linux:<name>"
	Groups []string `json:"groups,omitempty"` // "<issuer>:<name>"
}

// Rule allows or denies what it describes. A field that is absent limits nothing,
// but for Functions of an allow rule, where it allows harmless built-ins only.
type Rule struct {
	_         struct{} `planned:"maxRows groups resources namespaces"`
	Name      string   `json:"name"`
	Allow     []string `json:"allow,omitempty"`     // words and groups of words: SELECT, INSERT, DDL, READ, WRITE, ALL …
	Deny      []string `json:"deny,omitempty"`      // likewise; a rule allows or denies
	Databases []string `json:"databases,omitempty"` // names
	Relations []string `json:"relations,omitempty"` // "schema.name", either may be *
	Functions []string `json:"functions,omitempty"` // likewise, of those that SELECT does not imply
	When      string   `json:"when,omitempty"`      // CEL over statement, workload, target and now
	Reason    string   `json:"reason,omitempty"`    // told to whoever is refused
}

// Issuer says whose tokens prove an identity, and how its claims name a user.
//
// Shape: as [Load] returns it, checked; it must not be changed.
type Issuer struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Metadata   Metadata   `json:"metadata"`
	Spec       IssuerSpec `json:"spec"`

	claims claims
	digest digest
}

// IssuerSpec describes an Issuer. Username, Groups and Require are CEL over the variable claims.
type IssuerSpec struct {
	URL      string   `json:"url"`               // https; the iss of its tokens
	Audience string   `json:"audience"`          // that its tokens must be meant for
	Username string   `json:"username"`          // a string
	Groups   string   `json:"groups,omitempty"`  // a string or a list of strings
	Require  string   `json:"require,omitempty"` // a bool
	CA       *FileRef `json:"ca,omitempty"`      // absent: the system's
}
