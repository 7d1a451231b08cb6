package redirect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// settle is how long a watcher waits for a change not to come alone.
const settle = 100 * time.Millisecond

// watchLinks calls changed after links of the namespace were added, changed or
// removed; once for those that come together, so that a pod which makes many has
// its share of the node's work and not more. It answers when ctx ends.
func watchLinks(ctx context.Context, netns *os.File, changed func()) error {
	var events *os.File
	err := inNetns(netns, func() (err error) { events, err = linkEvents(); return err })
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	something := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	defer events.Close()
	group.Go(func() error { return readEvents(ctx, events, something) })
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-something:
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
			changed()
		}
	})
	return group.Wait()
}

// linkEvents is a socket that the kernel tells of links of the thread's namespace.
//
// Source: rtnetlink(7), RTMGRP_LINK.
func linkEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "link events"), nil
}

// readEvents does not look into them: what there is now is asked anyway.
func readEvents(ctx context.Context, events *os.File, something chan<- struct{}) error {
	var buf [1]byte // the kernel throws away the rest of a message
	for {
		_, err := events.Read(buf[:])
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // some were lost
		case err != nil:
			return fmt.Errorf("watch links: %w", err)
		}
		select {
		case something <- struct{}{}:
		default:
		}
	}
}
