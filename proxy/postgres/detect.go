package postgres

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"postern.dev/postern/internal/mask"
	"postern.dev/postern/internal/policy"
)

// This file masks what the Target's detectors find in what the server says: rows,
// COPY, errors, notices, notifications and parameters. It needs no catalog: it does
// not matter which column or expression a value comes from.

// detection is what a session looks for in all text that it passes on. But for its
// Detectors it belongs to the server's loop.
type detection struct {
	*mask.Detectors
	names  []string // for the trail: "detect:jwt"
	counts []int64  // what was found since the last call of taken
	value  []byte   // the value that is being masked
	out    []byte   // the message that is being masked
}

// newDetection gives the detectors of a Target, nil where it has none.
func newDetection(sensitive *policy.Sensitive) (*detection, error) {
	wanted := sensitive.Detections()
	if len(wanted) == 0 {
		return nil, nil
	}
	d := &detection{counts: make([]int64, len(wanted))}
	list := make([]mask.Detector, len(wanted))
	for i, w := range wanted {
		list[i] = mask.Detector{Name: string(w.Detector), Kind: kindOf(w.Mask)}
		d.names = append(d.names, "detect:"+string(w.Detector))
	}
	var err error
	d.Detectors, err = mask.NewDetectors(list...)
	return d, err
}

// taken tells what was masked since it was last asked.
func (d *detection) taken() []maskedColumn {
	var all []maskedColumn
	for i, n := range d.counts {
		if n > 0 {
			all = append(all, maskedColumn{d.names[i], n})
			d.counts[i] = 0
		}
	}
	return all
}

// letGo gives the memory of what was long back.
func (d *detection) letGo() {
	if d == nil {
		return
	}
	if cap(d.value) > serverBuffer {
		d.value = nil
	}
	if cap(d.out) > serverBuffer {
		d.out = nil
	}
}

// plan adds to the plan of a result which columns are looked into. It is nil where
// nothing is masked, and nothing looked into.
func (d *detection) plan(p *plan, fields []field) *plan {
	if d == nil {
		return p
	}
	forms, any := make([]mask.Form, len(fields)), false
	for i, f := range fields {
		forms[i] = mask.FormOf(mask.Column{TypeOID: f.typeOID, TypeModifier: f.modifier, Binary: f.binary})
		if p != nil && p.columns[i] != nil {
			forms[i] = mask.Opaque
		}
		any = any || forms[i] != mask.Opaque
	}
	if !any {
		return p
	}
	if p == nil {
		p = &plan{
			columns: make([]mask.Func, len(fields)), masks: make([]string, len(fields)), cells: make([]int64, len(fields)),
			bare: true,
		}
	}
	p.forms, p.detection = forms, d
	for _, form := range forms {
		p.escapes = p.escapes || form == mask.JSON || form == mask.JSONB || form == mask.Array
	}
	return p
}

// mayFind tells whether the values of a row are worth a look each: letters of JSON
// can be written as escapes.
func (p *plan) mayFind(body []byte) bool {
	return p.forms != nil && (p.detection.Suspects(body) ||
		p.escapes && (bytes.Contains(body, []byte(`\u`)) || bytes.Contains(body, []byte(`\/`))))
}

// note tells a request what was found in its answer, or before it. In the balanced
// mode nothing more of the answer is then released before the record is durable.
func (s *session) note(q *request) {
	if s.detection == nil {
		return
	}
	found := s.detection.taken()
	if len(found) == 0 {
		return
	}
	if q == nil {
		for _, m := range found {
			s.config.Metrics.Masked(s.target.Name(), int(m.cells))
		}
		return
	}
	q.count(found)
	if q.awaits {
		q.awaits, q.held = false, true
		s.hold(q)
	}
}

// askedFor is the request whose answer is due, nil where there is none.
func (s *session) askedFor() *request {
	if e := s.queue.front(); e != nil {
		return e.request
	}
	return nil
}

// copied masks a row of COPY: CopyData has one row each.
//
// Source: PostgreSQL 17 documentation, 53.2.6 COPY Operations.
func (d *detection) copied(message []byte, binaryRows bool) []byte {
	body := message[header:]
	if !d.Suspects(body) {
		return message
	}
	if binaryRows {
		d.copiedFields(body)
		return message
	}
	out, found := d.Mask(append(d.out[:0], 'd', 0, 0, 0, 0), body, d.counts)
	if !found {
		return message
	}
	d.out = out
	return endMessage(out, 0)
}

// copySignature begins the binary form of COPY; flags and the length of an extension follow.
//
// Source: PostgreSQL 17 documentation, COPY, Binary Format.
const copySignature = "PGCOPY\n\xff\r\n\x00"

// copiedFields masks the fields of a row in binary COPY in place, whatever their types are.
func (d *detection) copiedFields(row []byte) {
	if bytes.HasPrefix(row, []byte(copySignature)) && len(row) >= len(copySignature)+8 {
		row = row[len(copySignature)+4:]
		row = row[min(len(row), 4+int(binary.BigEndian.Uint32(row))):]
	}
	if len(row) < 2 {
		return
	}
	for row = row[2:]; len(row) >= 4; {
		n := int32(binary.BigEndian.Uint32(row))
		row = row[4:]
		if n < 0 {
			continue
		}
		size := min(int(n), len(row))
		d.inPlace(row[:size])
		row = row[size:]
	}
}

// inPlace puts stars over what is found in bytes of an unknown form.
func (d *detection) inPlace(value []byte) {
	var found bool
	if d.value, found, _ = d.MaskValue(d.value[:0], value, mask.Fixed, d.counts); found {
		copy(value, d.value)
	}
}

// errorText masks the texts of an ErrorResponse or NoticeResponse.
//
// Errors: [errMalformed] for a body that is none.
func (d *detection) errorText(message []byte) ([]byte, error) {
	if !d.Suspects(message[header:]) {
		return message, nil
	}
	out := append(d.out[:0], message[0], 0, 0, 0, 0)
	err := eachField(message[header:], func(kind byte, value []byte) {
		out = append(out, kind)
		switch kind {
		case 'S', 'V', 'C', 'P', 'p', 'F', 'L', 'R':
			out = append(out, value...)
		default:
			out = d.text(out, value)
		}
		out = append(out, 0)
	})
	d.out = append(out, 0)
	return endMessage(d.out, 0), err
}

// text appends a text with what is found in it redacted.
func (d *detection) text(dst, value []byte) []byte {
	dst, found := d.Mask(dst, value, d.counts)
	if !found {
		dst = append(dst, value...)
	}
	return dst
}

// notification masks the payload of a NotificationResponse.
//
// Errors: [errMalformed] for a body that is none.
func (d *detection) notification(message []byte) ([]byte, error) {
	body := message[header:]
	if !d.Suspects(body) {
		return message, nil
	}
	if len(body) < 4 {
		return nil, fmt.Errorf("%w: NotificationResponse", errMalformed)
	}
	channel, payload, ok := bytes.Cut(body[4:], []byte{0})
	if !ok || len(payload) == 0 || bytes.IndexByte(payload, 0) != len(payload)-1 {
		return nil, fmt.Errorf("%w: NotificationResponse", errMalformed)
	}
	out := append(d.out[:0], 'A', 0, 0, 0, 0)
	out = append(out, body[:4]...)
	out = append(d.text(out, channel), 0)
	d.out = append(d.text(out, payload[:len(payload)-1]), 0)
	return endMessage(d.out, 0), nil
}

// parameter masks the value of a ParameterStatus, whose name and value were read.
func (d *detection) parameter(message []byte, name, value string) []byte {
	if !d.Suspects(message[header:]) {
		return message
	}
	out := append(append(d.out[:0], 'S', 0, 0, 0, 0), name...)
	d.out = append(d.text(append(out, 0), []byte(value)), 0)
	return endMessage(d.out, 0)
}

// called masks the result of a FunctionCall, whose type nobody says.
func (d *detection) called(message []byte) {
	if body := message[header:]; len(body) > 4 {
		d.inPlace(body[4:])
	}
}

// forTrail is a text as a record may hold it that is to hold no values: names, too, can be ones.
func (d *detection) forTrail(text string) string {
	if d == nil || text == "" {
		return text
	}
	if masked, found := d.Mask(nil, []byte(text), nil); found {
		return string(masked)
	}
	return text
}

// allForTrail is forTrail for a list, which is not changed.
func (d *detection) allForTrail(texts []string) []string {
	if d == nil {
		return texts
	}
	masked := make([]string, len(texts))
	for i, text := range texts {
		masked[i] = d.forTrail(text)
	}
	return masked
}
