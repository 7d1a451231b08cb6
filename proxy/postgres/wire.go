package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"postern.dev/postern/proxy"
)

// Limits on what a peer may make Postern hold. A length that is claimed costs
// nothing before the bytes are there.
const (
	maxStartup     = 10_000   // bytes of a start-up packet, as the server has it (MAX_STARTUP_PACKET_LENGTH)
	maxPassword    = 64 << 10 // bytes of a message before the client is logged in
	maxStatement   = 16 << 20 // bytes of a Query or Parse
	maxControl     = 64 << 10 // bytes of a message that holds only names and numbers
	maxDescription = 16 << 20 // bytes of a RowDescription: 1,664 columns with long names
	maxText        = 16 << 20 // bytes of an error, notice, notification or parameter
	maxLogin       = 64 << 10 // bytes of a message before the server has let Postern in
	maxMaskedRow   = 64 << 20 // bytes of a DataRow that is masked; others are streamed

	clientBuffer = 16 << 10 // bytes read ahead from the client, and gathered for it
	serverBuffer = 16 << 10 // bytes read ahead from the server, and gathered for it

	startupTimeout  = 10 * time.Second // until the client has asked for a database
	strangerTimeout = 3 * time.Second  // until it says a first word to a server that nobody knows
	loginTimeout    = 30 * time.Second // until the server has let Postern in
	goodbyeTimeout  = time.Second      // to hand over the last message
	cancelTimeout   = 5 * time.Second  // to reach the server with a cancel request
)

// header is the length of a message's type and length field.
//
// Source: PostgreSQL 17 documentation, 53.1.1 Messaging Overview.
const header = 5

// errMalformed is a message that breaks the protocol. It ends the session.
var errMalformed = errors.New("malformed message")

// frame is the header of a message.
type frame struct {
	kind byte
	size int // bytes of the body
}

// reader cuts a stream into messages.
//
// Shape: what it returns is valid until its next method is called.
type reader struct {
	src  io.Reader
	idle func() error // called before a read that may block: the other side's gathered bytes are sent
	buf  []byte
	r, w int // buf[r:w] is unread

	share *proxy.Share // of the workload for which messages longer than buf are held
	held  int
}

func newReader(src io.Reader, size int, idle func() error, share *proxy.Share) *reader {
	return &reader{src: src, idle: idle, buf: make([]byte, size), share: share}
}

// letGo gives back what the last long message takes.
func (r *reader) letGo() {
	if r.held > 0 {
		r.share.Release(r.held)
		r.held = 0
	}
}

// buffered tells how much was read ahead.
func (r *reader) buffered() int { return r.w - r.r }

// next peeks at the header of the next message.
//
// Errors: io.EOF between two messages, [errMalformed] for a length that is none.
func (r *reader) next() (frame, error) {
	r.letGo()
	if err := r.fill(header); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(r.buf[r.r+1:])
	if length < 4 || length > 1<<31-1 {
		return frame{}, fmt.Errorf("%w: length %d", errMalformed, length)
	}
	return frame{kind: r.buf[r.r], size: int(length) - 4}, nil
}

// message takes the next message, header and all.
//
// Errors: [errMalformed] when its body is longer than limit, and a [*proxy.Refused]
// when the workload has its share of memory. It grows with what has arrived, not
// with what was announced.
func (r *reader) message(f frame, limit int) ([]byte, error) {
	if f.size > limit {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d are taken", errMalformed, f.size, limit)
	}
	n := header + f.size
	if n <= len(r.buf) {
		if err := r.fill(n); err != nil {
			return nil, noEOF(err)
		}
		r.r += n
		return r.buf[r.r-n : r.r], nil
	}
	var long []byte
	for len(long) < n {
		if r.buffered() == 0 {
			if err := r.fill(1); err != nil {
				return nil, noEOF(err)
			}
		}
		take := min(r.buffered(), n-len(long))
		if len(long)+take > cap(long) {
			var err error
			if long, err = r.grow(long, n); err != nil {
				return nil, err
			}
		}
		long = append(long, r.buf[r.r:r.r+take]...)
		r.r += take
	}
	return long, nil
}

// grow doubles the room of a message of n bytes. What is copied is given back at once.
func (r *reader) grow(long []byte, n int) ([]byte, error) {
	room := min(n, 2*max(len(r.buf), cap(long)))
	if refused := r.share.Hold(room - r.held); refused != nil {
		return nil, refused
	}
	r.held = room
	return append(make([]byte, 0, room), long...), nil
}

// pass hands the next n bytes to w, however many they are.
func (r *reader) pass(w io.Writer, n int) error {
	for n > 0 {
		if r.buffered() == 0 {
			if err := r.fill(1); err != nil {
				return noEOF(err)
			}
		}
		take := min(r.buffered(), n)
		if _, err := w.Write(r.buf[r.r : r.r+take]); err != nil {
			return err
		}
		r.r += take
		n -= take
	}
	return nil
}

// peek shows the first n bytes of the next message, header included.
func (r *reader) peek(n int) ([]byte, error) {
	if err := r.fill(n); err != nil {
		return nil, noEOF(err)
	}
	return r.buf[r.r : r.r+n], nil
}

// fill reads until n bytes are buffered; n is at most the buffer's size.
func (r *reader) fill(n int) error {
	if r.buffered() >= n {
		return nil
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	for r.w < n {
		if r.idle != nil {
			if err := r.idle(); err != nil {
				return err
			}
		}
		got, err := r.src.Read(r.buf[r.w:])
		r.w += got
		if err != nil && r.w < n {
			if err == io.EOF && r.w > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// noEOF keeps an end inside a message from looking like one between two.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
