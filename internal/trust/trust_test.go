package trust

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestClientsThatTrustTheAuthorityAcceptWhatTheyDialled(t *testing.T) {
	ca := newCA(t)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.PEM()) {
		t.Fatal("got a PEM without certificate, want one")
	}
	for _, host := range []string{
		"db.internal", "DB.Internal.", "my_db", "10.8.0.5", "::ffff:10.8.0.5", "2001:db8::5", "fe80::1%eth0",
		strings.Repeat(strings.Repeat("a", 60)+".", 4) + "example",
	} {
		t.Run(host, func(t *testing.T) {
			leaf, err := ca.Leaf(host)
			if err != nil {
				t.Fatalf("got error %v, want a certificate", err)
			}
			name, _, _ := strings.Cut(strings.TrimSuffix(host, "."), "%")
			if err := handshake(leaf, &tls.Config{RootCAs: roots, ServerName: name}); err != nil {
				t.Errorf("got handshake error %v, want none", err)
			}
			if err := handshake(leaf, &tls.Config{RootCAs: roots, ServerName: "other.example"}); err == nil {
				t.Error("got a handshake for another name, want an error")
			}
		})
	}
}

func TestLeafForNameAndAddressServesBoth(t *testing.T) {
	ca := newCA(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	leaf, err := ca.Leaf("db.internal", "10.8.0.5")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db.internal", "10.8.0.5"} {
		if err := handshake(leaf, &tls.Config{RootCAs: roots, ServerName: name}); err != nil {
			t.Errorf("got handshake error %v for %s, want none", err, name)
		}
	}
	if _, err := ca.Leaf("db.internal", "a b"); err == nil {
		t.Error("got a certificate for a name and nonsense, want an error")
	}
}

func TestOnlyNamesOfHostsGetCertificates(t *testing.T) {
	ca := newCA(t)
	for _, host := range []string{"", ".", "a..b", "*.example", "a b", "a\x00b", "ä.example", "a/b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"} {
		if _, err := ca.Leaf(host); err == nil {
			t.Errorf("got a certificate for %q, want an error", host)
		}
	}
}

func TestAuthoritySignsNoOtherAuthority(t *testing.T) {
	ca := newCA(t)
	if got, want := ca.cert.MaxPathLen, 0; got != want || !ca.cert.MaxPathLenZero {
		t.Errorf("got path length %d, want %d", got, want)
	}
	leaf, err := ca.Leaf("db.internal")
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Leaf.IsCA {
		t.Error("got a leaf that is an authority, want none")
	}
	if got, want := leaf.Leaf.SignatureAlgorithm, x509.ECDSAWithSHA256; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, ok := leaf.PrivateKey.(*ecdsa.PrivateKey); !ok {
		t.Errorf("got a %T, want an ECDSA key", leaf.PrivateKey)
	}
}

func TestNamesThatAWorkloadInventsDoNotFillTheMemory(t *testing.T) {
	ca := newCA(t)
	for i := range maxLeaves + 50 {
		if _, err := ca.Leaf(fmt.Sprintf("h%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := len(ca.leaves), maxLeaves; got != want {
		t.Errorf("got %d leaves, want %d", got, want)
	}
}

func TestLeafIsKeptAndRenewedBeforeItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t)
		first, err := ca.Leaf("db.internal")
		if err != nil {
			t.Fatal(err)
		}
		again, err := ca.Leaf("DB.internal.")
		if err != nil {
			t.Fatal(err)
		}
		if again != first {
			t.Error("got another certificate for the same name, want the one that was made")
		}
		time.Sleep(leafValidity/2 + time.Minute)
		renewed, err := ca.Leaf("db.internal")
		if err != nil {
			t.Fatal(err)
		}
		if renewed == first {
			t.Error("got the old certificate after half of its time, want a new one")
		}
	})
}

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("Postern test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func handshake(leaf *tls.Certificate, client *tls.Config) error {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go tls.Server(far, &tls.Config{Certificates: []tls.Certificate{*leaf}}).Handshake()
	return tls.Client(near, client).Handshake()
}
