package redirect

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Before Linux 6.6 a program is a classifier of a queueing discipline. Those of
// the lowest number come first, and of these the one that was added last
// (net/sched/cls_bpf.c, cls_bpf_change). Handles are ours by their look; two, so
// that one can come to the front before the other goes.
const (
	classicPriority = 1
	classicHandle   = 0x706f7301
	classicSecond   = 0x706f7302
	classicName     = "postern"
)

// attachClassic does what [cover.attach] does.
func (c *cover) attachClassic(index int) error {
	if err := addClsact(index); err != nil {
		return err
	}
	filters, err := classicFilters(index)
	if err != nil {
		return err
	}
	ours, err := ourFilters(filters, "")
	if err != nil {
		return err
	}
	handle := uint32(classicHandle)
	if len(ours) > 0 {
		if handle = ours[0].Handle; ours[0] != filters[0] {
			handle ^= classicHandle ^ classicSecond
		}
	}
	if err := netlink.FilterReplace(c.filter(index, handle)); err != nil {
		return fmt.Errorf("attach cover to device %d: %w", index, err)
	}
	return deleteFilters(ours, handle)
}

// addClsact gives a device the discipline, unless it has one.
func addClsact(index int) error {
	qdisc := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add clsact to device %d: %w", index, err)
	}
	return nil
}

func (c *cover) filter(index int, handle uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: handle,
			Priority: classicPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: c.objects.Cover.FD(), Name: classicName, DirectAction: true,
	}
}

// classicFilters lists a device's classifiers of packets that come in, in their
// order.
func classicFilters(index int) ([]*netlink.BpfFilter, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	all, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil, nil // no device, or no discipline
	}
	if err != nil {
		return nil, fmt.Errorf("list classifiers of device %d: %w", index, err)
	}
	filters := make([]*netlink.BpfFilter, 0, len(all))
	for _, f := range all {
		filter, ok := f.(*netlink.BpfFilter)
		if !ok {
			filter = &netlink.BpfFilter{} // another's
		}
		if ok && filter.Id == 0 {
			continue // the head of a list
		}
		filters = append(filters, filter)
	}
	return filters, nil
}

// ourFilters are those whose program is ours, of one node or, if podsPath is empty,
// of any.
func ourFilters(filters []*netlink.BpfFilter, podsPath string) ([]*netlink.BpfFilter, error) {
	var ours []*netlink.BpfFilter
	for _, f := range filters {
		if f.Handle != classicHandle && f.Handle != classicSecond {
			continue
		}
		found, err := ourCovers([]ebpf.ProgramID{ebpf.ProgramID(f.Id)})
		if err != nil {
			return nil, err
		}
		closeAll(found)
		if len(found) > 0 && (podsPath == "" || found[0].podsPath == podsPath) {
			ours = append(ours, f)
		}
	}
	return ours, nil
}

// deleteFilters deletes all but the one with the handle. A device that is gone
// took them along.
func deleteFilters(filters []*netlink.BpfFilter, but uint32) error {
	for _, f := range filters {
		if f.Handle == but {
			continue
		}
		err := netlink.FilterDel(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("detach cover from device %d: %w", f.LinkIndex, err)
		}
	}
	return nil
}

// detachClassic leaves the discipline: another's classifier may have come.
func detachClassic(index int, podsPath string) error {
	filters, err := classicFilters(index)
	if err != nil {
		return err
	}
	ours, err := ourFilters(filters, podsPath)
	if err != nil {
		return err
	}
	return deleteFilters(ours, 0)
}
