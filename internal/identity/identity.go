// Package identity says who a guarded workload is: the Linux user that the
// kernel saw, or the subject of an OIDC token whose signature was verified.
package identity

import "time"

// How an [Identity] was proven, as a record names it.
const (
	Kernel = "kernel" // the kernel's facts about the process
	Signed = "token"  // an OIDC token, its signature and claims verified
)

// Identity is who a workload is, and how that was proven.
//
// Shape: User and Groups are qualified by where they come from, "linux:ada" or
// "ci:acme/reports". Token is nil unless Verified is [Signed]. A zero Expires
// does not expire; otherwise the session has to end then.
type Identity struct {
	User     string
	Groups   []string
	Verified string
	Token    *Token
	Expires  time.Time
	// Without is why there is no token, of a pod that should have one; nil: it
	// never had, or it has one.
	Without *Error
}

// Token names the token that proved an identity. It holds nothing secret.
type Token struct {
	Issuer  string // iss
	Subject string // sub
	ID      string // jti, empty when the issuer gives none
}

// Linux is the identity of a Linux user whom the kernel itself named.
func Linux(user string, groups []string) Identity {
	qualified := make([]string, 0, len(groups))
	for _, group := range groups {
		qualified = append(qualified, "linux:"+group)
	}
	return Identity{User: "linux:" + user, Groups: qualified, Verified: Kernel}
}
