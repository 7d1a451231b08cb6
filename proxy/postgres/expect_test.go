package postgres

import (
	"errors"
	"strings"
	"testing"

	"postern.dev/postern/internal/sql"
)

// script is a text with statements of these kinds.
func script(statements ...*sql.Statement) *statement {
	return newStatement("text", &sql.Script{Statements: statements})
}

func mustPush(t *testing.T, q *queue, e *expected) *expected {
	t.Helper()
	skipped, err := q.push(e)
	if err != nil || skipped {
		t.Fatalf("got skipped=%v, %v, want the reply to be expected", skipped, err)
	}
	return e
}

func TestNamesMeanWhatTheServerSaidLast(t *testing.T) {
	q := newQueue()
	first, second := script(), script()
	mustPush(t, q, &expected{reply: replyParse, name: "p", statement: first})
	if st, pending := q.statement("p"); st != first || pending {
		t.Errorf("got another meaning within a batch (pending=%v), want the one that was just parsed", pending)
	}
	mustPush(t, q, &expected{reply: replySync})
	if _, pending := q.statement("p"); !pending {
		t.Error("got a meaning behind a Sync, want to wait: Parse may have failed")
	}
	q.answer()
	if st, pending := q.statement("p"); st != first || pending {
		t.Errorf("got no meaning (pending=%v) after ParseComplete, want the one that was parsed", pending)
	}
	if _, err := q.ready('I'); err != nil {
		t.Fatal(err)
	}

	mustPush(t, q, &expected{reply: replyParse, name: "p", statement: second})
	mustPush(t, q, &expected{reply: replySync})
	q.fail() // 42P05, the name is taken
	if st, pending := q.statement("p"); st != first || pending {
		t.Errorf("got the statement that failed (pending=%v), want the one before", pending)
	}
}

func TestPrepareAndDeallocateOfSQLShareTheNames(t *testing.T) {
	q := newQueue()
	inner := &sql.Statement{Words: []string{sql.Delete}}
	run := func(statements ...*sql.Statement) {
		e := mustPush(t, q, &expected{reply: replyQuery, statement: script(statements...), request: &request{}})
		e.answered = true
		for range statements {
			q.complete(e)
		}
		if _, err := q.ready('I'); err != nil {
			t.Fatal(err)
		}
	}
	run(&sql.Statement{Kind: sql.Other}, &sql.Statement{Kind: sql.Prepare, Name: "p", Inner: inner})
	if st, _ := q.statement("p"); st == nil || st.script.Statements[0] != inner {
		t.Errorf("got %v for a prepared name, want what PREPARE carries", st)
	}
	run(&sql.Statement{Kind: sql.Deallocate, Name: "p"})
	if st, _ := q.statement("p"); st != nil {
		t.Errorf("got %v for a name that is free again, want none", st)
	}
	run(&sql.Statement{Kind: sql.Prepare, Name: "p", Inner: inner}, &sql.Statement{Kind: sql.Prepare, Name: "q", Inner: inner})
	run(&sql.Statement{Kind: sql.Deallocate})
	if n := len(q.names.statements); n != 0 {
		t.Errorf("got %d names after DEALLOCATE ALL, want none", n)
	}

	mustPush(t, q, &expected{reply: replyQuery, statement: script(&sql.Statement{Kind: sql.Prepare, Name: "p", Inner: inner})})
	if _, pending := q.statement("p"); !pending {
		t.Error("got a meaning while PREPARE runs, want to wait for it")
	}
}

func TestQueryTakesUnnamedStatementAndPortal(t *testing.T) {
	q := newQueue()
	st := script()
	mustPush(t, q, &expected{reply: replyParse, statement: st})
	mustPush(t, q, &expected{reply: replyBind, portal: &portal{statement: st}})
	q.answer()
	q.answer()
	e := mustPush(t, q, &expected{reply: replyQuery, statement: script()})
	if got, pending := q.statement(""); got != nil || pending {
		t.Errorf("got %v (pending=%v) behind a Query, want no unnamed statement", got, pending)
	}
	e.answered = true
	if _, err := q.ready('T'); err != nil {
		t.Fatal(err)
	}
	if got, _ := q.statement(""); got != nil {
		t.Errorf("got %v after a Query, want no unnamed statement", got)
	}
	if got, _ := q.portal(""); got != nil {
		t.Errorf("got %v after a Query, want no unnamed portal", got)
	}
}

func TestPortalsEndWithTheTransaction(t *testing.T) {
	q := newQueue()
	p := &portal{}
	bind := func() {
		mustPush(t, q, &expected{reply: replyBind, name: "c", portal: p})
		q.answer()
		mustPush(t, q, &expected{reply: replySync})
	}
	bind()
	if _, pending := q.portal("c"); !pending {
		t.Error("got a meaning while a Sync is under way, want to wait: it may end the transaction")
	}
	if _, err := q.ready('T'); err != nil {
		t.Fatal(err)
	}
	if got, _ := q.portal("c"); got != p {
		t.Errorf("got %v in the transaction, want the portal", got)
	}
	mustPush(t, q, &expected{reply: replySync})
	if _, err := q.ready('I'); err != nil {
		t.Fatal(err)
	}
	if got, _ := q.portal("c"); got != nil {
		t.Errorf("got %v after the transaction, want no portal", got)
	}
}

func TestFailureSkipsToTheNextSync(t *testing.T) {
	q := newQueue()
	for _, r := range []reply{replyParse, replyBind, replyExecute} {
		mustPush(t, q, &expected{reply: r})
	}
	if got, want := len(q.fail()), 3; got != want {
		t.Errorf("got %d replies that will not come, want %d", got, want)
	}
	for _, r := range []reply{replyParse, replyQuery, replyExecute} {
		if skipped, err := q.push(&expected{reply: r}); !skipped || err != nil {
			t.Errorf("got a reply expected from a server that skips (%v), want none", err)
		}
	}
	mustPush(t, q, &expected{reply: replySync})
	mustPush(t, q, &expected{reply: replyQuery})
	if e, err := q.ready('I'); err != nil || e.reply != replySync {
		t.Errorf("got %v, %v, want the Sync answered", e, err)
	}
}

func TestCopyInIgnoresSyncUntilItsEnd(t *testing.T) {
	for _, row := range []struct {
		name   string
		before []reply // sent before CopyInResponse arrives
		after  []reply
	}{
		{"the client waits", nil, []reply{endOfCopy, replySync}},
		{"the client sends a Sync behind Execute", []reply{replySync}, []reply{endOfCopy, replySync}},
		{"the client sends everything at once", []reply{endOfCopy, replySync}, nil},
		{"the client sends everything at once, with a Sync", []reply{replySync, endOfCopy, replySync}, nil},
		{"the client sends a Sync in between", nil, []reply{replySync, endOfCopy, replySync}},
	} {
		t.Run(row.name, func(t *testing.T) {
			q := newQueue()
			copying := mustPush(t, q, &expected{reply: replyExecute})
			for _, r := range row.before {
				mustPush(t, q, &expected{reply: r})
			}
			if err := q.copyIn(); err != nil {
				t.Fatal(err)
			}
			for _, r := range row.after {
				if _, err := q.push(&expected{reply: r}); err != nil {
					t.Fatal(err)
				}
			}
			q.complete(copying)
			q.answer()
			if e, err := q.ready('I'); err != nil || e == nil {
				t.Errorf("got %v, %v, want the Sync behind the data answered", e, err)
			}
			if e := q.front(); e != nil {
				t.Errorf("got reply %d due, want none", e.reply)
			}
			if _, err := q.ready('I'); err == nil {
				t.Error("got a second ReadyForQuery taken, want none due")
			}
		})
	}
}

func TestCopyThatFailsMayAnswerEverySync(t *testing.T) {
	q := newQueue()
	mustPush(t, q, &expected{reply: replyExecute})
	mustPush(t, q, &expected{reply: replySync})
	if err := q.copyIn(); err != nil {
		t.Fatal(err)
	}
	q.fail()
	for range 2 { // the Sync behind Execute was not read, or it was and the client sends another
		if _, err := q.ready('I'); err == nil {
			mustPush(t, q, &expected{reply: replySync})
			continue
		}
		t.Error("got ReadyForQuery refused after a failed COPY, want it taken")
	}
}

func TestNothingButDataIsSentDuringCopy(t *testing.T) {
	early := newQueue()
	mustPush(t, early, &expected{reply: replyQuery})
	mustPush(t, early, &expected{reply: replyQuery})
	if err := early.copyIn(); !errors.Is(err, errMalformed) {
		t.Errorf("got %v for a Query that the server reads as data, want %v", err, errMalformed)
	}
	late := newQueue()
	mustPush(t, late, &expected{reply: replyQuery})
	if err := late.copyIn(); err != nil {
		t.Fatal(err)
	}
	if _, err := late.push(&expected{reply: replyQuery}); !errors.Is(err, errMalformed) {
		t.Errorf("got %v for a Query during COPY, want %v", err, errMalformed)
	}
}

func TestReadyForQueryWithoutARequestIsMalformed(t *testing.T) {
	q := newQueue()
	if _, err := q.ready('I'); !errors.Is(err, errMalformed) {
		t.Errorf("got %v, want %v", err, errMalformed)
	}
	mustPush(t, q, &expected{reply: replyQuery})
	if _, err := q.ready('I'); !errors.Is(err, errMalformed) {
		t.Errorf("got %v for a Query that nothing has answered, want %v", err, errMalformed)
	}
}

func TestWhatCannotBeReadTakesEveryName(t *testing.T) {
	q := newQueue()
	mustPush(t, q, &expected{reply: replyParse, name: "p", statement: script()})
	q.answer()
	st := script(unknown("a test"))
	e := mustPush(t, q, &expected{reply: replyQuery, statement: st})
	if _, pending := q.statement("p"); !pending {
		t.Error("got a meaning while it runs, want to wait for it")
	}
	q.complete(e)
	if got := q.names.statements["p"]; got != nil {
		t.Errorf("got %v, want no name with a meaning", got)
	}
}

func TestNamesCountWhatIsReadOfATextNotItsLength(t *testing.T) {
	n := newNames()
	for _, name := range []string{"", "a", "b"} {
		n.prepare(name, newStatement(strings.Repeat("x", 1<<20), &sql.Script{}))
		if err := n.room(); (err != nil) != (name == "b") {
			t.Errorf("got %v behind %q, want room for one tree of a megabyte of text, not for two", err, name)
		}
	}
}
