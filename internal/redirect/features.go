package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	kernel "github.com/cilium/ebpf/features"
)

// features are what the running kernel has beyond what Postern needs.
type features struct {
	setRetval   bool // bpf_set_retval: Linux 5.18
	unixConnect bool // BPF_CGROUP_UNIX_CONNECT: Linux 6.7
	sockDestroy bool // bpf_sock_destroy: Linux 6.5
	packetNetns bool // bpf_get_netns_cookie of packets: Linux 6.15
}

// probe reads the kernel's own description of itself.
func probe() (features, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return features{}, fmt.Errorf("read the kernel's types: %w", err)
	}
	var f features
	if f.setRetval, err = hasValue(spec, "bpf_func_id", "BPF_FUNC_set_retval"); err != nil {
		return features{}, err
	}
	if f.unixConnect, err = hasValue(spec, "bpf_attach_type", "BPF_CGROUP_UNIX_CONNECT"); err != nil {
		return features{}, err
	}
	_, err = spec.AnyTypesByName("bpf_sock_destroy")
	if err != nil && !errors.Is(err, btf.ErrNotFound) {
		return features{}, err
	}
	f.sockDestroy = err == nil
	// No type tells which programs may call a helper: it is tried.
	err = kernel.HaveProgramHelper(ebpf.CGroupSKB, asm.FnGetNetnsCookie)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return features{}, fmt.Errorf("try bpf_get_netns_cookie: %w", err)
	}
	f.packetNetns = err == nil
	return f, nil
}

func hasValue(spec *btf.Spec, enum, value string) (bool, error) {
	var e *btf.Enum
	if err := spec.TypeByName(enum, &e); err != nil {
		return false, fmt.Errorf("read the kernel's enum %s: %w", enum, err)
	}
	for _, v := range e.Values {
		if v.Name == value {
			return true, nil
		}
	}
	return false, nil
}
