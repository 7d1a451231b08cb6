// Package trust is the certificate authority under which the agent speaks TLS
// to guarded clients. Its key lives in memory and ends with the agent.
package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// An authority outlives its agent: the key is gone when the agent is.
	authorityValidity = 365 * 24 * time.Hour
	leafValidity      = 24 * time.Hour
	// Certificates begin in the past, for clients in containers whose clock is late.
	backdate = 10 * time.Minute
	// A workload chooses the names it dials, so it must not fill the memory.
	maxLeaves = 256
)

// CA is a certificate authority for the names that guarded clients dial.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// NewCA makes an authority with a fresh key; name is what its certificate says.
//
// Source: keys are ECDSA P-256 with SHA-256, because the channel binding
// tls-server-end-point is a hash of the certificate by its signature's hash
// (RFC 5929 §4.1), and Ed25519 has none. The path length is 0 (RFC 5280
// §4.2.1.9): the authority signs no other one.
func NewCA(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	template, err := newTemplate(authorityValidity)
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{CommonName: name}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse authority: %w", err)
	}
	return &CA{cert: cert, key: key, leaves: make(map[string]*tls.Certificate)}, nil
}

// PEM is the authority's certificate, for clients that verify.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Leaf is a certificate for what was dialled: host names, IP addresses, or both
// where it is not known which of them the client holds the server to. Its key
// and the authority's certificate go with it.
//
// Units: valid for 24 h and made anew after half of that; the 256 latest are kept.
// Errors: a host that is neither an address nor a host name.
func (ca *CA) Leaf(hosts ...string) (*tls.Certificate, error) {
	names := make([]string, len(hosts))
	for i, host := range hosts {
		var err error
		if names[i], err = canonical(host); err != nil {
			return nil, err
		}
	}
	all := strings.Join(names, " ")
	ca.mu.Lock()
	defer ca.mu.Unlock()
	leaf, ok := ca.leaves[all]
	if ok && time.Until(leaf.Leaf.NotAfter) > leafValidity/2 {
		return leaf, nil
	}
	leaf, err := ca.sign(names)
	if err != nil {
		return nil, err
	}
	if len(ca.leaves) >= maxLeaves {
		for old := range ca.leaves { // any one
			delete(ca.leaves, old)
			break
		}
	}
	ca.leaves[all] = leaf
	return leaf, nil
}

func (ca *CA) sign(names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make leaf key: %w", err)
	}
	template, err := newTemplate(leafValidity)
	if err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
		if len(name) <= maxCommonName { // libpq before 15 looks for addresses here alone
			template.Subject.CommonName = name
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign leaf: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse leaf: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// newTemplate has what authority and leaves share: a serial number that cannot be
// guessed, and the times.
func newTemplate(validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), // never 0 (RFC 5280 §4.1.2.2)
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(validity),
	}, nil
}

const (
	maxHostName   = 253 // bytes, RFC 1123 §2.1
	maxCommonName = 64  // bytes, RFC 5280 appendix A.1, ub-common-name
)

// canonical gives every spelling of a host one name, and refuses what no
// client can verify.
func canonical(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().WithZone("").String(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "" || len(name) > maxHostName {
		return "", fmt.Errorf("name certificate: host name of %d bytes", len(host))
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Errorf("name certificate: %q is no host name", host)
		}
	}
	return name, nil
}
