package policy

import (
	"errors"
	"time"
)

// ErrNoCredential tells that neither a matching policy nor the Target names a credential.
var ErrNoCredential = errors.New("no policy and no target names a credential")

// CredentialConflict tells that two matching policies name different credentials.
type CredentialConflict struct {
	Target string
	First  string // policy
	Second string // policy
}

func (e *CredentialConflict) Error() string { return "" }

// Request is what a client asks for in one message.
type Request struct {
	Database   string
	User       string // of the database
	Statements []Statement
	Now        time.Time // for conditions; zero: a condition that reads it fails
}

// Statement is what one statement does.
type Statement struct {
	Words       []string // every word that applies
	Unknown     string   // why it cannot be told; not empty: the statement is UNKNOWN whatever else it says
	Relations   []Relation
	Functions   []Function
	HasWhere    bool // every UPDATE and DELETE in it has a WHERE
	ReturnsRows bool
}

// Relation is a table, view or sequence. Schema is "" where the caller could not resolve it.
type Relation struct{ Schema, Name string }

// Function is a function that a statement calls. Schema is "" where the caller could not resolve it.
type Function struct {
	Schema, Name string
	Builtin      bool // a harmless built-in: comes with SELECT
}

// Action is what becomes of a request. The zero Action is Deny.
type Action uint8

// The actions.
const (
	Deny Action = iota
	Allow
)

// String gives the word that the audit trail uses.
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// Decision is the answer to a [Request].
type Decision struct {
	Action Action
	Policy string // that decided; "" when no rule did and several policies, or only observed ones, match
	Rule   string // that decided; "" when no rule did
	Reason string // of a Deny, safe to show to the client: names and words, no values
	Would  []Verdict
}

// Verdict is what a request would have met, were a policy with mode observe enforced.
type Verdict struct {
	Policy string
	Action Action
	Rule   string
	Reason string
}

// Decide judges a request.
func (v *View) Decide(r Request) Decision {
	_ = r
	return Decision{}
}
