package redirect

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frameSender writes whole frames to the device.
func frameSender() (send func(frame []byte) error, err error) {
	fd, err := socket(unix.AF_PACKET, unix.SOCK_RAW, int(networkOrder(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	device, err := net.InterfaceByName("veth0")
	if err != nil {
		return nil, err
	}
	to := &unix.SockaddrLinklayer{Ifindex: device.Index}
	return func(frame []byte) error { return unix.Sendto(fd, frame, 0, to) }, nil
}

// broadcast is a frame for whoever takes it.
func broadcast(payload []byte, layers ...layer) []byte {
	frame := stack(payload, layers...)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return frame
}

func sendAll(frames ...[]byte) string {
	send, err := frameSender()
	if err != nil {
		return "socket: " + word(err)
	}
	for _, f := range frames {
		if err := send(f); err != nil {
			return word(err)
		}
	}
	return "sent"
}

func packetPieces(setting) string {
	return sendAll(
		broadcast(rawFragment(db4, 0, true), ether(typeIPv4)),
		broadcast(rawFragment(db4, 24, false), ether(typeIPv4)),
		broadcast(rawFragment6(db6), ether(typeIPv6)))
}

func packetTagged(setting) string {
	return sendAll(
		broadcast(rawSYN4(db4), ether(typeTag), tagged(0, typeIPv4)),
		broadcast(rawSYN4(db4), ether(typeTag), tagged(0, typeTag), tagged(0, typeIPv4)),
		broadcast(rawSYN4(db4), ether(typeTag), tagged(0, typeTag), tagged(0, typeTag), tagged(0, typeIPv4)))
}

// upload sends more than a segment before it reads the answer.
func upload(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Connect(fd, sockaddr(db4)); err != nil {
		return word(err)
	}
	block := make([]byte, 1<<20)
	for range 8 {
		for rest := block; len(rest) > 0; {
			n, err := unix.Write(fd, rest)
			if err != nil {
				return word(err)
			}
			rest = rest[n:]
		}
	}
	return verdict(fd, db4)
}

// udpLarge sends a datagram in several pieces.
func udpLarge(setting) string {
	fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	if err := unix.Sendto(fd, make([]byte, 9000), 0, sockaddr(other4)); err != nil {
		return word(err)
	}
	reply := make([]byte, 64)
	n, err := unix.Read(fd, reply)
	if err != nil {
		return word(err)
	}
	return string(reply[:n])
}

// packetXDP writes a frame to the device's queue through a ring.
//
// Source: Documentation/networking/af_xdp.rst; include/uapi/linux/if_xdp.h.
func packetXDP(setting) string {
	if err := sendXDP(broadcast(rawSYN4(db4), ether(typeIPv4))); err != nil {
		return word(err)
	}
	return "sent"
}

func sendXDP(frame []byte) error {
	const ring, chunk = 8, 2048
	fd, err := socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, ring*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(memory, frame)
	umem := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: uint64(len(memory)), Size: chunk}
	if err := setXDP(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&umem), unsafe.Sizeof(umem)); err != nil {
		return err
	}
	entries := uint32(ring)
	for _, option := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := setXDP(fd, option, unsafe.Pointer(&entries), unsafe.Sizeof(entries)); err != nil {
			return err
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	tx, err := unix.Mmap(fd, unix.XDP_PGOFF_TX_RING, int(offsets.Tx.Desc)+ring*16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	device, err := net.InterfaceByName("veth0")
	if err != nil {
		return err
	}
	to := &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(device.Index)}
	if err := unix.Bind(fd, to); err != nil {
		return err
	}
	// One descriptor: where in the memory, and how long.
	binary.NativeEndian.PutUint64(tx[offsets.Tx.Desc:], 0)
	binary.NativeEndian.PutUint32(tx[offsets.Tx.Desc+8:], uint32(len(frame)))
	binary.NativeEndian.PutUint32(tx[offsets.Tx.Producer:], 1)
	return unix.Sendto(fd, nil, unix.MSG_DONTWAIT, nil)
}

func setXDP(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// noOffload makes the kernel cut segments itself before they reach veth0.
//
// Source: include/uapi/linux/ethtool.h, ETHTOOL_STSO and ETHTOOL_SGSO.
func noOffload() error {
	const setTSO, setGSO = 0x1f, 0x24
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var errs []error
	for _, command := range []uint32{setTSO, setGSO} {
		value := [2]uint32{command, 0}
		request := struct {
			name  [unix.IFNAMSIZ]byte
			value *[2]uint32
			_     [16]byte
		}{value: &value}
		copy(request.name[:], "veth0")
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			errs = append(errs, os.NewSyscallError("ioctl", errno))
		}
	}
	return errors.Join(errs...)
}
