package node

import (
	"context"
	_ "embed"
	"fmt"

	"postern.dev/postern/testenv/cluster/layout"
)

//go:embed dns.yaml
var dnsManifest []byte

// InstallDNS installs the cluster's name server.
func InstallDNS(ctx context.Context, dir layout.Dir) error {
	// Its Service must not wait for a namespace: the API server makes kube-system
	// a moment after it is ready.
	err := Await(ctx, dir, Condition{
		"the namespace kube-system", []string{"get", "namespace", "kube-system", "-o", "jsonpath={.status.phase}"}, "Active",
	})
	if err != nil {
		return err
	}
	if _, err := Kubectl(ctx, dir, dnsManifest, "apply", "--validate=false", "-f", "-"); err != nil {
		return fmt.Errorf("install the name server: %w", err)
	}
	return nil
}
