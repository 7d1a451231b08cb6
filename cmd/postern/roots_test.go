package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// TestRootsAreThereWithoutASystem is run again as in Postern's image, where no
// file of certificates is.
func TestRootsAreThereWithoutASystem(t *testing.T) {
	const nowhere = "/nowhere"
	if os.Getenv("SSL_CERT_FILE") != nowhere {
		cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+nowhere, "SSL_CERT_DIR="+nowhere)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("got %v, want roots:\n%s", err, out)
		}
		return
	}
	pool, err := x509.SystemCertPool()
	if err != nil || pool.Equal(x509.NewCertPool()) {
		t.Errorf("got %v and an empty pool, want roots to prove public servers by", err)
	}
}
