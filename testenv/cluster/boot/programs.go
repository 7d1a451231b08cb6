package boot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"postern.dev/postern/testenv/cluster/layout"
)

// Where the node's programs and their configuration are, in the node.
const (
	bin            = "/run/bin"
	pki            = layout.Inside + "/pki"
	containerdConf = "/run/containerd/config.toml"
	kubeletConf    = "/run/kubelet.yaml"
	kubeProxyConf  = "/run/kube-proxy.yaml"

	// ContainerdSocket is where containerd listens, in the node.
	ContainerdSocket = "/run/containerd/containerd.sock"
)

// Path is the search path of the node's programs, with those of the machine
// behind the node's own.
const Path = bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Programs are the node's programs in the order of their start.
var Programs = []string{
	"containerd", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
}

// programs starts everything. containerd and etcd need nobody; the others need
// the API server.
func (n *node) programs(ctx context.Context) error {
	if err := linkPrograms(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no answer within 2 minutes"))
	defer cancel()
	s := supervisor{logs: layout.Inside + "/log", state: layout.Inside + "/node"}
	if err := s.prepare(); err != nil {
		return err
	}
	s.run("containerd", "--config", containerdConf)
	s.run("etcd", etcdFlags...)
	s.run("kube-apiserver", apiServerFlags()...)
	if err := await(ctx, "containerd", dial); err != nil {
		return err
	}
	n.report(ReportStep, StepContainerd)
	ready, err := readyz()
	if err != nil {
		return err
	}
	if err := await(ctx, "kube-apiserver", ready); err != nil {
		return err
	}
	n.report(ReportStep, "etcd and kube-apiserver")
	s.run("kube-controller-manager", controllerFlags...)
	s.run("kube-scheduler", schedulerFlags...)
	s.run("kubelet", "--config="+kubeletConf, "--kubeconfig="+pki+"/kubelet.kubeconfig",
		"--hostname-override="+layout.Node, "--node-ip="+layout.Node4.Addr().String()+","+layout.Node6.Addr().String())
	s.run("kube-proxy", "--config="+kubeProxyConf)
	return nil
}

var etcdFlags = []string{
	"--data-dir=" + layout.Inside + "/node/etcd", "--log-level=warn",
	"--unsafe-no-fsync", // the data does not outlive the machine
	"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
	"--listen-peer-urls=http://127.0.0.1:2380",
}

func apiServerFlags() []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=::", "--secure-port=6443", "--advertise-address=" + layout.Node4.Addr().String(),
		"--tls-cert-file=" + pki + "/apiserver.crt", "--tls-private-key-file=" + pki + "/apiserver.key",
		"--client-ca-file=" + pki + "/ca.crt",
		"--service-account-issuer=" + layout.Issuer,
		"--service-account-signing-key-file=" + pki + "/sa.key", "--service-account-key-file=" + pki + "/sa.pub",
		"--service-cluster-ip-range=" + layout.Services4.String() + "," + layout.Services6.String(),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate=" + pki + "/apiserver-kubelet-client.crt",
		"--kubelet-client-key=" + pki + "/apiserver-kubelet-client.key",
		"--kubelet-certificate-authority=" + pki + "/ca.crt", "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + pki + "/ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pki + "/front-proxy-client.crt",
		"--proxy-client-key-file=" + pki + "/front-proxy-client.key",
	}
}

var controllerFlags = []string{
	"--kubeconfig=" + pki + "/controller-manager.kubeconfig",
	"--authentication-kubeconfig=" + pki + "/controller-manager.kubeconfig",
	"--authorization-kubeconfig=" + pki + "/controller-manager.kubeconfig",
	"--service-account-private-key-file=" + pki + "/sa.key", "--root-ca-file=" + pki + "/ca.crt",
	"--cluster-signing-cert-file=" + pki + "/ca.crt", "--cluster-signing-key-file=" + pki + "/ca.key",
	"--use-service-account-credentials=true", "--leader-elect=false",
	// With the default of 20 a second, the first service account takes six seconds.
	"--kube-api-qps=500", "--kube-api-burst=1000",
}

var schedulerFlags = []string{
	"--kubeconfig=" + pki + "/scheduler.kubeconfig",
	"--authentication-kubeconfig=" + pki + "/scheduler.kubeconfig",
	"--authorization-kubeconfig=" + pki + "/scheduler.kubeconfig", "--leader-elect=false",
}

// linkPrograms puts knode on the search path under each of its names.
func linkPrograms() error {
	for _, name := range append([]string{"kubectl", "ctr"}, Programs...) {
		if err := os.Symlink(layout.Inside+"/bin/knode", bin+"/"+name); err != nil {
			return err
		}
	}
	const shim = "containerd-shim-runc-v2"
	return os.Symlink(layout.Inside+"/bin/"+shim, bin+"/"+shim)
}

func dial(context.Context) error {
	conn, err := net.Dial("unix", ContainerdSocket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// readyz asks the API server whether it is ready.
func readyz() (func(context.Context) error, error) {
	ca, err := os.ReadFile(pki + "/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, layout.APIServer+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET /readyz: %s", response.Status)
		}
		return nil
	}, nil
}

// await asks until ready says yes.
func await(ctx context.Context, program string, ready func(context.Context) error) error {
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w (see its file in the log folder)", program, context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
