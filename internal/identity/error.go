package identity

// Reason says why an identity is not proven. The list is closed, so a reason
// can be a metric's label.
type Reason string

// Every reason for which a token is refused.
const (
	Missing       Reason = "missing"     // no file, or not one that can be read
	Empty         Reason = "empty"       // nothing but white space
	TooLarge      Reason = "too-large"   // over 64 KiB
	Malformed     Reason = "malformed"   // not a signed JSON Web Token
	Unsigned      Reason = "unsigned"    // alg none
	Algorithm     Reason = "algorithm"   // a shared-secret or unknown algorithm
	UnknownIssuer Reason = "issuer"      // of no Issuer in the policy
	WrongAudience Reason = "audience"    // meant for somebody else
	Expired       Reason = "expired"     // exp has passed, or is not there
	NotYetValid   Reason = "not-yet"     // nbf lies ahead
	Signature     Reason = "signature"   // made by no key of the issuer
	Claims        Reason = "claims"      // the Issuer's require refuses them, or they name no user
	Unreachable   Reason = "unreachable" // the issuer's keys cannot be had
	Unbound       Reason = "unbound"     // of the cluster, but bound to no pod
	OtherPod      Reason = "pod"         // bound to another pod than the one that connects
	OtherNode     Reason = "node"        // bound to a pod of another node
	OtherAccount  Reason = "account"     // of another namespace or service account than the pod's
)

// Error is an identity that is not proven.
//
// Shape: Message may be shown to the workload: it names neither the token's
// content nor the agent's files. The cause is for the log; it is the file
// system's, the network's or the policy's, never a parser's, which might quote
// the token.
type Error struct {
	Reason  Reason
	Message string
	cause   error
}

// Error returns the message, and the cause where there is one.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

func refuse(reason Reason, cause error) *Error {
	return &Error{Reason: reason, Message: message(reason), cause: cause}
}

// Found is the error of a reason that was found before the token came here.
func Found(reason Reason) *Error { return refuse(reason, nil) }

func message(reason Reason) string {
	switch reason {
	case Missing:
		return "the OIDC token is missing: its file is not there or cannot be read"
	case Empty:
		return "the OIDC token is empty"
	case TooLarge:
		return "the OIDC token is larger than 64 KiB"
	case Malformed:
		return "the OIDC token is not a signed JSON Web Token"
	case Unsigned:
		return "the OIDC token is not signed (algorithm none)"
	case Algorithm:
		return "the OIDC token is signed by an algorithm that is not accepted, such as one with a shared secret"
	case UnknownIssuer:
		return "the OIDC token is of an issuer that the policy does not name"
	case WrongAudience:
		return "the OIDC token is meant for another audience"
	case Expired:
		return "the OIDC token has expired"
	case NotYetValid:
		return "the OIDC token is not valid yet"
	case Signature:
		return "the OIDC token is signed by no key of its issuer"
	case Claims:
		return "the OIDC token's claims are refused by the policy"
	case Unreachable:
		return "the OIDC token cannot be verified: its issuer is out of reach"
	case Unbound:
		return "the pod's token is bound to no pod"
	case OtherPod:
		return "the pod's token is another pod's"
	case OtherNode:
		return "the pod's token is for a pod of another node"
	case OtherAccount:
		return "the pod's token is of another namespace or service account than the pod's"
	default:
		return "the identity is not proven"
	}
}
