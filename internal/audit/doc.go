// Package audit is the only writer of the trail, and the only reader that can
// tell whether somebody else wrote in it.
//
// A log belongs to one agent instance and is a folder:
//
//	<dir>/<node>/<start>-<random>/
//	    leaves-000001.jsonl   one record a line, each line a leaf of the tree
//	    values-000001.jsonl   the values that the leaves of this segment commit to
//	    hashes                the tree's hashes, to name a record that was changed
//	    checkpoints           signed notes: origin, size, root
//
// A record is written before Append returns and durable when Wait returns:
//
//	Append ──▶ encode, pwrite values, pwrite leaf ──▶ index        (survives kill -9)
//	Wait ────▶ next fdatasync of both files covers index           (survives power loss)
//	each second with activity: sign the root of what is durable    (survives root, if kept elsewhere)
//
// Leaves hold no values: where a reader sees a statement's text, the leaf holds
// SHA-256(salt‖value), and the salt lies beside the value. Erasing a value
// leaves the tree as it is.
//
// Each log has an Ed25519 key born with it, whose private half never leaves
// memory. The first record holds the public half, certified by the operator's
// key. The next records hold the size and root of the logs before, so that a log that is
// taken away, or put back as it was earlier, is missed by a later one.
//
// Source: RFC 6962 §2.1 (tree), C2SP signed-note and tlog-checkpoint.
package audit
