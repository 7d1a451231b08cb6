package postgres

import "testing"

func TestEveryMessageTypeHasAVerdict(t *testing.T) {
	// Source: PostgreSQL 17 documentation, 53.7 Message Formats, all of them.
	for _, row := range []struct {
		name   string
		kind   byte
		client verdict
		server verdict
	}{
		{"Bind", 'B', inspect, refuse},
		{"Close | CommandComplete", 'C', inspect, inspect},
		{"Describe | DataRow", 'D', inspect, inspect},
		{"Execute | ErrorResponse", 'E', inspect, inspect},
		{"FunctionCall", 'F', inspect, refuse},
		{"CopyInResponse", 'G', refuse, inspect},
		{"Flush | CopyOutResponse", 'H', inspect, inspect},
		{"EmptyQueryResponse", 'I', refuse, inspect},
		{"BackendKeyData", 'K', refuse, refuse},
		{"NoticeResponse", 'N', refuse, inspect},
		{"NotificationResponse", 'A', refuse, inspect},
		{"Parse", 'P', inspect, refuse},
		{"Query", 'Q', inspect, refuse},
		{"Authentication", 'R', refuse, refuse},
		{"Sync | ParameterStatus", 'S', inspect, inspect},
		{"RowDescription", 'T', refuse, inspect},
		{"FunctionCallResponse", 'V', refuse, inspect},
		{"CopyBothResponse", 'W', refuse, refuse},
		{"Terminate", 'X', inspect, refuse},
		{"ReadyForQuery", 'Z', refuse, inspect},
		{"ParseComplete", '1', refuse, inspect},
		{"BindComplete", '2', refuse, inspect},
		{"CloseComplete", '3', refuse, inspect},
		{"CopyDone", 'c', inspect, inspect},
		{"CopyData", 'd', forward, inspect},
		{"CopyFail", 'f', inspect, refuse},
		{"NoData", 'n', refuse, inspect},
		{"PasswordMessage, SASLResponse, GSSResponse", 'p', refuse, refuse},
		{"PortalSuspended", 's', refuse, inspect},
		{"ParameterDescription", 't', refuse, inspect},
		{"NegotiateProtocolVersion", 'v', refuse, refuse},
		{"nothing of the protocol", 'j', refuse, refuse},
		{"nothing at all", 0, refuse, refuse},
	} {
		if got, want := fromClient[row.kind], row.client; got != want {
			t.Errorf("%s %q from the client: got %s, want %s", row.name, row.kind, got, want)
		}
		if got, want := fromServer[row.kind], row.server; got != want {
			t.Errorf("%s %q from the server: got %s, want %s", row.name, row.kind, got, want)
		}
	}
}

func TestOnlyMessagesOfTheTableAreLetThrough(t *testing.T) {
	const client, server = "BCDEFHPQSXcdf", "123ACDEGHINSTVZcdnst"
	for kind := range 256 {
		if got, want := fromClient[kind] != refuse, contains(client, byte(kind)); got != want {
			t.Errorf("%q from the client: got let through=%v, want %v", byte(kind), got, want)
		}
		if got, want := fromServer[kind] != refuse, contains(server, byte(kind)); got != want {
			t.Errorf("%q from the server: got let through=%v, want %v", byte(kind), got, want)
		}
	}
}

func contains(set string, kind byte) bool {
	for i := range len(set) {
		if set[i] == kind {
			return true
		}
	}
	return false
}

func TestEveryStartupKindHasAVerdict(t *testing.T) {
	for _, row := range []struct {
		name string
		code code
		want verdict
	}{
		{"protocol 3.0", 3 << 16, inspect},
		{"protocol 3.2", 3<<16 | 2, inspect},
		{"a minor version that is none yet", 3<<16 | 9999, inspect},
		{"SSLRequest", 80877103, inspect},
		{"GSSENCRequest", 80877104, inspect},
		{"CancelRequest", 80877102, inspect},
		{"protocol 2.0", 2 << 16, refuse},
		{"protocol 4.0", 4 << 16, refuse},
		{"the beginning of HTTP", 0x20485454, refuse},
		{"an unassigned request", 80877105, refuse},
		{"nothing", 0, refuse},
	} {
		if got := atStartup(row.code); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}
