package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"postern.dev/postern/internal/metrics"
)

// alpn is the protocol name of PostgreSQL in TLS.
//
// Source: PostgreSQL 17, src/include/libpq/libpq-be.h, PG_ALPN_PROTOCOL.
const alpn = "postgresql"

// protocol30 is the only version that is spoken to clients.
const protocol30 = uint32(codeProtocol3)

// startup is what a client asks for when it connects.
type startup struct {
	version    uint32
	parameters []parameter // in the client's order
	unknown    []string    // protocol options, none of which Postern has
}

// parameter is one of a startup packet.
type parameter struct{ name, value string }

func (s *startup) get(name string) string {
	for _, p := range s.parameters {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// negotiate is the phase in which the client says what it wants: TLS, a cancel,
// or a database.
func (s *session) negotiate(ctx context.Context) (phase, error) {
	if err := s.firstWord(ctx); err != nil {
		return nil, err
	}
	for {
		packet, err := s.startupPacket()
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			return nil, refused(metrics.Protocol, stateProtocol, "the client has not asked for a database within %s", startupTimeout).because(err)
		}
		if err != nil {
			return nil, err
		}
		switch c := code(binary.BigEndian.Uint32(packet)); {
		case atStartup(c) == refuse:
			return nil, refused(metrics.Protocol, stateUnsupported, "only protocol 3 of PostgreSQL is spoken here")
		case c == codeTLS:
			if err := s.startTLS(ctx); err != nil {
				return nil, err
			}
		case c == codeGSS:
			if _, err := s.client.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		case c == codeCancel:
			return s.cancelPhase(packet[4:]), nil
		default:
			s.asked, err = parseStartup(packet)
			if err != nil {
				return nil, refused(metrics.Protocol, stateProtocol, "the startup packet is malformed").because(err)
			}
			return s.identify, nil
		}
	}
}

// firstWord waits for the client to begin. On a port that means PostgreSQL, at an
// address of no Target, there may be a server that speaks first: its client waits for
// a word that never comes, and is to hear soon that it is not to.
func (s *session) firstWord(ctx context.Context) error {
	if _, known := s.config.Targets.Lookup(ctx, s.conn.Origin.Dialled); known {
		return nil
	}
	ends := time.Now().Add(startupTimeout)
	s.expect(ctx, time.Now().Add(strangerTimeout))
	_, err := s.in.peek(1)
	s.expect(ctx, ends)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return refused(metrics.UnknownHost, "",
			"%s belongs to no target, and the client has said nothing for %s, as one does whose server speaks first (MySQL, SSH): ask for the address to be added to a target, or for unknownHosts: pass",
			s.conn.Origin.Dialled, strangerTimeout).because(err)
	}
	return err
}

// expect sets when the client must have read or written what it has to, unless the
// session is being ended.
func (s *session) expect(ctx context.Context, until time.Time) {
	s.client.SetDeadline(until)
	if ctx.Err() != nil {
		s.interrupt()
	}
}

// startupPacket reads a packet that has no type byte, and returns it without its length.
func (s *session) startupPacket() ([]byte, error) {
	head, err := s.in.peek(4)
	if err != nil {
		return nil, err
	}
	if head[0] == 0x16 { // a TLS handshake record: nothing that is answered here in clear could be read
		return nil, refused(metrics.Protocol, "", "direct TLS is not served: use sslnegotiation=postgres")
	}
	length := binary.BigEndian.Uint32(head)
	if length < 8 || length > maxStartup {
		return nil, refused(metrics.Protocol, stateProtocol, "these bytes are not the PostgreSQL protocol")
	}
	packet, err := s.in.peek(int(length))
	if err != nil {
		return nil, err
	}
	s.in.r += int(length)
	return packet[4:], nil
}

// startTLS answers an SSLRequest. Bytes behind the request came in clear, perhaps
// from someone in between, and must not be taken for what came inside TLS
// (CVE-2021-23214).
func (s *session) startTLS(ctx context.Context) error {
	if s.tls || s.in.buffered() > 0 {
		return refused(metrics.Protocol, stateProtocol, "there is no place here for an SSLRequest, or for what follows it")
	}
	if _, err := s.client.Write([]byte{'S'}); err != nil {
		return err
	}
	looped := false
	conn := tls.Server(s.client, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{alpn},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if looped = s.loops.meet(hello.SupportedProtos); looped {
				return nil, errLoop
			}
			if hello.ServerName != "" {
				return s.config.CA.Leaf(hello.ServerName)
			}
			// It dialled an address, or is too old to say which name: libpq does since 14.
			return s.config.CA.Leaf(s.dialledHost(ctx), s.conn.Origin.Dialled.Addr().String())
		},
	})
	if err := conn.HandshakeContext(ctx); looped {
		return refused(metrics.Loop, "", "this is Postern's own connection to a server, led back to it").because(err)
	} else if err != nil {
		return refused(metrics.Protocol, "", "TLS with the client failed").because(err)
	}
	s.client, s.tls = conn, true
	s.in = newReader(conn, clientBuffer, nil, s.conn.Share())
	return nil
}

// parseStartup reads a startup packet that begins with its version.
//
// Source: PostgreSQL 17 documentation, 53.7, StartupMessage.
func parseStartup(packet []byte) (*startup, error) {
	if len(packet) < 5 || packet[len(packet)-1] != 0 {
		return nil, fmt.Errorf("%w: no end", errMalformed)
	}
	s := &startup{version: binary.BigEndian.Uint32(packet)}
	rest := string(packet[4 : len(packet)-1])
	for rest != "" {
		name, after, ok := strings.Cut(rest, "\x00")
		if !ok || name == "" {
			return nil, fmt.Errorf("%w: parameter without an end", errMalformed)
		}
		value, after, ok := strings.Cut(after, "\x00")
		if !ok {
			return nil, fmt.Errorf("%w: parameter without a value", errMalformed)
		}
		if strings.HasPrefix(name, "_pq_.") {
			s.unknown = append(s.unknown, name)
		} else {
			s.parameters = append(s.parameters, parameter{name, value})
		}
		rest = after
	}
	return s, nil
}

// appendNegotiation appends NegotiateProtocolVersion where the client asked for
// more than protocol 3.0.
//
// Source: PostgreSQL 17 documentation, 53.7, NegotiateProtocolVersion; the
// server sends the whole version, not only its minor part.
func appendNegotiation(dst []byte, s *startup) []byte {
	if s.version == protocol30 && len(s.unknown) == 0 {
		return dst
	}
	at := len(dst)
	dst = append(dst, 'v', 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, protocol30)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.unknown)))
	for _, option := range s.unknown {
		dst = append(dst, option...)
		dst = append(dst, 0)
	}
	return endMessage(dst, at)
}

// askPassword asks the client for the password that it already has.
//
// Errors: a [*refusal] where the password could be read on its way.
func (s *session) askPassword() (string, error) {
	if !s.tls && !loopback(s.conn.Conn) {
		return "", refused(metrics.Policy, stateNotAuthorized, "this target takes the client's own password, and only inside TLS: use sslmode=require")
	}
	if _, err := s.client.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3}); err != nil {
		return "", err
	}
	f, err := s.in.next()
	if err != nil {
		return "", err
	}
	if f.kind != 'p' || f.size > maxPassword {
		return "", refused(metrics.Protocol, stateProtocol, "a password was asked for")
	}
	message, err := s.in.message(f, maxPassword)
	if err != nil {
		return "", err
	}
	password, ok := strings.CutSuffix(string(message[header:]), "\x00")
	clear(message)
	if !ok || password == "" || strings.Contains(password, "\x00") {
		return "", refused(metrics.Identity, statePasswordMandatory, "this target takes the client's own password, and none was given")
	}
	return password, nil
}

func loopback(conn net.Conn) bool {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// left tells that the client went away, rather than that something went wrong.
func left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}
