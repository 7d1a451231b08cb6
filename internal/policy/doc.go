// Package policy holds the objects that say what is protected, who may do what
// there, and whose tokens prove an identity; it loads and checks them, and it
// decides requests. It is pure: it reads the files it is given and nothing
// else, knows no connection, no clock and no protocol.
//
//	files ──Load──▶ Set ──View(target, subject)──▶ View ──Decide(request)──▶ Decision
//
// A [Set] never changes after Load, so that a reload is the swap of one
// pointer. What is missing refuses: no policy, no match, an unknown word, a
// condition that fails.
//
// # How a request is decided
//
// The AccessPolicies whose targets and one of whose subjects match are the
// view. Those with mode enforce form one rule set: a deny rule that matches
// refuses; else every statement needs one allow rule that covers all of it;
// else the request is refused. All statements of a request pass, or none does.
// A policy with mode observe is judged as if it alone were added to that rule
// set, and its verdict is only reported. If only observed policies match,
// requests pass.
//
// An allow rule covers a statement when it allows every one of its words,
// relations and functions. A deny rule matches when it names one of its words,
// and, where it gives relations or functions, one of those. A word that this
// package does not know counts as UNKNOWN.
//
// Built-in functions that are harmless come with SELECT: a rule that allows
// SELECT covers them, and the catalogs in which drivers look types up when they
// are only read. The word SESSION comes with any allow rule that holds
// for the database, and a request without a statement (an empty query, which
// drivers use to see whether a connection lives) counts as SESSION.
//
// A name without a schema is one that the caller could not resolve: it might
// be in any schema. So an allow rule covers it only with a pattern whose
// schema is "*", and a deny pattern matches it whatever its schema.
//
// An UNKNOWN statement is one of which nothing is known: only an allow rule
// that says UNKNOWN and limits neither relations nor functions covers it, and
// a deny rule that says UNKNOWN matches it whatever it limits.
//
// A condition (when) that fails to evaluate counts as true in a deny rule and
// as false in an allow rule.
//
// +groupName=postern.dev
// +versionName=v1alpha1
package policy
