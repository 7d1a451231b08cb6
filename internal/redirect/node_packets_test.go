package redirect

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelsResetsLeaveAPod: what belongs to no socket the kernel answers itself,
// through a raw socket of its own. A server that holds a connection of which the
// pod knows nothing any more would wait for hours without it.
func TestKernelsResetsLeaveAPod(t *testing.T) {
	w := newNodeWorld(t)
	for name, row := range map[string]struct {
		server netip.AddrPort
		pod    netip.Addr
	}{
		"v4": {quiet4, here4},
		"v6": {quiet6, here6},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.db.Do(func() error {
				d := net.Dialer{
					LocalAddr: net.TCPAddrFromAddrPort(row.server), Timeout: 5 * patience(), Control: reuseAddr,
				}
				c, err := d.Dial("tcp", netip.AddrPortFrom(row.pod, 7001).String())
				if err == nil {
					c.Close()
				}
				return err
			})
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("got %v, want %v", err, unix.ECONNREFUSED)
			}
		})
	}
}
