package postgres

import (
	"postern.dev/postern/internal/credential"
	"postern.dev/postern/internal/policy"
)

// loginOf is where a login lies; nowhere, where it is the client's own.
func loginOf(c policy.TargetCredential) credential.Reference {
	return credential.Reference{File: c.File, Secret: c.Secret}
}

// reference is where something that a policy names lies.
func reference(f *policy.Reference) credential.Reference {
	return credential.Reference{File: f.File, Secret: f.Secret}
}
