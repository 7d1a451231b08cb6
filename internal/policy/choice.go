package policy

// A choice is a field that takes one of a few values.
type choice interface {
	// choices lists the values that work, and those that are announced but not built.
	choices() (built, planned []string)
}

// Protocol is what a Target speaks.
//
// +kubebuilder:validation:Enum=postgres
type Protocol string

// Postgres is PostgreSQL, protocol version 3.
const Postgres Protocol = "postgres"

func (Protocol) choices() (built, planned []string) {
	return []string{string(Postgres)}, []string{"kubernetes"}
}

// Answer is what the kernel does with a connection that is none to a Target.
//
// +kubebuilder:validation:Enum=refuse;pass
type Answer string

// The answers.
const (
	Refuse Answer = "refuse"
	Pass   Answer = "pass"
)

func (Answer) choices() (built, planned []string) {
	return []string{string(Refuse), string(Pass)}, nil
}

// TLSMode is how far Postern trusts the way to a server.
//
// +kubebuilder:validation:Enum=verify-full;require;disable
type TLSMode string

// The TLS modes. VerifyFull proves the server's name, Require encrypts and proves nothing.
const (
	VerifyFull TLSMode = "verify-full"
	Require    TLSMode = "require"
	Disable    TLSMode = "disable"
)

func (TLSMode) choices() (built, planned []string) {
	return []string{string(VerifyFull), string(Require), string(Disable)}, nil
}

// Source is the network namespace from which Postern dials.
//
// +kubebuilder:validation:Enum=pod;node
type Source string

// The sources: the client's pod, in a cluster only, or the node, where the agent lives.
const (
	SourcePod  Source = "pod"
	SourceNode Source = "node"
)

func (Source) choices() (built, planned []string) {
	return []string{string(SourcePod), string(SourceNode)}, nil
}

// Mask is what becomes of a sensitive value.
//
// +kubebuilder:validation:Enum=redact;null
type Mask string

// The masks.
const (
	Redact Mask = "redact"
	Null   Mask = "null"
)

func (Mask) choices() (built, planned []string) {
	return []string{string(Redact), string(Null)}, []string{"partial"}
}

// Detector is a kind of value that is found by its form.
//
// +kubebuilder:validation:Enum=email;credit-card;iban;ssn;phone;jwt;private-key;api-token
type Detector string

// The detectors.
const (
	Email      Detector = "email"       // e-mail addresses
	CreditCard Detector = "credit-card" // numbers of payment cards, by network, length and check digit
	IBAN       Detector = "iban"        // bank accounts, by country, length and check digits
	SSN        Detector = "ssn"         // US social security numbers
	Phone      Detector = "phone"       // phone numbers, international and as common countries write them
	JWT        Detector = "jwt"         // JSON Web Tokens
	PrivateKey Detector = "private-key" // private keys in PEM
	APIToken   Detector = "api-token"   // keys and tokens of clouds, version control and services, by their prefix
)

func (Detector) choices() (built, planned []string) {
	return []string{
		string(Email), string(CreditCard), string(IBAN), string(SSN), string(Phone), string(JWT), string(PrivateKey), string(APIToken),
	}, nil
}

// Mode says whether an AccessPolicy decides.
//
// +kubebuilder:validation:Enum=enforce;observe
type Mode string

// The modes.
const (
	Enforce Mode = "enforce"
	Observe Mode = "observe"
)

func (Mode) choices() (built, planned []string) {
	return []string{string(Enforce), string(Observe)}, nil
}

// Durability says which records are on the disk before what goes on.
//
// +kubebuilder:validation:Enum=strict;reply;balanced;relaxed
type Durability string

// The durabilities, the strictest first.
const (
	Strict   Durability = "strict"   // every request before it is forwarded
	Reply    Durability = "reply"    // every request before its reply is released
	Balanced Durability = "balanced" // changes and sensitive reads before the reply, others within 50 ms
	Relaxed  Durability = "relaxed"  // within 50 ms
)

func (Durability) choices() (built, planned []string) {
	return []string{string(Strict), string(Reply), string(Balanced), string(Relaxed)}, nil
}

// Record says which values enter the audit trail.
//
// +kubebuilder:validation:Enum=none;redacted;full
type Record string

// What is recorded, the strictest first: the one that keeps the fewest values.
const (
	RecordNone     Record = "none"
	RecordRedacted Record = "redacted"
	RecordFull     Record = "full"
)

func (Record) choices() (built, planned []string) {
	return []string{string(RecordNone), string(RecordRedacted), string(RecordFull)}, nil
}
