package postgres

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"postern.dev/postern/internal/sql"
	"postern.dev/postern/proxy"
)

// newMemory gives a pod's share of that much memory, and asks whether so much of it is free.
func newMemory(bytes int64) (share *proxy.Share, free func(int) bool) {
	share = proxy.NewShares(proxy.Limits{Memory: bytes}).Of("pod")
	return share, func(n int) bool {
		refused := share.Hold(n)
		if refused == nil {
			share.Release(n)
		}
		return refused == nil
	}
}

func TestLongMessageIsHeldUntilTheNext(t *testing.T) {
	const limit = 1 << 20
	share, free := newMemory(limit)
	long := message('Q', bytes.Repeat([]byte{'x'}, limit/2)...)
	in := newReader(bytes.NewReader(append(bytes.Clone(long), 'S', 0, 0, 0, 4)), 64, nil, share)
	f, err := in.next()
	if err != nil {
		t.Fatal(err)
	}
	got, err := in.message(f, limit)
	if err != nil || !bytes.Equal(got, long) {
		t.Fatalf("got %d bytes, %v, want the message", len(got), err)
	}
	if free(limit - len(long) + 1) {
		t.Error("got more memory free than the message leaves, want it held")
	}
	if _, err := in.next(); err != nil {
		t.Fatal(err)
	}
	if !free(limit) {
		t.Error("got memory held for a message that is over, want it given back")
	}
}

func TestMessagesBeyondTheShareAreRefusedAsTheyArrive(t *testing.T) {
	const limit = 1 << 20
	share, free := newMemory(limit)
	head := message('Q', bytes.Repeat([]byte{'x'}, limit)...)
	in := newReader(bytes.NewReader(head), 64, nil, share)
	f, err := in.next()
	if err != nil {
		t.Fatal(err)
	}
	_, err = in.message(f, 2*limit)
	if over := overShare(err); over == nil || over.code != stateShare || !strings.Contains(over.message, "share of memory") {
		t.Errorf("got %v, want it refused for the share of memory", err)
	}
	in.letGo()
	if !free(limit) {
		t.Error("got memory held at the end, want it given back")
	}
}

func TestSessionsTakeMemoryForOneTextOnce(t *testing.T) {
	const limit = 1 << 20
	share, free := newMemory(limit)
	script := &sql.Script{Statements: []*sql.Statement{{}}}
	st := newStatement(strings.Repeat("x", limit/100), script)
	var sessions []*queue
	for range 3 {
		q := newQueue()
		q.share, q.names.share = share, share
		for _, e := range []*expected{{reply: replyParse, name: "p", statement: st}, {reply: replyBind, name: "b", portal: &portal{parameters: parameters{bytes: 1000}}}} {
			if _, err := q.push(e); err != nil {
				t.Fatal(err)
			}
			q.answer()
		}
		sessions = append(sessions, q)
	}
	if want := limit - st.size() - 3*1000; !free(want) || free(want+1) {
		t.Errorf("got another amount free than %d, want the text taken once and the parameters each time", want)
	}
	if _, err := sessions[0].push(&expected{reply: replyBind, portal: &portal{parameters: parameters{bytes: limit}}}); !errors.As(err, new(*proxy.Refused)) {
		t.Errorf("got %v for parameters beyond the share, want it refused", err)
	}
	for _, q := range sessions {
		q.rest()
	}
	if !free(limit) {
		t.Error("got memory held when all sessions had ended, want it given back")
	}
}
