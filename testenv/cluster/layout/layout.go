// Package layout says where the cluster's things are: its addresses, its names
// and the files of its state folder.
package layout

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// The cluster's names and addresses. They are fixed, so that one cluster runs on
// a machine at a time, and tests and documents may spell them out.
const (
	Node      = "node1"
	APIServer = "https://10.200.0.2:6443"
	Issuer    = "https://kubernetes.default.svc.cluster.local"
	DNS4      = "10.96.0.10"
	DNS6      = "fd00:10:96::a"

	// HostLink is the machine's end of the cable to the node; NodeLink is the node's.
	HostLink = "postern-node"
	NodeLink = "eth0"

	// NodeCgroup holds the node's own processes, PodCgroup its pods (the kubelet's
	// choice of name), and StrayCgroup what was started through ctr.
	NodeCgroup  = "postern-node"
	PodCgroup   = "kubepods"
	StrayCgroup = "k8s.io"

	// Inside is where the node sees the state folder.
	Inside = "/run/cluster"
)

// The addresses of both ends of the cable, and what pods and Services get.
var (
	Host4     = netip.MustParsePrefix("10.200.0.1/24")
	Host6     = netip.MustParsePrefix("fd00:10:200::1/64")
	Node4     = netip.MustParsePrefix("10.200.0.2/24")
	Node6     = netip.MustParsePrefix("fd00:10:200::2/64")
	Pods4     = netip.MustParsePrefix("10.244.0.0/24")
	Pods6     = netip.MustParsePrefix("fd00:10:244::/64")
	Services4 = netip.MustParsePrefix("10.96.0.0/16")
	Services6 = netip.MustParsePrefix("fd00:10:96::/112")
	// The API server's own Service.
	Kubernetes4 = netip.MustParseAddr("10.96.0.1")
	Kubernetes6 = netip.MustParseAddr("fd00:10:96::1")
)

// The images that are built here and found in the node; none comes from a
// registry.
const (
	ImageProduct  = "localhost/postern:dev"
	ImageWorkload = "localhost/postern-workload:dev"
	ImageDNS      = "localhost/postern-coredns:dev"
	ImagePause    = "localhost/postern-pause:dev"
)

// Dir is the state folder.
//
//	bin/ images/   what is built; survives down
//	containerd/    containerd's store, for its images; survives down
//	log/           one file a program; survives down, until the next up
//	pki/ node/     the running cluster's; gone after down
//	kubeconfig     cluster-admin's, usable on the machine
//	cluster.json   [Facts]
type Dir string

// Path is the path of a file in the folder.
func (d Dir) Path(elements ...string) string {
	return filepath.Join(append([]string{string(d)}, elements...)...)
}

// Facts are what tests need to know of a running cluster.
type Facts struct {
	Node       string   `json:"node"`
	Pid        int      `json:"pid"` // the node's first process, in the machine's numbering
	APIServer  string   `json:"apiServer"`
	Issuer     string   `json:"issuer"`
	Kubeconfig string   `json:"kubeconfig"`
	CA         string   `json:"ca"`
	Logs       string   `json:"logs"`
	NodeIPs    []string `json:"nodeIPs"`
	HostIPs    []string `json:"hostIPs"` // the machine's, as the node and pods reach it
	PodCIDRs   []string `json:"podCIDRs"`
	Services   []string `json:"serviceCIDRs"`
	CgroupRoot string   `json:"cgroupRoot"` // of cgroup v2, on the machine and in the node
	PodCgroups string   `json:"podCgroups"`
	BootID     string   `json:"bootID"`
	ProxyMode  string   `json:"proxyMode"`
	Images     []string `json:"images"`
}

// WriteFacts replaces the file with the facts of the running cluster.
func (d Dir) WriteFacts(f Facts) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	draft := d.Path("cluster.json.new")
	if err := os.WriteFile(draft, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, d.Path("cluster.json"))
}

// ReadFacts reads what [Dir.WriteFacts] wrote.
//
// Errors: [os.ErrNotExist] when no cluster is up.
func (d Dir) ReadFacts() (Facts, error) {
	var f Facts
	text, err := os.ReadFile(d.Path("cluster.json"))
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("parse %s: %w", d.Path("cluster.json"), err)
	}
	return f, nil
}
