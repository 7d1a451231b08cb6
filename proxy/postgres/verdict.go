package postgres

// A verdict is what becomes of a message. One without a verdict is refused.
type verdict uint8

const (
	refuse  verdict = iota // it ends the session
	forward                // its bytes are passed on, whatever their number; its place among the replies is kept
	inspect                // it is read, and passed on, changed, answered or held back
)

// String names v.
func (v verdict) String() string {
	return [...]string{"refuse", "forward", "inspect"}[v]
}

// fromClient holds every message that a client may send once it is logged in.
//
// Source: PostgreSQL 17 documentation, 53.7 Message Formats.
var fromClient = [256]verdict{
	'B': inspect, // Bind
	'C': inspect, // Close
	'D': inspect, // Describe
	'E': inspect, // Execute
	'F': inspect, // FunctionCall
	'H': inspect, // Flush
	'P': inspect, // Parse
	'Q': inspect, // Query
	'S': inspect, // Sync
	'X': inspect, // Terminate
	'c': inspect, // CopyDone
	'd': forward, // CopyData
	'f': inspect, // CopyFail
	'p': refuse,  // PasswordMessage, SASL and GSS responses: logging in is over
}

// fromServer holds every message that a server may send once Postern is logged in.
var fromServer = [256]verdict{
	'1': inspect, // ParseComplete
	'2': inspect, // BindComplete
	'3': inspect, // CloseComplete
	'A': inspect, // NotificationResponse
	'C': inspect, // CommandComplete
	'D': inspect, // DataRow
	'E': inspect, // ErrorResponse
	'G': inspect, // CopyInResponse
	'H': inspect, // CopyOutResponse
	'I': inspect, // EmptyQueryResponse
	'N': inspect, // NoticeResponse
	'S': inspect, // ParameterStatus
	'T': inspect, // RowDescription
	'V': inspect, // FunctionCallResponse
	'Z': inspect, // ReadyForQuery
	'c': inspect, // CopyDone
	'd': inspect, // CopyData
	'n': inspect, // NoData
	's': inspect, // PortalSuspended
	't': inspect, // ParameterDescription
	'K': refuse,  // BackendKeyData: its time is over
	'R': refuse,  // Authentication: its time is over
	'W': refuse,  // CopyBothResponse: replication, which is refused at start-up
	'v': refuse,  // NegotiateProtocolVersion: its time is over
}

// code is what the first eight bytes of a connection ask for.
type code uint32

// The codes of start-up packets.
//
// Source: PostgreSQL 17, src/include/libpq/pqcomm.h.
const (
	codeProtocol3 code = 3 << 16
	codeCancel    code = 1234<<16 | 5678
	codeTLS       code = 1234<<16 | 5679
	codeGSS       code = 1234<<16 | 5680
)

// atStartup says what becomes of a start-up packet. Every minor version of
// protocol 3 is taken, and told that 3.0 is spoken.
func atStartup(c code) verdict {
	switch {
	case c == codeTLS, c == codeGSS, c == codeCancel, c>>16 == 3:
		return inspect
	}
	return refuse
}
