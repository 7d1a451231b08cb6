package redirect

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"postern.dev/postern/bpf"
)

// allowMulti is BPF_F_ALLOW_MULTI: others may attach programs beside and below.
//
// Source: include/uapi/linux/bpf.h.
const allowMulti = 1 << 1

// hook is a program and where it belongs.
type hook struct {
	program string
	at      ebpf.AttachType
}

// aboveHooks belong at the run's cgroup: sockops must see both ends.
var aboveHooks = [...]hook{
	{bpf.RedirectProgSockOps, ebpf.AttachCGroupSockOps},
}

// commandHooks belong at the command's cgroup.
var commandHooks = [...]hook{
	{bpf.RedirectProgConnect4, ebpf.AttachCGroupInet4Connect},
	{bpf.RedirectProgConnect6, ebpf.AttachCGroupInet6Connect},
	{bpf.RedirectProgConnectUnix, ebpf.AttachCgroupUnixConnect},
	{bpf.RedirectProgGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{bpf.RedirectProgGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{bpf.RedirectProgBind4, ebpf.AttachCGroupInet4Bind},
	{bpf.RedirectProgBind6, ebpf.AttachCGroupInet6Bind},
	{bpf.RedirectProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.RedirectProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{bpf.RedirectProgEgress, ebpf.AttachCGroupInetEgress},
}

// rootHooks belong at the root of the hierarchy.
var rootHooks = [...]hook{
	{bpf.RedirectProgOthers4, ebpf.AttachCGroupInet4Connect},
	{bpf.RedirectProgOthers6, ebpf.AttachCGroupInet6Connect},
	{bpf.RedirectProgOthersUnix, ebpf.AttachCgroupUnixConnect},
	{bpf.RedirectProgOthersSend4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.RedirectProgOthersSend6, ebpf.AttachCGroupUDP6Sendmsg},
}

// attach attaches a collection's programs. What the collection lacks, the kernel
// has no hook for.
func attach(p place, programs *ebpf.Collection) error {
	if err := attachAll(p.run, aboveHooks[:], programs); err != nil {
		return err
	}
	if err := attachAll(p.command, commandHooks[:], programs); err != nil {
		return err
	}
	return attachAll(p.root, rootHooks[:], programs)
}

func attachAll(dir string, hooks []hook, programs *ebpf.Collection) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, h := range hooks {
		program := programs.Programs[h.program]
		if program == nil {
			continue
		}
		err := link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: int(f.Fd()), Program: program, Attach: h.at, Flags: allowMulti,
		})
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.program, dir, err)
		}
	}
	return nil
}

// detachRoot detaches the run's programs from the root.
func detachRoot(p place) error {
	command, err := cgroupID(p.command)
	if errors.Is(err, os.ErrNotExist) {
		return nil // [Clear] knows them by their command's being gone
	}
	if err != nil {
		return err
	}
	return detachWhere(p.root, func(c uint64) bool { return c == command })
}

// detachWhere detaches from the root the programs of the runs whose command's
// cgroup id the caller picks.
func detachWhere(root string, pick func(command uint64) bool) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	for _, h := range rootHooks {
		found, err := queryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: h.at})
		if h.at == ebpf.AttachCgroupUnixConnect && err != nil {
			continue // the kernel has no such hook
		}
		if err != nil {
			return fmt.Errorf("query %s: %w", root, err)
		}
		for _, attached := range found.Programs {
			errs = append(errs, detachOne(f, h, attached.ID, pick))
		}
	}
	return errors.Join(errs...)
}

func detachOne(root *os.File, h hook, id ebpf.ProgramID, pick func(uint64) bool) error {
	program, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil // detached by another meanwhile
	}
	if err != nil {
		return fmt.Errorf("open program %d: %w", id, err)
	}
	defer program.Close()
	command, ours, err := commandOf(program, h)
	if err != nil || !ours || !pick(command) {
		return err
	}
	err = link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: int(root.Fd()), Program: program, Attach: h.at,
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("detach %s: %w", h.program, err)
	}
	return nil
}

// commandOf reads from a program's own map which command it belongs to.
func commandOf(program *ebpf.Program, h hook) (command uint64, ours bool, err error) {
	info, err := program.Info()
	if err != nil || info.Name != h.program {
		return 0, false, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return 0, false, fmt.Errorf("open map %d: %w", id, err)
		}
		state, ours, err := readState(m)
		m.Close()
		if err != nil || ours {
			return state.Command, ours, err
		}
	}
	return 0, false, nil
}

func readState(m *ebpf.Map) (state bpf.RedirectRun, ours bool, err error) {
	info, err := m.Info()
	if err != nil || info.Name != bpf.RedirectMapPosternRun {
		return state, false, err
	}
	err = m.Lookup(uint32(0), &state)
	return state, err == nil, err
}
