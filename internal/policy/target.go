package policy

import "net/netip"

// hosts is a Target's hosts, parsed.
type hosts struct {
	names    []string
	addrs    []netip.Addr
	prefixes []netip.Prefix
}

// Name is the Target's name.
func (t *Target) Name() string { return t.Metadata.Name }

// Ports lists the ports of the Target.
func (t *Target) Ports() []uint16 { return nil }

// HostNames lists the hosts that are names, in lower case.
func (t *Target) HostNames() []string { return t.hosts.names }

// Addrs lists the hosts that are addresses; none is a v4-mapped one.
func (t *Target) Addrs() []netip.Addr { return t.hosts.addrs }

// Prefixes lists the hosts that are CIDRs.
func (t *Target) Prefixes() []netip.Prefix { return t.hosts.prefixes }

// ServerName is the name that the server at addr must prove.
//
// Shape: tls.serverName; else addr itself, where hosts lists it; else the one host name.
func (t *Target) ServerName(addr netip.Addr) string {
	_ = addr
	return ""
}

// Sensitive tells which columns are masked.
func (t *Target) Sensitive() *Sensitive { return &t.sensitive }
