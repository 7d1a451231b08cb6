package audit

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// filled returns a record with something in every field.
func filled(t testing.TB) *Record {
	t.Helper()
	r := new(Record)
	fill(t, reflect.ValueOf(r).Elem())
	r.Time = time.Date(2026, 11, 23, 15, 43, 0, 123456789, time.UTC)
	return r
}

func fill(t testing.TB, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for _, f := range v.Fields() {
			fill(t, f)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0))
		fill(t, v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"zebra", "ant"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(t, e)
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	case reflect.String:
		v.SetString("ä \"\\\n\x01 7")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	default:
		t.Fatalf("got a field of kind %s, want one that this test fills", v.Kind())
	}
}

func TestEncoderWritesWhatEncodingJSONWrites(t *testing.T) {
	empty := &Record{Time: time.Date(2026, 11, 23, 15, 43, 0, 123456789, time.UTC), Request: &Request{
		Operations: []string{}, Relations: []string{}, Functions: []string{},
	}}
	for name, r := range map[string]*Record{"every field": filled(t), "no field": empty} {
		t.Run(name, func(t *testing.T) {
			s := &seal{text: r.Request.Text, parameters: r.Request.Parameters}
			var want bytes.Buffer
			e := json.NewEncoder(&want)
			e.SetEscapeHTML(false)
			if err := e.Encode(r); err != nil {
				t.Fatal(err)
			}
			got := string(appendRecord(nil, r, s)) + "\n"
			if got != want.String() {
				t.Errorf("got  %s\nwant %s", got, want.String())
			}
		})
	}
}

func TestEncoderBoundsWhatAClientChooses(t *testing.T) {
	r := filled(t)
	long := strings.Repeat("\x01", 1<<20)
	r.Claimed = &Claimed{ApplicationName: long, Traceparent: long, UserAgent: long, User: long}
	r.Request.Truncated = false
	r.Request.Relations = nil
	for range 1 << 16 {
		r.Request.Relations = append(r.Request.Relations, long[:63])
	}
	got := appendRecord(nil, r, new(seal))
	if len(got) > maxLeafBytes {
		t.Fatalf("got a line of %d bytes, want at most %d", len(got), maxLeafBytes)
	}
	back, err := decodeLeaf(got)
	if err != nil {
		t.Fatal(err)
	}
	if !back.Request.Truncated {
		t.Error("got truncated false, want true: relations were left out")
	}
	if got, want := len(back.Request.Relations), 256; got != want {
		t.Errorf("got %d relations, want %d", got, want)
	}
}

func TestEncoderNeverWritesInvalidText(t *testing.T) {
	for name, s := range map[string]string{
		"invalid UTF-8": "a\xff\xc3", "cut in a character": strings.Repeat("a", maxStringBytes-1) + "ä",
		"controls": "\x00\x1b[31m\x7f", "quotes": `"\`,
	} {
		t.Run(name, func(t *testing.T) {
			e := encoder{buf: []byte("[")}
			e.quote(s)
			var back []string
			if err := json.Unmarshal(append(e.buf, ']'), &back); err != nil {
				t.Fatalf("got %s: %v, want JSON", e.buf, err)
			}
			if got, want := strings.TrimSuffix(back[0], "…"), string([]rune(s)); !strings.HasPrefix(want, got) {
				t.Errorf("got %q, want a beginning of %q", got, want)
			}
		})
	}
}

// schema compiles the schema of records.
func schema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("record.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("record.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// valid complains about a line that is not as the schema says.
func valid(t testing.TB, s *jsonschema.Schema, line []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestEveryKindValidates(t *testing.T) {
	s := schema(t)
	request := &Record{Session: NewID(), Seq: 1, Request: &Request{Text: "select 1"}, Decision: &Decision{Action: "allow", Hash: "sha256:0"}}
	previous := &Previous{Log: "n1/x", State: StateUnclean, Root: new(edge).root().String(), Repair: &Repair{Lines: 1}}
	parts := map[Kind]*Record{
		KindAgentStart: {}, KindAgentStop: {}, KindAgentReload: {},
		KindAgentAttach:   {Event: &Event{Detail: map[string]string{"run": "7"}}},
		KindAgentArm:      {Event: &Event{Detail: map[string]string{"unarmed_us": "0"}}},
		KindAgentDetach:   {Event: &Event{}},
		KindAgentDegraded: {Event: &Event{Reason: "policy"}},
		KindSessionOpen:   {Session: NewID(), Workload: &Workload{Token: &Token{}}, Target: &Target{}, Claimed: &Claimed{}},
		KindSessionClose:  {Session: NewID(), Outcome: &Outcome{Status: StatusOK}},
		KindRequest:       request,
		KindOutcome:       {RequestID: NewID(), RequestLog: "n1/x", Outcome: &Outcome{Status: StatusUnknown}},
		KindCancel:        {Session: NewID()},
		KindRefusal:       {Refusal: &Refusal{Reason: "token-expired"}},
		KindCredential:    {Credential: &Credential{Source: "secret orders-login", Targets: []string{"orders-db"}, Event: "fetched"}, StaleUS: 60e6},
		KindPolicy:        {Policy: &Policy{Hash: "sha256:0", Files: []string{"policy.yaml"}}},
		KindLedger:        {Ledger: &Ledger{}},
		KindLoss:          {Loss: &Loss{Log: "n1/x"}},
		KindKey:           {Key: &Key{}},
		KindPrevious:      {Previous: previous},
	}
	for kind, r := range parts {
		t.Run(string(kind), func(t *testing.T) {
			r.Kind, r.ID, r.Log, r.Node, r.Agent = kind, NewID(), "n1/20261123T154300.000Z-00", "n1", "0.1.0"
			var values seal
			values.take(r, defaultValueBytes)
			line := appendRecord(nil, r, &values)
			if err := valid(t, s, line); err != nil {
				t.Errorf("got %v, want %s valid", err, line)
			}
			line = bytes.Replace(line, []byte(`"node"`), []byte(`"extra":1,"node"`), 1)
			if valid(t, s, line) == nil {
				t.Errorf("got %s valid, want an unknown key refused", line)
			}
		})
	}
	for _, kind := range schemaKinds(t) {
		if parts[kind] == nil {
			t.Errorf("got kind %q in the schema without a row here, want one", kind)
		}
	}
}

func schemaKinds(t testing.TB) []Kind {
	t.Helper()
	var s struct {
		Properties struct {
			Kind struct{ Enum []Kind }
		}
	}
	if err := json.Unmarshal(Schema, &s); err != nil {
		t.Fatal(err)
	}
	return s.Properties.Kind.Enum
}

func TestIDsAreUUIDsThatSortByTime(t *testing.T) {
	before := NewID()
	time.Sleep(2 * time.Millisecond)
	after := NewID()
	if before >= after {
		t.Errorf("got %s before %s, want them in order", before, after)
	}
	if len(before) != 36 || before[14] != '7' || !strings.ContainsRune("89ab", rune(before[19])) {
		t.Errorf("got %s, want a UUID of version 7", before)
	}
}
