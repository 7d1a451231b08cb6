package redirect

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Source: include/uapi/linux/io_uring.h.
const (
	setupSQPoll    = 1 << 1
	enterGetEvents = 1 << 0
	enterWakeup    = 1 << 1
	offSQEs        = 0x10000000
	opConnect      = 16
	sizeofSQE      = 64
)

type uringOffsets struct {
	Head, Tail, Mask, Entries, Flags, Dropped, Array, _ uint32
	_                                                   uint64
}

type uringParams struct {
	SQEntries, CQEntries, Flags, ThreadCPU, ThreadIdle, Features, WQFD uint32
	_                                                                  [3]uint32
	SQ                                                                 uringOffsets
	CQ                                                                 struct {
		Head, Tail, Mask, Entries, Overflow, CQEs, Flags, _ uint32
		_                                                   uint64
	}
}

func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// uringDial connects by io_uring: the kernel's own thread does, with SQPOLL.
func uringDial(flags uint32) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := uringConnect(fd, flags); err != nil {
		return word(err)
	}
	return verdict(fd, db4)
}

func uringConnect(fd int, flags uint32) error {
	params := uringParams{Flags: flags, ThreadIdle: 1000}
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, pointer(&params), 0)
	if errno != 0 {
		return errno
	}
	size := max(params.SQ.Array+4*params.SQEntries, params.CQ.CQEs+16*params.CQEntries)
	shared, err := unix.Mmap(int(ring), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	sqes, err := unix.Mmap(int(ring), offSQEs, sizeofSQE, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(db4.Port()), Addr: db4.Addr().As4()}
	sqes[0] = opConnect
	binary.NativeEndian.PutUint32(sqes[4:], uint32(fd))
	binary.NativeEndian.PutUint64(sqes[8:], unix.SizeofSockaddrInet4)
	binary.NativeEndian.PutUint64(sqes[16:], uint64(pointer(to)))
	binary.NativeEndian.PutUint32(shared[params.SQ.Array:], 0)
	binary.NativeEndian.PutUint32(shared[params.SQ.Tail:], 1)
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, enterGetEvents|enterWakeup, 0, 0)
	if errno != 0 {
		return errno
	}
	for binary.NativeEndian.Uint32(shared[params.CQ.Tail:]) == 0 {
		_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 0, 1, enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
	}
	if res := int32(binary.NativeEndian.Uint32(shared[params.CQ.CQEs+8:])); res < 0 {
		return syscall.Errno(-res)
	}
	return nil
}
