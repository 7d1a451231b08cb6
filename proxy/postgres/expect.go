package postgres

import (
	"fmt"
	"slices"
	"sync"

	"postern.dev/postern/proxy"
)

// maxExpected bounds the replies that are due. The server holds back at most
// 8 KiB of replies, of 5 bytes or more each, before it sends them unasked, so
// it never waits for Postern while Postern waits for it.
//
// Source: PostgreSQL 17, PQ_SEND_BUFFER_SIZE in src/backend/libpq/pqcomm.c.
const maxExpected = 4096

// maxDueBytes bounds the texts and parameters of the replies that are due.
const maxDueBytes = 32 << 20

// A reply is what answers a message.
type reply uint8

const (
	replyParse    reply = iota + 1 // ParseComplete
	replyBind                      // BindComplete
	replyDescribe                  // ParameterDescription, then RowDescription or NoData
	replyClose                     // CloseComplete
	replyExecute                   // rows or COPY, then CommandComplete, EmptyQueryResponse or PortalSuspended
	replyQuery                     // the same for each statement, then ReadyForQuery
	replyCall                      // FunctionCallResponse, then ReadyForQuery
	replySync                      // ReadyForQuery
	endOfCopy                      // none: the place of CopyDone or CopyFail
)

// expected is a reply that is due. Those who read it after it was pushed are in
// the server's loop, but for what the queue's lock guards.
type expected struct {
	reply     reply
	ours      bool       // Postern asked: the client does not see the answer
	onPortal  bool       // Close: of a portal, not a statement
	name      string     // of the statement or portal
	statement *statement // Parse: what the name is going to mean; Query and Execute: what runs
	portal    *portal    // Bind: what the name is going to mean; Execute and Describe: what it means
	request   *request   // Execute, Query, FunctionCall, and Parse when refused
	done      int        // Query: statements that are complete
	answered  bool       // something of the answer has come
	copying   bool       // CopyInResponse has come, CommandComplete not yet
	binary    bool       // the COPY that sends rows sends them in its binary form
	rows      rows       // Query: of the statement that runs
	runsCode  bool       // Bind: it may run code as Execute does, of functions that the planner folds
	planned   bool       // the rows' plan is of the catalog as it was when they began
}

// result is what is known of the rows that answer e.
func (e *expected) result() *rows {
	if e.portal != nil {
		return &e.portal.rows
	}
	return &e.rows
}

// size is how much is held in memory for e.
func (e *expected) size() int {
	n := 0
	if e.statement != nil {
		n += len(e.statement.text)
	}
	if e.portal != nil && e.reply == replyBind {
		n += e.portal.parameters.bytes
	}
	return n
}

// renames tells that e changes the meaning of names as its SQL text says, and only when that has run.
func (e *expected) renames() bool {
	return e.statement != nil && e.statement.renames && (e.reply == replyQuery || e.reply == replyExecute)
}

// alters tells that e may change a parameter in a way that its text does not show.
func (e *expected) alters() bool { return e.runsCode || e.request != nil && e.request.alters }

// lexed tells whether the next text may be read in another way than the server
// has said so far. It says so before ReadyForQuery; pending means that one is to come.
//
// Source: PostgreSQL 17, ReportChangedGUCOptions in src/backend/utils/misc/guc.c.
func (q *queue) lexed() (doubtful, pending bool) {
	doubtful = q.untold
	for _, e := range q.due {
		doubtful = doubtful || e.alters()
		pending = doubtful && (pending || e.reply == replySync || e.reply == replyQuery || e.reply == replyCall)
		if e.alters() && (e.reply == replyBind || e.reply == replyExecute) {
			pending = false // for one behind it
		}
	}
	return doubtful, pending
}

// namesStatement tells that e changes what the name of a statement means.
func (e *expected) namesStatement() bool {
	return e.reply == replyParse || e.reply == replyClose && !e.onPortal || e.renames()
}

// queue holds the replies that are due, in the order of their messages, and
// the names that the replies so far have given a meaning. The client's loop
// pushes, the server's loop answers.
type queue struct {
	mu       sync.Mutex
	moved    *sync.Cond
	due      []*expected
	bytes    int  // of the texts and parameters that due holds
	naming   int  // of due, those that change what the name of a statement means
	skipping bool // the server ignores everything before the next Sync
	copying  bool // the server takes CopyData; its end is not sent yet
	untold   bool // what ran since the last ReadyForQuery may have changed parameters that are not reported yet
	spare    int  // Syncs sent during a COPY: answered only if it fails before they are read
	closed   error
	names    names
	share    *proxy.Share // of the workload for which due is held
}

func newQueue() *queue {
	q := &queue{names: newNames()}
	q.moved = sync.NewCond(&q.mu)
	return q
}

// push adds a reply that is due. It must be called before the message is sent.
//
// Shape: skipped means that the server will ignore the message.
// Errors: [errMalformed] where the message is not allowed in a COPY, and a
// [*proxy.Refused] when the workload has its share of memory.
func (q *queue) push(e *expected) (skipped bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed != nil:
		return true, q.closed
	case q.copying && e.reply == replySync:
		q.spare++
		return true, nil
	case q.copying && e.reply == endOfCopy:
		q.copying = false
	case q.copying:
		return true, fmt.Errorf("%w: neither data nor its end during COPY", errMalformed)
	case q.skipping && e.reply == replySync:
		q.skipping = false
	case q.skipping:
		return true, nil
	}
	size := e.size()
	if refused := q.share.Hold(size); refused != nil {
		return true, refused
	}
	q.due = append(q.due, e)
	q.bytes += size
	if e.namesStatement() {
		q.naming++
	}
	return false, nil
}

// front is the reply that is due next, or nil.
func (q *queue) front() *expected {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.head()
}

// head is front under the lock. The end of a COPY that never began has no answer.
func (q *queue) head() *expected {
	for len(q.due) > 0 && q.due[0].reply == endOfCopy {
		q.remove(0)
	}
	if len(q.due) == 0 {
		return nil
	}
	return q.due[0]
}

// answer takes the front off, and gives the names in it their meaning.
func (q *queue) answer() {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.due[0]
	switch e.reply {
	case replyParse:
		q.names.prepare(e.name, e.statement)
	case replyBind:
		q.names.bind(e.name, e.portal)
	case replyClose:
		q.names.forget(e.name, e.onPortal)
	case replyExecute:
		q.endCopy(e)
	}
	q.remove(0)
}

// complete says that a statement of the front has run.
func (q *queue) complete(e *expected) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endCopy(e)
	if e.statement != nil && e.statement.renames {
		q.names.ran(e.statement, e.done)
	}
	e.done++
}

// ready says that the server waits for the next message: it answers the Sync,
// Query or FunctionCall at the front.
//
// Errors: [errMalformed] when nothing of the kind is due.
func (q *queue) ready(status byte) (e *expected, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if status == 'I' {
		q.names.endTransaction()
	}
	e = q.head()
	defer func() { q.untold = false }() // ParameterStatus comes before
	switch {
	case e != nil && e.reply == replySync, e != nil && e.answered && (e.reply == replyQuery || e.reply == replyCall):
		if e.reply == replyQuery {
			q.names.simple()
		}
		q.remove(0)
		return e, nil
	case q.spare > 0 && (e == nil || !e.answered):
		q.spare--
		q.skipping = false
		return nil, nil
	}
	return nil, fmt.Errorf("%w: ReadyForQuery without a request", errMalformed)
}

// fail says that the server ignores everything before the next Sync. It
// returns what will not be answered, the failed one first.
func (q *queue) fail() []*expected {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for n < len(q.due) && q.due[n].reply != replySync {
		n++
	}
	ignored := slices.Clone(q.due[:n])
	q.skipping = n == len(q.due)
	q.copying = false
	for range ignored {
		q.remove(0)
	}
	return ignored
}

// copyIn says that the server takes CopyData for the front, and ignores Syncs until its end.
//
// Errors: [errMalformed] when the client sent something else already.
func (q *queue) copyIn() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.due[0].copying = true
	for i := 1; i < len(q.due); {
		switch q.due[i].reply {
		case endOfCopy:
			return nil
		case replySync:
			q.spare++
			q.remove(i)
		default:
			return fmt.Errorf("%w: neither data nor its end during COPY", errMalformed)
		}
	}
	q.copying = true
	q.moved.Broadcast()
	return nil
}

// endCopy forgets where the client ended the COPY that e has finished.
func (q *queue) endCopy(e *expected) {
	if !e.copying {
		return
	}
	e.copying, q.copying, q.spare = false, false, 0
	if len(q.due) > 1 && q.due[1].reply == endOfCopy {
		q.remove(1)
	}
}

// failQuery says that the Query at the front ended early, with the COPY it may have been in.
func (q *queue) failQuery(e *expected) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.copying, q.copying = false, false
}

// full tells, under the lock, that the client has to wait.
func (q *queue) full() bool { return len(q.due) >= maxExpected || q.bytes > maxDueBytes }

// wait returns when pending, which is asked under the lock, is over. In a COPY it
// never is: the server waits for the client's data then.
func (q *queue) wait(pending func() bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.closed == nil && !q.copying && pending() {
		q.moved.Wait()
	}
	return q.closed
}

// ask is wait for the answer as it is now.
func (q *queue) ask(pending func() bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return pending()
}

// close makes everybody who waits, and who pushes, stop.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed == nil {
		q.closed = err
	}
	q.moved.Broadcast()
}

// rest is what will not be answered any more. The session remembers nothing then.
func (q *queue) rest() []*expected {
	q.mu.Lock()
	defer q.mu.Unlock()
	due := q.due
	q.due = nil
	q.share.Release(q.bytes)
	q.bytes = 0
	q.names.discard()
	return due
}

// remove takes one reply out; the lock is held.
func (q *queue) remove(i int) {
	if q.due[i].namesStatement() {
		q.naming--
	}
	q.untold = q.untold || q.due[i].alters()
	q.bytes -= q.due[i].size()
	q.share.Release(q.due[i].size())
	q.due = slices.Delete(q.due, i, i+1)
	q.moved.Broadcast()
}
