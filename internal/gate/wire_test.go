package gate

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pair is a connected pair of unix sockets.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		ends[i] = conn.(*net.UnixConn)
	}
	t.Cleanup(func() { ends[0].Close(); ends[1].Close() })
	return ends[0], ends[1]
}

func TestFramesArriveWithTheirDescriptors(t *testing.T) {
	from, to := pair(t)
	sender, receiver := newLink(from, false), newLink(to, true)
	const frames = 50
	failed := make(chan error, 1)
	go func() {
		for i := range frames {
			r, w, err := os.Pipe()
			if err == nil {
				_, err = w.Write([]byte{byte(i)})
			}
			if err == nil && i%3 == 0 {
				err = sender.write(message{ID: uint64(i)}, bytes.Repeat([]byte("x"), 100_000), -1) // one without
			}
			if err == nil {
				err = sender.write(message{ID: uint64(i), Op: opArrival}, nil, int(r.Fd()))
			}
			if err = errors.Join(err, r.Close(), w.Close()); err != nil {
				failed <- err
				return
			}
		}
		failed <- from.Close()
	}()
	next := 0
	for {
		m, files, err := receiver.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Op != opArrival {
			if len(files) != 0 {
				t.Errorf("got %d descriptors with a frame of none, want none", len(files))
			}
			continue
		}
		if m.ID != uint64(next) || len(files) != 1 {
			t.Fatalf("got frame %d with %d descriptors, want frame %d with 1", m.ID, len(files), next)
		}
		got, err := io.ReadAll(files[0])
		if err != nil || len(got) != 1 || got[0] != byte(next) {
			t.Errorf("got %v, %v in the pipe of frame %d, want its number", got, err, next)
		}
		files[0].Close()
		next++
	}
	if err := <-failed; err != nil || next != frames {
		t.Errorf("got %d frames, %v, want %d", next, err, frames)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte("\x00\x00\x00\x19{\"op\":\"status\",\"files\":1}\x00\x00\x00\x02{}"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, sent []byte) {
		from, to := pair(t)
		go func() {
			from.Write(sent)
			from.Close()
		}()
		l := newLink(to, false)
		for {
			m, files, err := l.read()
			if err != nil {
				break
			}
			if len(files) != 0 {
				t.Errorf("got %d descriptors, want none", len(files))
			}
			if m.Op != opPods && m.Op != opGuard {
				continue
			}
			if pods, namespaces, left, err := decodePods(m.Body); err == nil && (len(pods) > maxPods || len(namespaces) > maxNamespaces || len(left) > maxLeftOut+1) {
				t.Errorf("got %d pods, %d namespaces, %d texts, want no more than there can be", len(pods), len(namespaces), len(left))
			}
			if g, err := decodeGuarded(m.Body); err == nil && len(g.Guards) > maxGuards {
				t.Errorf("got %d guards, want no more than %d", len(g.Guards), maxGuards)
			}
		}
		if cap(l.buf) > 64<<10+2*len(sent) {
			t.Errorf("got %d bytes of buffer for %d bytes, want no more than came", cap(l.buf), len(sent))
		}
	})
}
