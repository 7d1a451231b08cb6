package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"postern.dev/postern/bpf"
)

// attachTries is how often a device is looked at again whose programs changed
// meanwhile.
const attachTries = 8

// hasTCX tells whether devices take programs by themselves: Linux 6.6.
func hasTCX() (bool, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return false, fmt.Errorf("read the kernel's types: %w", err)
	}
	return hasValue(spec, "bpf_attach_type", "BPF_TCX_INGRESS")
}

// attach makes the program the first of a device's. An earlier one of ours, of
// whatever agent, is replaced where it is first, and else removed after the new
// one has come to the front.
func (c *cover) attach(index int) error {
	var err error
	for range attachTries {
		err = c.attachOnce(index)
		if !errors.Is(err, unix.ESTALE) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("attach cover to device %d: %w", index, err)
	}
	return nil
}

func (c *cover) attachOnce(index int) error {
	found, err := queryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	ours, err := ourCovers(programIDs(found))
	if err != nil {
		return err
	}
	defer closeAll(ours)
	current, err := c.current()
	if err != nil {
		return err
	}
	options := link.RawAttachProgramOptions{
		Target: index, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(), ExpectedRevision: found.Revision,
	}
	isFirst := len(ours) > 0 && ours[0].id == found.Programs[0].ID
	isAttached := slices.ContainsFunc(ours, func(a attached) bool { return a.id == current })
	switch {
	case isFirst && ours[0].id == current:
		return detachTCX(index, ours[1:])
	case isAttached:
		if err := c.renew(); err != nil {
			return err
		}
	case isFirst:
		options.Anchor = link.ReplaceProgram(ours[0].Program)
		ours = ours[1:]
	}
	options.Program = c.objects.Cover
	if err := link.RawAttachProgram(options); err != nil {
		return err
	}
	return detachTCX(index, ours)
}

// attached is a program with the number that the kernel knows it by.
type attached struct {
	*ebpf.Program
	id       ebpf.ProgramID
	podsPath string // of its node
}

// current is the number of the program to be attached.
func (c *cover) current() (ebpf.ProgramID, error) {
	info, err := c.objects.Cover.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel does not tell the program's number")
	}
	return id, nil
}

func programIDs(found *link.QueryResult) []ebpf.ProgramID {
	ids := make([]ebpf.ProgramID, 0, len(found.Programs))
	for _, p := range found.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

// ourCovers opens those of the programs that are ours, of whatever agent.
func ourCovers(ids []ebpf.ProgramID) (ours []attached, err error) {
	for _, id := range ids {
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached by another meanwhile
		}
		if err != nil {
			closeAll(ours)
			return nil, fmt.Errorf("open program %d: %w", id, err)
		}
		is, path, err := isCover(program)
		if err != nil {
			program.Close()
			closeAll(ours)
			return nil, err
		}
		if !is {
			program.Close()
			continue
		}
		ours = append(ours, attached{program, id, path})
	}
	return ours, nil
}

func closeAll(programs []attached) {
	for _, p := range programs {
		p.Close()
	}
}

// isCover knows a program by its name and by the node's map, which says whose node
// it is.
func isCover(program *ebpf.Program) (is bool, podsPath string, err error) {
	info, err := program.Info()
	if err != nil || info.Name != bpf.TcxProgCover {
		return false, "", err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return false, "", fmt.Errorf("open map %d: %w", id, err)
		}
		info, err := m.Info()
		if err == nil && info.Name == bpf.TcxMapPosternNode {
			is = true
			_, podsPath, err = readNode(m)
		}
		m.Close()
		if err != nil || is {
			return is, podsPath, err
		}
	}
	return false, "", nil
}

// detachCover takes from a device what is ours, of one node or, if podsPath is
// empty, of any, however it is attached. A device that is gone took it along.
func detachCover(index int, podsPath string) error {
	found, err := queryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		ours, err := ourCovers(programIDs(found))
		if err != nil {
			return err
		}
		defer closeAll(ours)
		others := func(a attached) bool { return podsPath != "" && a.podsPath != podsPath }
		if err := detachTCX(index, slices.DeleteFunc(slices.Clone(ours), others)); err != nil {
			return err
		}
	}
	return detachClassic(index, podsPath)
}

func detachTCX(index int, programs []attached) error {
	for _, p := range programs {
		err := link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: index, Program: p.Program, Attach: ebpf.AttachTCXIngress,
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("detach cover from device %d: %w", index, err)
		}
	}
	return nil
}
