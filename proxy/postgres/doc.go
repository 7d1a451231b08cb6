// Package postgres serves guarded clients of PostgreSQL: protocol 3.0 of the
// PostgreSQL 17 documentation, chapter 53. It ends the client's session and has
// one of its own with the server, under a credential that the client never sees.
//
//	client                         Postern                                server
//	  │ SSLRequest, startup           │                                      │
//	  ├──────────────────────────────▶│ identify, decide, fetch credential   │
//	  │                               │ TLS, SCRAM, startup                  │
//	  │                               ├─────────────────────────────────────▶│
//	  │ AuthenticationOk, parameters, │◀─────────────────────────────────────┤
//	  │ a cancel key of Postern's own │                                      │
//	  │◀──────────────────────────────┤                                      │
//	  │ Query │ Parse Bind Execute    │ parse, decide, record                │
//	  ├──────────────────────────────▶├── as it is, or a sure error ────────▶│
//	  │                               │ wait for the record, mask, outcome   │
//	  │◀──────────────────────────────┤◀─────────────────────────────────────┤
//
// Both sides of a session run on their own, as PostgreSQL's protocol does. What
// ties them is a queue of the replies that are due: the client's loop adds to it
// before a message goes out, the server's loop takes off what has come. So it is
// known of every row which request it answers, and by which plan it is masked.
//
// A statement that is refused goes to the server as one that it is sure to
// refuse, and its error comes back as Postern's. The state of a transaction, what
// a pipeline skips and what is rolled back are then the same on both sides.
//
// In a database with sensitive columns the server is asked about every portal
// what its rows will be, before the first one comes. See [catalog] for how it is
// known which columns are sensitive.
//
// Where a Target has detectors, the server is asked likewise for the types of each
// portal's columns, and every text that leaves is looked into, row by row: see [detection].
package postgres
