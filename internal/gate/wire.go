package gate

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFrameBytes bounds a frame: 65,536 guards of some 70 bytes each.
	maxFrameBytes = 8 << 20
	// maxFrameFiles bounds the descriptors of a frame.
	maxFrameFiles = 1
	// writeTimeout is how long a peer may leave a frame unread; then it is gone.
	writeTimeout = 10 * time.Second
)

// errProtocol is a peer that does not keep to the wire's rules.
var errProtocol = errors.New("the peer breaks the protocol")

// errTooLarge is a frame that is not sent: nothing of it was.
var errTooLarge = errors.New("too large for a frame")

// link is one end of the wire. One goroutine reads; any may write.
type link struct {
	conn *net.UnixConn
	oob  []byte // room for the descriptors of one read; nil: none are taken
	buf  []byte
	from int        // buf[from:] is read and not yet used
	held []*os.File // received, and of a frame that is not complete yet

	writing sync.Mutex
}

// newLink wraps a connection. An end that takes no files ends the connection of
// a peer that sends one.
func newLink(conn *net.UnixConn, takesFiles bool) *link {
	l := &link{conn: conn}
	if takesFiles {
		l.oob = make([]byte, unix.CmsgSpace(4*maxFrameFiles))
	}
	return l
}

// read reads one frame.
//
// Shape: message and body are the caller's; so are the files.
// Errors: io.EOF between frames; errProtocol.
func (l *link) read() (message, []*os.File, error) {
	if err := l.need(4); err != nil {
		return message{}, nil, err
	}
	size := binary.BigEndian.Uint32(l.buf[l.from:])
	if size > maxFrameBytes {
		return message{}, nil, fmt.Errorf("%w: a frame of %d bytes", errProtocol, size)
	}
	l.from += 4
	if err := l.need(int(size)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return message{}, nil, err
	}
	var m message
	err := json.Unmarshal(l.buf[l.from:l.from+int(size)], &m)
	l.from += int(size)
	if err != nil {
		return message{}, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if m.Files < 0 || m.Files > len(l.held) {
		return message{}, nil, fmt.Errorf("%w: %d descriptors are announced, %d came", errProtocol, m.Files, len(l.held))
	}
	files := l.held[:m.Files:m.Files]
	l.held = l.held[m.Files:]
	return m, files, nil
}

// need reads until n bytes are there. The buffer grows with what has come and
// not with what was announced.
func (l *link) need(n int) error {
	for len(l.buf)-l.from < n {
		if l.from == len(l.buf) {
			l.buf, l.from = l.buf[:0], 0
		}
		if cap(l.buf)-len(l.buf) < 4096 {
			grown := make([]byte, len(l.buf)-l.from, max(64<<10, 2*(len(l.buf)-l.from)))
			copy(grown, l.buf[l.from:])
			l.buf, l.from = grown, 0
		}
		got, oobn, flags, _, err := l.conn.ReadMsgUnix(l.buf[len(l.buf):cap(l.buf)], l.oob)
		if oobn > 0 {
			if err := l.keep(l.oob[:oobn]); err != nil {
				return err
			}
		}
		// The kernel lets go of descriptors for which there is no room.
		if flags&unix.MSG_CTRUNC != 0 {
			return fmt.Errorf("%w: it sends descriptors", errProtocol)
		}
		if err != nil {
			return err
		}
		if got == 0 {
			return io.EOF
		}
		l.buf = l.buf[:len(l.buf)+got]
	}
	return nil
}

func (l *link) keep(oob []byte) error {
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	for _, c := range controls {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		for _, fd := range fds {
			l.held = append(l.held, os.NewFile(uintptr(fd), "received"))
		}
	}
	return nil
}

// write sends one frame, with the descriptor fd unless it is negative.
func (l *link) write(m message, body any, fd int) error {
	if body != nil {
		var err error
		if m.Body, err = json.Marshal(body); err != nil {
			return err
		}
	}
	var oob []byte
	if fd >= 0 {
		m.Files = 1
		oob = unix.UnixRights(fd)
	}
	frame, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(frame) > maxFrameBytes {
		return fmt.Errorf("%w: %s of %d bytes", errTooLarge, m.Op, len(frame))
	}
	frame = append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(frame)), uint32(len(frame))), frame...)
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if oob != nil {
		n, _, err := l.conn.WriteMsgUnix(frame, oob, nil)
		if err != nil {
			return l.broken(err)
		}
		frame = frame[n:]
	}
	if len(frame) == 0 {
		return nil
	}
	if _, err := l.conn.Write(frame); err != nil {
		return l.broken(err)
	}
	return nil
}

// broken ends a connection on which a frame may lie cut off.
func (l *link) broken(err error) error { return errors.Join(err, l.conn.Close()) }

// close ends the connection. It is called by whoever reads.
func (l *link) close() error {
	for _, f := range l.held {
		f.Close()
	}
	l.held = nil
	err := l.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
