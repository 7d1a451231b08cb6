package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"postern.dev/postern/internal/policy"
)

// This file makes messages of messages, and does nothing else.

// cutString takes a NUL-terminated string off the front of body.
func cutString(body []byte) (text string, rest []byte, ok bool) {
	before, after, ok := bytes.Cut(body, []byte{0})
	return string(before), after, ok
}

// maxName is the length of a name of which the server takes nothing for granted:
// it finds statements and portals by their first 63 bytes, so that a longer name
// could mean to it what another one means here.
//
// Source: PostgreSQL 17, NAMEDATALEN in src/include/pg_config_manual.h, and the
// hash tables of src/backend/commands/prepare.c and src/backend/utils/mmgr/portalmem.c.
const maxName = 63 // bytes

// cutName is cutString for the name of a statement or portal.
func cutName(body []byte) (name string, rest []byte, ok bool) {
	name, rest, ok = cutString(body)
	return name, rest, ok && len(name) <= maxName
}

// readTarget reads the body of a Describe or Close.
func readTarget(body []byte) (portal bool, name string, err error) {
	if len(body) < 2 || body[0] != 'S' && body[0] != 'P' {
		return false, "", fmt.Errorf("%w: neither a statement nor a portal is named", errMalformed)
	}
	name, rest, ok := cutName(body[1:])
	if !ok || len(rest) != 0 {
		return false, "", fmt.Errorf("%w: no name, or one that is too long", errMalformed)
	}
	return body[0] == 'P', name, nil
}

// readBind reads the head of a Bind whose body has size bytes: its names, and its
// values as the trail may show them. What lies behind the head is the server's to judge.
//
// Source: PostgreSQL 17 documentation, 53.7, Bind.
func readBind(head []byte, size int, mode policy.Record) (portal, name string, p parameters, err error) {
	portal, rest, ok := cutName(head)
	name, rest, okToo := cutName(rest)
	if !ok || !okToo {
		return "", "", p, fmt.Errorf("%w: Bind has no names, or too long ones", errMalformed)
	}
	b := bindReader{rest: rest, whole: len(head) == size}
	formats := b.shorts()
	count := b.count()
	for i := 0; i < count && b.err == nil && !b.short; i++ {
		binary := len(formats) == 1 && formats[0] != 0 || i < len(formats) && formats[i] != 0
		value, null := b.value()
		if b.err != nil || b.short || mode == policy.RecordNone {
			continue
		}
		text := show(i+1, value, null, binary, mode)
		p.shown = append(p.shown, text)
		p.bytes += len(text)
	}
	p.truncated = b.short
	b.shorts() // formats of the result
	if b.err == nil && !b.short && len(b.rest) != 0 {
		b.err = fmt.Errorf("%w: Bind is longer than its values", errMalformed)
	}
	return portal, name, p, b.err
}

// bindReader reads numbers and values until the bytes, or those that are there, end.
type bindReader struct {
	rest  []byte
	whole bool // rest ends where the message does
	short bool // the rest of the message was not looked at
	err   error
}

// take gives the next n bytes.
func (b *bindReader) take(n int) []byte {
	switch {
	case b.err != nil || b.short:
		return nil
	case n <= len(b.rest):
		taken := b.rest[:n]
		b.rest = b.rest[n:]
		return taken
	case b.whole:
		b.err = fmt.Errorf("%w: Bind is cut off", errMalformed)
	default:
		b.short = true
	}
	return nil
}

func (b *bindReader) count() int {
	if n := b.take(2); n != nil {
		return int(binary.BigEndian.Uint16(n))
	}
	return 0
}

func (b *bindReader) shorts() []uint16 {
	raw := b.take(2 * b.count())
	shorts := make([]uint16, len(raw)/2)
	for i := range shorts {
		shorts[i] = binary.BigEndian.Uint16(raw[2*i:])
	}
	return shorts
}

func (b *bindReader) value() (value []byte, null bool) {
	raw := b.take(4)
	if raw == nil {
		return nil, false
	}
	n := int32(binary.BigEndian.Uint32(raw))
	if n == -1 {
		return nil, true
	}
	if n < 0 {
		b.err = fmt.Errorf("%w: Bind has a value of negative length", errMalformed)
		return nil, false
	}
	return b.take(int(n)), false
}

// serverError is what of an ErrorResponse or NoticeResponse decides about it.
type serverError struct {
	severity string
	code     string
	inner    bool // it was raised in a function, which may have chosen every word of it
	placed   bool // it points into the client's own text
}

// fatal tells that the server ends the session.
func (e serverError) fatal() bool { return e.severity == "FATAL" || e.severity == "PANIC" }

// readError reads the body of an ErrorResponse or NoticeResponse.
//
// Source: PostgreSQL 17 documentation, 53.8 Error and Notice Message Fields.
func readError(body []byte) (e serverError, err error) {
	err = eachField(body, func(kind byte, value []byte) {
		switch kind {
		case 'V': // never translated
			e.severity = string(value)
		case 'C':
			e.code = string(value)
		case 'W', 'q':
			e.inner = true
		case 'P':
			e.placed = true
		}
	})
	return e, err
}

// eachField goes through the fields of an ErrorResponse or NoticeResponse.
func eachField(body []byte, each func(kind byte, value []byte)) error {
	for len(body) > 0 && body[0] != 0 {
		end := bytes.IndexByte(body[1:], 0)
		if end < 0 {
			return fmt.Errorf("%w: a field of an error has no end", errMalformed)
		}
		each(body[0], body[1:1+end])
		body = body[end+2:]
	}
	if len(body) != 1 {
		return fmt.Errorf("%w: an error has no end", errMalformed)
	}
	return nil
}

// plain tells that an error's message holds words of the client's own text and
// names, and no value of a row. Everything that looks a name up may do so for a
// value, when it runs: what it does not find shows then.
//
// Source: PostgreSQL 17, src/backend/utils/errcodes.txt, and where each is raised.
func (e serverError) plain() bool {
	if e.inner || !standard(e.code) {
		return false
	}
	switch e.code {
	case "42501", "42P03", "42P05", "42P06", "42P07": // no right, and names that are taken
		return true
	}
	switch e.code[:2] {
	case "08", "0A", "25", "26", "28", "34", "40", "53", "54", "55", "57":
		return true
	case "3D", "3F", "42":
		return e.placed
	}
	return false
}

// raised is the SQLSTATE in place of one that a function has made up.
const raised = "P0001" // raise_exception

// withhold appends an ErrorResponse or NoticeResponse without what may hold a
// value of a row: detail, hint, context, query, and most messages.
func withhold(dst, message []byte) ([]byte, error) {
	body := message[header:]
	e, err := readError(body)
	if err != nil {
		return dst, err
	}
	if !standard(e.code) {
		e.code = raised
	}
	at := len(dst)
	dst = append(dst, message[0], 0, 0, 0, 0)
	err = eachField(body, func(kind byte, value []byte) {
		switch kind {
		case 'C':
			dst = appendField(dst, kind, e.code)
		case 'M':
			if !e.plain() {
				value = []byte("error text withheld by policy (SQLSTATE " + e.code + ")")
			}
			dst = appendField(dst, kind, string(value))
		case 'S', 'V', 'P', 'F', 'L', 'R':
			dst = appendField(dst, kind, string(value))
		case 's', 't', 'c', 'd', 'n':
			if !e.inner {
				dst = appendField(dst, kind, string(value))
			}
		}
	})
	return endMessage(append(dst, 0), at), err
}

// withoutPayload appends a NotificationResponse whose payload is empty.
//
// Source: PostgreSQL 17 documentation, 53.7, NotificationResponse.
func withoutPayload(dst, body []byte) ([]byte, error) {
	if len(body) < 4 {
		return dst, fmt.Errorf("%w: NotificationResponse", errMalformed)
	}
	channel, rest, ok := cutString(body[4:])
	if _, rest, okToo := cutString(rest); !ok || !okToo || len(rest) != 0 {
		return dst, fmt.Errorf("%w: NotificationResponse", errMalformed)
	}
	at := len(dst)
	dst = append(dst, 'A', 0, 0, 0, 0)
	dst = append(dst, body[:4]...)
	dst = append(dst, channel...)
	return endMessage(append(dst, 0, 0), at), nil
}

// A refused message is replaced by one of its kind that the server is sure to
// refuse: what is true of a transaction, of a pipeline and of its rest stays so
// on both sides. The server's log shows which record it belongs to.

// poisonText is no SQL.
func poisonText(record string) string { return "postern: refused, see record " + record }

func poisonQuery(record string) []byte {
	dst := append([]byte{'Q', 0, 0, 0, 0}, poisonText(record)...)
	return endMessage(append(dst, 0), 0)
}

func poisonParse(name, record string) []byte {
	dst := append([]byte{'P', 0, 0, 0, 0}, name...)
	dst = append(dst, 0)
	dst = append(dst, poisonText(record)...)
	return endMessage(append(dst, 0, 0, 0), 0)
}

// poisonExecute names a portal that nobody has bound: the record's ID is new.
func poisonExecute(record string) []byte {
	dst := append([]byte{'E', 0, 0, 0, 0}, "postern refused "+record...)
	return endMessage(append(dst, 0, 0, 0, 0, 0), 0)
}

// poisonCall calls the function 0, which there is none of.
func poisonCall() []byte {
	return []byte{'F', 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

// describePortal asks what the rows of a portal will be.
func describePortal(name string) []byte {
	dst := append([]byte{'D', 0, 0, 0, 0, 'P'}, name...)
	return endMessage(append(dst, 0), 0)
}

// show writes a bound value as the trail may hold it.
func show(n int, value []byte, null, binary bool, mode policy.Record) string {
	at := "$" + strconv.Itoa(n) + ": "
	switch {
	case null:
		return at + "NULL"
	case mode != policy.RecordFull:
		return at + strconv.Itoa(len(value)) + " bytes"
	case binary:
		return at + fmt.Sprintf(`'\x%x'`, value)
	}
	return at + quote(strings.ToValidUTF8(string(value), "\uFFFD"), '\'')
}
