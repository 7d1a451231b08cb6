package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// defaultPort is what a Target without ports has.
//
// Source: PostgreSQL 17 manual, 19.3.1, port.
const defaultPort = 5432

// maxSocketPath is the longest path of a Unix socket, in bytes.
//
// Source: unix(7), sun_path less its terminator.
const maxSocketPath = 107

// The widest CIDRs that a Target may have: what lies in one may be sent the credential.
const (
	minBits4 = 8
	minBits6 = 32
)

// hosts is a Target's hosts, parsed.
type hosts struct {
	names    []string
	addrs    []netip.Addr
	prefixes []netip.Prefix
}

// Name is the Target's name.
func (t *Target) Name() string { return t.Metadata.Name }

// Ports lists the ports of the Target.
func (t *Target) Ports() []uint16 {
	ports := make([]uint16, len(t.Spec.Ports))
	for i, port := range t.Spec.Ports {
		ports[i] = uint16(port)
	}
	return ports
}

// HostNames lists the hosts that are names, in lower case.
func (t *Target) HostNames() []string { return t.hosts.names }

// Addrs lists the hosts that are addresses; none is a v4-mapped one.
func (t *Target) Addrs() []netip.Addr { return t.hosts.addrs }

// Prefixes lists the hosts that are CIDRs.
func (t *Target) Prefixes() []netip.Prefix { return t.hosts.prefixes }

// Sensitive tells which columns are masked.
func (t *Target) Sensitive() *Sensitive { return &t.sensitive }

// ServerName is the name that the server at addr must prove.
//
// Shape: tls.serverName; else addr itself, where hosts lists it; else the one host
// name; else "", which no certificate proves.
func (t *Target) ServerName(addr netip.Addr) string {
	switch {
	case t.Spec.TLS.ServerName != "":
		return t.Spec.TLS.ServerName
	case slices.Contains(t.hosts.addrs, addr.Unmap()):
		return addr.Unmap().String()
	case len(t.hosts.names) == 1:
		return t.hosts.names[0]
	}
	return ""
}

// check fills in the defaults, compiles what Target holds and reports what is wrong with it.
func (t *Target) check(d *document) {
	spec := &t.Spec
	setDefault(&spec.UnknownHosts, Refuse)
	setDefault(&spec.OtherPorts, Pass)
	setDefault(&spec.Source, SourceNode)
	setDefault(&spec.TLS.Mode, VerifyFull)
	if spec.Protocol == "" {
		d.wrong("spec.protocol", "is missing; want postgres")
	}
	if len(spec.Hosts) == 0 {
		d.wrong("spec.hosts", "is missing; name the server as clients do, and its addresses")
	}
	for i, host := range spec.Hosts {
		if err := t.hosts.add(host); err != nil {
			d.wrong(index("spec.hosts", i), "%q %v", clip(host), err)
		}
	}
	t.checkPorts(d)
	for i, path := range spec.Sockets {
		checkSocket(d, index("spec.sockets", i), path, spec.Sockets[:i])
	}
	t.checkTLS(d)
	if c := spec.Credential; c != nil {
		switch {
		case c.File != "" && c.Client:
			d.wrong("spec.credential", "has both file and client; keep one")
		case c.File == "" && !c.Client:
			d.wrong("spec.credential", "names nothing; want {file: /path} or {client: true}")
		case c.File != "":
			checkFile(d, "spec.credential.file", c.File)
		}
	}
	t.sensitive.check(d, spec.Sensitive)
}

func (t *Target) checkPorts(d *document) {
	if len(t.Spec.Ports) == 0 {
		t.Spec.Ports = []int{defaultPort}
	}
	for i, port := range t.Spec.Ports {
		switch {
		case port < 1 || port > 65535:
			d.wrong(index("spec.ports", i), "%d is not a port; want 1 to 65535", port)
		case slices.Contains(t.Spec.Ports[:i], port):
			d.wrong(index("spec.ports", i), "%d is there twice; keep one", port)
		}
	}
}

func (t *Target) checkTLS(d *document) {
	tls := &t.Spec.TLS
	if tls.CA != nil {
		checkFile(d, "spec.tls.ca.file", tls.CA.File)
	}
	if tls.ServerName != "" {
		if _, err := netip.ParseAddr(tls.ServerName); err != nil && !isHostName(tls.ServerName) {
			d.wrong("spec.tls.serverName", "%q is not a host name; write the name in the server's certificate", clip(tls.ServerName))
		}
	}
	if tls.Mode != VerifyFull {
		if tls.ServerName != "" {
			d.wrong("spec.tls.serverName", "contradicts mode %s, which proves no name; take one of them away", tls.Mode)
		}
		if tls.CA != nil {
			d.wrong("spec.tls.ca", "contradicts mode %s, which verifies no certificate; take one of them away", tls.Mode)
		}
		d.warn("spec.tls.mode", "%s is weaker than verified TLS: %s; every record says so", tls.Mode, weakness(tls.Mode))
		return
	}
	if tls.ServerName == "" && !d.unread("spec.tls.serverName") {
		if len(t.hosts.prefixes) > 0 {
			d.wrong("spec.tls.serverName", "is missing, and hosts has a CIDR; write the name that every server there proves")
		} else if len(t.hosts.names) > 1 {
			d.wrong("spec.tls.serverName", "is missing, and hosts has several names; write the one that the server proves")
		}
	}
}

func weakness(mode TLSMode) string {
	if mode == Disable {
		return "whoever is on the way reads and changes everything"
	}
	return "whoever is on the way can pose as the server"
}

// add parses one host.
func (h *hosts) add(host string) error {
	if strings.Contains(host, "/") {
		return h.addPrefix(host)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		if addr.Zone() != "" {
			return fmt.Errorf("has a zone; write the address without %%%s", clip(addr.Zone()))
		}
		if addr.IsUnspecified() || addr.IsMulticast() {
			return errors.New("is no server's address; write the one that clients dial")
		}
		if slices.Contains(h.addrs, addr) {
			return errors.New("is there twice; keep one")
		}
		h.addrs = append(h.addrs, addr)
		return nil
	}
	if !isHostName(host) {
		return errors.New("is neither a host name, an address nor a CIDR; ports go to spec.ports")
	}
	name := strings.ToLower(host)
	if slices.Contains(h.names, name) {
		return errors.New("is there twice; keep one")
	}
	h.names = append(h.names, name)
	return nil
}

func (h *hosts) addPrefix(host string) error {
	prefix, err := netip.ParsePrefix(host)
	switch {
	case err != nil:
		return errors.New("is not a CIDR; write it like 10.8.0.0/28")
	case prefix.Addr().Is4In6():
		return errors.New("is a v4-mapped CIDR; write it as an IPv4 one")
	case prefix != prefix.Masked():
		return fmt.Errorf("has bits beyond its length; write %s", prefix.Masked())
	case prefix.Addr().Is4() && prefix.Bits() < minBits4, prefix.Addr().Is6() && prefix.Bits() < minBits6:
		return fmt.Errorf("is too wide: Postern would log in anywhere in it; want at least /%d, with IPv6 /%d", minBits4, minBits6)
	case slices.ContainsFunc(h.prefixes, prefix.Overlaps):
		return errors.New("overlaps another CIDR of this Target; keep the wider one")
	}
	h.prefixes = append(h.prefixes, prefix)
	return nil
}

func checkSocket(d *document, at, path string, earlier []string) {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		d.wrong(at, "%q is not a clean absolute path; write it like /run/postgresql/.s.PGSQL.5432", clip(path))
	case len(path) > maxSocketPath:
		d.wrong(at, "is longer than the %d bytes of a socket's path", maxSocketPath)
	case slices.Contains(earlier, path):
		d.wrong(at, "%q is there twice; keep one", clip(path))
	}
}

// checkFile judges a path that the agent will open, which has a working directory of its own.
func checkFile(d *document, at, path string) {
	if path == "" {
		d.wrong(at, "is missing; write the file's absolute path")
	} else if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		d.wrong(at, "%q is not a clean absolute path; write it from / on", clip(path))
	}
}

func setDefault[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
