package audit

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"
)

// attacks are what somebody with root on the node may do to its logs. A fault's
// index is relative to the edited record, and named says whether its ID must be.
var attacks = []struct {
	name   string
	attack func(t *testing.T, v *victim)
	kept   bool // the verifier has a checkpoint that was kept elsewhere
	fault  Fault
	index  func(v *victim) int64
	id     func(v *victim) string
}{{
	name:   "edits a record",
	attack: func(t *testing.T, v *victim) { edit(t, v.first, v.edited(v.first), "linux:ada", "linux:eve") },
	fault:  FaultRecordChanged,
	index:  func(v *victim) int64 { return v.edited(v.first) },
	id:     func(v *victim) string { return v.requests[v.first].ID },
}, {
	name:   "makes a record something else than a record",
	attack: func(t *testing.T, v *victim) { edit(t, v.first, v.edited(v.first), "{", "[") },
	fault:  FaultRecordChanged,
	index:  func(v *victim) int64 { return v.edited(v.first) },
}, {
	name: "edits a record and the hashes",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.first, v.edited(v.first), "linux:ada", "linux:eve")
		rehash(t, v.first)
	},
	fault: FaultHistoryChanged,
	index: func(v *victim) int64 { return v.edited(v.first) - 2 }, // the checkpoint before it
}, {
	name: "edits a record and signs everything with a key and an operator of his own",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.second, v.edited(v.second), "linux:ada", "linux:eve")
		forge(t, v.second, otherOperator(t), true)
	},
	fault: FaultKey,
	index: func(*victim) int64 { return 0 },
}, {
	name: "edits a record and signs everything with a key that nobody certified",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.second, v.edited(v.second), "linux:ada", "linux:eve")
		forge(t, v.second, "", false)
	},
	fault: FaultCheckpoint,
}, {
	name: "gives a log the key of another",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.second, firstLeaves, func(lines [][]byte) [][]byte {
			r, err := decodeLeaf(lines[0])
			if err != nil {
				t.Fatal(err)
			}
			r.Key = read(t, v.first)[0].Key
			lines[0] = appendRecord(nil, r, new(seal))
			return lines
		})
	},
	fault: FaultKey,
	index: func(*victim) int64 { return 0 },
}, {
	name: "edits a record and signs everything with the operator's key, which he stole",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.second, v.edited(v.second), "linux:ada", "linux:eve")
		forge(t, v.second, v.o.OperatorKey, true)
	},
	kept:  true,
	fault: FaultHistoryChanged,
	index: func(*victim) int64 { return 0 },
}, {
	name: "edits an earlier log and signs it with the operator's key, which he stole",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.first, v.edited(v.first), "linux:ada", "linux:eve")
		forge(t, v.first, v.o.OperatorKey, true)
	},
	fault: FaultHistoryChanged,
}, {
	name:   "cuts the newest records",
	attack: func(t *testing.T, v *victim) { cutNewest(t, v.second, 2) },
	kept:   true,
	fault:  FaultRecordsCut,
}, {
	name:   "cuts the newest records of an earlier log",
	attack: func(t *testing.T, v *victim) { cutNewest(t, v.first, 1) },
	fault:  FaultRecordsCut,
}, {
	name: "cuts the newest records and leaves the checkpoints",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.second, firstLeaves, func(lines [][]byte) [][]byte { return lines[:len(lines)-1] })
	},
	fault: FaultRecordsCut,
}, {
	name: "cuts the newest checkpoints",
	attack: func(t *testing.T, v *victim) {
		change(t, v.second, checkpointsFile, func(b []byte) []byte {
			return wholeCheckpoints(t, b)[0]
		})
	},
	fault: FaultCheckpoint,
}, {
	name:   "takes the checkpoints",
	attack: func(t *testing.T, v *victim) { remove(t, v.second, checkpointsFile) },
	fault:  FaultCheckpoint,
}, {
	name: "puts an older valid copy of the newest log back",
	attack: func(t *testing.T, v *victim) {
		remove(t, v.second, "")
		copyLog(t, filepath.Join(v.copies, filepath.Base(v.second)), v.second)
	},
	kept:  true,
	fault: FaultRecordsCut,
}, {
	name: "puts an older valid copy of an earlier log back",
	attack: func(t *testing.T, v *victim) {
		remove(t, v.first, "")
		copyLog(t, filepath.Join(v.copies, filepath.Base(v.first)), v.first)
	},
	fault: FaultRecordsCut,
}, {
	name: "swaps two records",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.first, firstLeaves, func(lines [][]byte) [][]byte {
			i := v.edited(v.first)
			lines[i], lines[i+1] = lines[i+1], lines[i]
			return lines
		})
	},
	fault: FaultRecordMisplaced,
	index: func(v *victim) int64 { return v.edited(v.first) },
	id:    func(v *victim) string { return v.requests[v.first].ID },
}, {
	name: "takes a record from the middle",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.first, firstLeaves, func(lines [][]byte) [][]byte {
			i := v.edited(v.first)
			return slices.Delete(lines, int(i), int(i)+1)
		})
	},
	fault: FaultRecordMissing,
	index: func(v *victim) int64 { return v.edited(v.first) },
}, {
	name: "repeats a record",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.first, firstLeaves, func(lines [][]byte) [][]byte {
			i := int(v.edited(v.first))
			return slices.Insert(lines, i+2, lines[i])
		})
	},
	fault: FaultRecordMisplaced,
	index: func(v *victim) int64 { return v.edited(v.first) },
	id:    func(v *victim) string { return v.requests[v.first].ID },
}, {
	name: "takes records of another log",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.first, v.edited(v.first), filepath.Base(v.first), filepath.Base(v.second))
	},
	fault: FaultRecordMisplaced,
	index: func(v *victim) int64 { return v.edited(v.first) },
	id:    func(v *victim) string { return v.requests[v.first].ID },
}, {
	name: "hides records behind a zero byte",
	attack: func(t *testing.T, v *victim) {
		edit(t, v.second, v.edited(v.second), "{", "\x00")
	},
	fault: FaultRecordsCut,
	index: func(v *victim) int64 { return v.edited(v.second) },
}, {
	name: "adds records to a closed log",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.second, firstLeaves, func(lines [][]byte) [][]byte { return addForged(t, v.second, lines) })
	},
	fault: FaultRecordsAdded,
}, {
	name:   "begins a line behind a closed log",
	attack: func(t *testing.T, v *victim) { beginLine(t, v) },
	fault:  FaultRecordsAdded,
}, {
	name: "begins a line behind a closed log, which the next agent finds",
	attack: func(t *testing.T, v *victim) {
		beginLine(t, v)
		v.write(t, func(*Log) {})
	},
	fault: FaultRecordsAdded,
}, {
	name: "adds records to an earlier log whose agent was killed",
	attack: func(t *testing.T, v *victim) {
		cutNewest(t, v.second, 1)
		v.write(t, func(*Log) {})
		changeLines(t, v.second, firstLeaves, func(lines [][]byte) [][]byte { return addForged(t, v.second, lines) })
	},
	fault: FaultRecordsAdded,
}, {
	name: "edits a value",
	attack: func(t *testing.T, v *victim) {
		change(t, v.first, firstValues, func(b []byte) []byte { return bytes.Replace(b, []byte("'ada'"), []byte("'eve'"), 1) })
	},
	fault: FaultValueChanged,
	index: func(v *victim) int64 { return v.edited(v.first) },
	id:    func(v *victim) string { return v.requests[v.first].ID },
}, {
	name: "takes a value",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.first, firstValues, func(lines [][]byte) [][]byte {
			return slices.DeleteFunc(lines, func(line []byte) bool { return bytes.Contains(line, []byte("'ada'")) })
		})
	},
	fault: FaultValueMissing,
	index: func(v *victim) int64 { return v.edited(v.first) },
	id:    func(v *victim) string { return v.requests[v.first].ID },
}, {
	name: "adds a value",
	attack: func(t *testing.T, v *victim) {
		changeLines(t, v.first, firstValues, func(lines [][]byte) [][]byte { return slices.Insert(lines, 1, lines[0]) })
	},
	fault: FaultValueChanged,
}, {
	name:   "takes an earlier log",
	attack: func(t *testing.T, v *victim) { remove(t, v.first, "") },
	fault:  FaultLogMissing,
}, {
	name:   "takes the newest log",
	attack: func(t *testing.T, v *victim) { remove(t, v.second, "") },
	kept:   true,
	fault:  FaultLogMissing,
}, {
	name:   "empties a log",
	attack: func(t *testing.T, v *victim) { remove(t, v.first, firstLeaves) },
	fault:  FaultRecordsCut,
	index:  func(*victim) int64 { return 0 },
}, {
	name:   "renames a log",
	attack: func(t *testing.T, v *victim) { rename(t, v.first, v.first+"0") },
	fault:  FaultRecordMisplaced,
}, {
	name: "edits the hashes",
	attack: func(t *testing.T, v *victim) {
		change(t, v.first, hashesFile, func(b []byte) []byte { b[0] ^= 1; return b })
	},
	fault: FaultHashes,
}, {
	name:   "takes the hashes",
	attack: func(t *testing.T, v *victim) { remove(t, v.first, hashesFile) },
	fault:  FaultHashes,
}}

// beginLine leaves what a killed agent could have left, behind the newest log's end.
func beginLine(t *testing.T, v *victim) {
	t.Helper()
	change(t, v.second, firstLeaves, func(b []byte) []byte { return append(bytes.TrimRight(b, "\x00"), `{"v":0,"log":`...) })
}
