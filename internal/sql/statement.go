package sql

import pg "github.com/pganalyze/pg_query_go/v6"

// The words of a statement: what a policy allows and denies.
const (
	Select      = "SELECT"
	Insert      = "INSERT"
	Update      = "UPDATE"
	Delete      = "DELETE"
	Merge       = "MERGE"
	Truncate    = "TRUNCATE"
	CopyIn      = "COPY-IN"
	CopyOut     = "COPY-OUT"
	Call        = "CALL"
	Do          = "DO"
	DDL         = "DDL"
	DCL         = "DCL"
	Maintenance = "MAINTENANCE"
	Listen      = "LISTEN"
	Notify      = "NOTIFY"
	Lock        = "LOCK"
	Set         = "SET"
	Session     = "SESSION"
	Replication = "REPLICATION"
	Unknown     = "UNKNOWN"
)

// Script is what one Query or Parse message holds: no, one or several statements.
type Script struct {
	Statements  []*Statement
	Fingerprint string    // of Redacted: SHA-256, hex; equal for statements that differ in literals, spaces and comments alone
	Redacted    string    // the text without comments, every literal replaced by $n, numbered after the text's own parameters
	Literals    []Literal // what was replaced, in order: the first is the one with the lowest n
	Backslashes bool      // a plain '…' literal holds a backslash: a server with standard_conforming_strings off would read another text
}

// Literal is a constant that was taken out of the text.
type Literal struct {
	Placeholder string // "$3"
	Type        string // string, integer, float, bits
	Length      int    // bytes between the quotes, or of the digits
}

// Statement is what one statement does.
type Statement struct {
	Words        []string // every word that applies, sorted, each once; UNKNOWN exactly when Unknown is set
	Unknown      string   // why it cannot be told; holds no value of the text
	Relations    []Relation
	Functions    []Function
	HasWhere     bool // every UPDATE and DELETE in it has a WHERE that is not constant
	ReturnsRows  bool
	Kind         Kind
	Name         string     // of the prepared statement or cursor, or what DISCARD takes ("plans"); "" with DISCARD, DEALLOCATE and CLOSE: ALL
	Inner        *Statement // what PREPARE, DECLARE and EXPLAIN carry
	Settings     []Setting  // what SET, RESET, set_config() and changes of pg_settings change
	Foreign      bool       // it says which columns of another server a relation here shows, or how that server is reached
	HasPasswords bool       // the text may hold a credential: it must not be recorded, not even redacted

	tree *pg.Node // nil where nothing could be read
}

// Kind tells the statements apart that change what later ones mean.
type Kind uint8

// The kinds of statement. Other is every statement that has no say in a session's names and settings.
const (
	Other Kind = iota
	Prepare
	Execute
	Deallocate
	Declare
	Fetch // also MOVE
	CloseCursor
	Discard
	Explain
	Transaction
	SetParameter // SET, RESET
	Show
	Copy
	CallProcedure
	DoBlock
)

// Relation is a table, view or sequence as the text names it.
type Relation struct {
	Schema string // "" where the text gives none
	Name   string
	Write  bool // it is the target of a change
}

// Function is a function, or an operator or cast that runs one, as the text names it.
type Function struct {
	Schema  string
	Name    string
	Builtin bool // a harmless built-in: implied by SELECT
}

// Setting is a change of one of the session's parameters.
type Setting struct {
	Name     string   // lower case; "" where it is not a constant; "all" with RESET ALL
	Values   []string // of constants; none with RESET and DEFAULT
	Constant bool     // Values tells what will be set
	Local    bool     // until the transaction's end
}
