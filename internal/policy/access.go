package policy

// rule is a Rule, compiled.
type rule struct{}

// Name is the policy's name.
func (p *AccessPolicy) Name() string { return p.Metadata.Name }
