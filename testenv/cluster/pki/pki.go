// Package pki makes a throw-away cluster's keys, certificates and kubeconfigs.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"postern.dev/postern/testenv/cluster/layout"
)

// lifetime is how long the certificates are good for.
const lifetime = 30 * 24 * time.Hour

// An authority signs with the cluster's CA and writes what it signed to dir.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// A request is one certificate: whose it is and, for a server, under which names
// and addresses.
type request struct {
	file   string
	name   string
	groups []string
	hosts  []string
}

// users are the identities that get a kubeconfig. Names and groups are the ones
// that Kubernetes' own RBAC bootstrap roles are bound to (Kubernetes 1.37, Using
// RBAC Authorization: "Core component roles", "User-facing roles").
var users = []request{
	{file: "admin", name: "cluster-admin", groups: []string{"system:masters"}},
	{file: "controller-manager", name: "system:kube-controller-manager"},
	{file: "scheduler", name: "system:kube-scheduler"},
	{file: "kubelet", name: "system:node:" + layout.Node, groups: []string{"system:nodes"}},
	{file: "kube-proxy", name: "system:kube-proxy"},
}

// Create fills dir with everything that the node's programs name in their
// flags: X.crt and X.key, sa.key and sa.pub for service account tokens (RSA, as
// most clusters have it), and X.kubeconfig.
func Create(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(dir)
	if err != nil {
		return err
	}
	if err := serviceAccountKey(dir); err != nil {
		return err
	}
	for _, r := range certificates() {
		if _, _, err := ca.issue(r); err != nil {
			return fmt.Errorf("issue %s: %w", r.file, err)
		}
	}
	for _, r := range users {
		if err := ca.kubeconfig(r); err != nil {
			return fmt.Errorf("write the kubeconfig of %s: %w", r.name, err)
		}
	}
	return nil
}

func certificates() []request {
	node := []string{layout.Node, layout.Node4.Addr().String(), layout.Node6.Addr().String()}
	server := append([]string{
		"localhost", "127.0.0.1", "::1", layout.Kubernetes4.String(), layout.Kubernetes6.String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}, node...)
	return []request{
		{file: "apiserver", name: "kube-apiserver", hosts: server},
		{file: "kubelet-server", name: layout.Node, hosts: node},
		{file: "apiserver-kubelet-client", name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{file: "front-proxy-client", name: "front-proxy-client"},
	}
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "postern-test-cluster"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, cert: cert, key: key}
	a.pem, _, err = a.write("ca", der, key)
	return a, err
}

// issue makes a key and its certificate, as files and as PEM.
func (a *authority) issue(r request) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: r.name, Organization: r.groups},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, host := range r.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if len(r.hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	return a.write(r.file, der, key)
}

func (a *authority) write(file string, der []byte, key *ecdsa.PrivateKey) (certPEM, keyPEM []byte, err error) {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM, errors.Join(
		os.WriteFile(filepath.Join(a.dir, file+".crt"), certPEM, 0o644),
		os.WriteFile(filepath.Join(a.dir, file+".key"), keyPEM, 0o600))
}

func (a *authority) kubeconfig(r request) error {
	cert, key, err := a.issue(r)
	if err != nil {
		return err
	}
	base64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {cluster: test, user: %[1]s}
clusters:
- name: test
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
`, r.file, layout.APIServer, base64(a.pem), base64(cert), base64(key))
	return os.WriteFile(filepath.Join(a.dir, r.file+".kubeconfig"), []byte(text), 0o600)
}

// serviceAccountKey writes the pair with which the API server signs tokens.
func serviceAccountKey(dir string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "sa.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(filepath.Join(dir, "sa.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))
}
