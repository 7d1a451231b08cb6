package identity

// Reason says why an identity is not proven. The list is closed, so a reason
// can be a metric's label.
type Reason string

// Every reason for which a token is refused.
const (
	Missing     Reason = "missing"     // no file, or not one that can be read
	Empty       Reason = "empty"       // nothing but white space
	TooLarge    Reason = "too-large"   // over 64 KiB
	Malformed   Reason = "malformed"   // not a signed JSON Web Token
	Unsigned    Reason = "unsigned"    // alg none
	Algorithm   Reason = "algorithm"   // a shared-secret or unknown algorithm
	Issuer      Reason = "issuer"      // of no Issuer in the policy
	Audience    Reason = "audience"    // meant for somebody else
	Expired     Reason = "expired"     // exp has passed, or is not there
	NotYetValid Reason = "not-yet"     // nbf lies ahead
	Signature   Reason = "signature"   // made by no key of the issuer
	Claims      Reason = "claims"      // the Issuer's require refuses them, or they name no user
	Unreachable Reason = "unreachable" // the issuer's keys cannot be had
)

// Error is an identity that is not proven.
//
// Shape: Message may be shown to the workload: it names neither the token's
// content nor the agent's files. The cause, for the log, is unwrapped.
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
