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
func (t *Target) Name() string { return t.ObjectMeta.Name }

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
// name, or the one Service as "name.namespace.svc"; else "", which no certificate proves.
func (t *Target) ServerName(addr netip.Addr) string {
	switch {
	case t.Spec.TLS.ServerName != "":
		return t.Spec.TLS.ServerName
	case slices.Contains(t.hosts.addrs, addr.Unmap()):
		return addr.Unmap().String()
	case len(t.hosts.names)+len(t.Spec.Services) > 1:
		return ""
	case len(t.hosts.names) == 1:
		return t.hosts.names[0]
	case len(t.Spec.Services) == 1:
		return t.Spec.Services[0].Name + "." + t.Spec.Services[0].Namespace + ".svc"
	}
	return ""
}

// DialsFrom is the network namespace from which Postern dials for a pod.
//
// Shape: meshed tells that the pod's traffic goes through a service mesh, which
// would take what Postern dials there for the pod's own. It counts where the author
// wrote no source.
func (t *Target) DialsFrom(meshed bool) Source {
	if meshed && t.source == "" {
		return SourceNode
	}
	return t.Spec.Source
}

// Verified tells that the server is proven before a credential leaves.
func (t *Target) Verified() bool { return t.Spec.TLS.Mode == VerifyFull }

// check fills in the defaults, compiles what Target holds and reports what is wrong with it.
func (t *Target) check(d *document) {
	spec := &t.Spec
	setDefault(&spec.UnknownHosts, Refuse)
	setDefault(&spec.OtherPorts, Pass)
	setDefault(&spec.TLS.Mode, VerifyFull)
	if spec.Protocol == "" {
		d.wrong("spec.protocol", "is missing; want postgres")
	}
	if len(spec.Hosts) == 0 && len(spec.Services) == 0 && !d.unread("spec.services") {
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
	t.checkServices(d)
	t.checkTLS(d)
	t.checkSource(d)
	if spec.Exclusive {
		d.needs(Cluster, "spec.exclusive", "take it away")
	}
	if spec.Credential != nil {
		spec.Credential.check(d, "spec.credential")
	}
	t.sensitive.check(d, spec.Sensitive)
}

// check judges what a Target logs in with.
func (c *TargetCredential) check(d *document, at string) {
	switch {
	case c.Client && (c.File != "" || c.Secret != ""):
		d.wrong(at, "has client beside a login; keep one")
	case c.File != "" || c.Secret != "":
		(&Reference{c.File, c.Secret}).check(d, at)
	case !c.Client && !d.unread(at+".file") && !d.unread(at+".secret"):
		d.wrong(at, "names nothing; want {file: /path}, in a cluster {secret: name}, or {client: true}")
	}
}

func (t *Target) checkServices(d *document) {
	for i, s := range t.Spec.Services {
		at := index("spec.services", i)
		if !isLabel(s.Namespace) {
			d.wrong(at+".namespace", "%q is not a namespace; write the Service's, there is no default", clip(s.Namespace))
		}
		if !isLabel(s.Name) {
			d.wrong(at+".name", "%q is not a Service's name; want at most 63 of a-z, 0-9 and -", clip(s.Name))
		}
		if slices.Contains(t.Spec.Services[:i], s) {
			d.wrong(at, "%s/%s is there twice; keep one", clip(s.Namespace), clip(s.Name))
		}
	}
	if len(t.Spec.Services) > 0 {
		d.needs(Cluster, "spec.services", "name the server in hosts")
	}
}

// checkSource says from where to dial. A pod with NET_RAW reads and forges packets
// in its own namespace, so that what no TLS proves never leaves from there.
func (t *Target) checkSource(d *document) {
	source := &t.Spec.Source
	t.source = *source
	switch {
	case *source == SourcePod && d.place == Host:
		d.needs(Cluster, "spec.source", "take it away")
	case *source == SourcePod && !t.Verified() && !d.unread("spec.tls.mode"):
		d.wrong("spec.source", "is pod, and tls.mode %s: a pod can read and forge what leaves its own namespace; write node, or verify-full", t.Spec.TLS.Mode)
	case *source != "":
	case d.place == Cluster && t.Verified():
		*source = SourcePod
	default:
		*source = SourceNode
	}
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
		tls.CA.check(d, "spec.tls.ca")
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
		} else if len(t.hosts.names)+len(t.Spec.Services) > 1 {
			d.wrong("spec.tls.serverName", "is missing, and the server has several names; write the one that it proves")
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

func setDefault[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
