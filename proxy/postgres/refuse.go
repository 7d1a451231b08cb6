package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"postern.dev/postern/internal/metrics"
	"postern.dev/postern/proxy"
)

// SQLSTATEs of Postern's own answers.
//
// Source: PostgreSQL 17 documentation, Appendix A.
const (
	stateNoConnection      = "08001" // sqlclient_unable_to_establish_sqlconnection
	stateBroken            = "08006" // connection_failure
	stateProtocol          = "08P01" // protocol_violation
	stateUnsupported       = "0A000" // feature_not_supported
	stateNotAuthorized     = "28000" // invalid_authorization_specification
	stateDenied            = "42501" // insufficient_privilege
	stateTooManySessions   = "53300" // too_many_connections
	stateShare             = "53400" // configuration_limit_exceeded
	stateTooMuch           = "54000" // program_limit_exceeded
	stateShutdown          = "57P01" // admin_shutdown
	stateCannotConnect     = "57P03" // cannot_connect_now
	stateTrail             = "58030" // io_error
	stateSuccess           = "00000"
	stateQueryCanceled     = "57014"
	statePasswordMandatory = "28P01" // invalid_password
)

// refusal is an answer of Postern's own to a client: an ERROR, or the FATAL
// that is the session's last message.
//
// Shape: Message may be shown: names and words, no value, nothing of the inside.
type refusal struct {
	code    string
	message string
	reason  metrics.Refusal // of one before the first request
	cause   error           // for the log
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return r.message + ": " + r.cause.Error()
	}
	return r.message
}

func (r *refusal) Unwrap() error { return r.cause }

// words are the message without the name of who says it.
func (r *refusal) words() string { return strings.TrimPrefix(r.message, "postern: ") }

// because gives r the cause that the log is to show.
func (r *refusal) because(err error) *refusal {
	r.cause = err
	return r
}

// stateOf is the SQLSTATE of a refusal that is not of this protocol's making.
func stateOf(reason metrics.Refusal) string {
	switch reason {
	case metrics.Busy:
		return stateTooManySessions
	case metrics.Stale, metrics.Draining:
		return stateCannotConnect
	}
	return stateNotAuthorized
}

// turnedAway is the answer to a connection that may not become a session.
func turnedAway(r *proxy.Refused) *refusal {
	return refused(r.Reason, stateOf(r.Reason), "%s", r.Message)
}

// overShare is the answer to whoever exceeds the share of its workload, nil where
// err is something else.
func overShare(err error) *refusal {
	var turned *proxy.Refused
	if !errors.As(err, &turned) || turned.Share == "" {
		return nil
	}
	return refused(turned.Reason, stateShare, "%s", turned.Message).because(err)
}

func refused(reason metrics.Refusal, code, format string, args ...any) *refusal {
	return &refusal{reason: reason, code: code, message: "postern: " + fmt.Sprintf(format, args...)}
}

// appendError appends an ErrorResponse.
//
// Source: PostgreSQL 17 documentation, 53.8 Error and Notice Message Fields.
func appendError(dst []byte, severity, code, message, hint string) []byte {
	at := len(dst)
	dst = append(dst, 'E', 0, 0, 0, 0)
	dst = appendField(dst, 'S', severity)
	dst = appendField(dst, 'V', severity)
	dst = appendField(dst, 'C', code)
	dst = appendField(dst, 'M', message)
	if hint != "" {
		dst = appendField(dst, 'H', hint)
	}
	dst = append(dst, 0)
	return endMessage(dst, at)
}

func appendField(dst []byte, kind byte, value string) []byte {
	dst = append(dst, kind)
	dst = append(dst, value...)
	return append(dst, 0)
}

// endMessage fills in the length of the message that begins at dst[at].
func endMessage(dst []byte, at int) []byte {
	binary.BigEndian.PutUint32(dst[at+1:], uint32(len(dst)-at-1))
	return dst
}
