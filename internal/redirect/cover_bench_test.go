package redirect

import (
	"io"
	"net"
	"testing"
)

// BenchmarkCoveredLink copies from a pod to a destination that is not guarded,
// through the node's end of its link.
func BenchmarkCoveredLink(b *testing.B) {
	for name, covered := range map[string]bool{"open": false, "covered": true} {
		b.Run(name, func(b *testing.B) {
			w := newLinkedWorld(b)
			if covered {
				w.covers(w.cover)
			}
			var l net.Listener
			w.do(w.db, func() (err error) { l, err = net.Listen("tcp4", other4.String()); return err })
			defer l.Close()
			go accept(l, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
			var c net.Conn
			w.do(w.here, func() (err error) { c, err = net.Dial("tcp4", other4.String()); return err })
			defer c.Close()
			block := make([]byte, 1<<20)
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCover runs the program alone on a packet that passes.
func BenchmarkCover(b *testing.B) {
	w := newLinkedWorld(b)
	frame := stack(syn4(web4), ether(typeIPv4))
	_, took, err := w.cover.objects.Cover.Benchmark(frame, 1_000_000, b.ResetTimer)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
}
