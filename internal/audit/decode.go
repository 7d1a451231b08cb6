package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// maxIndex is where offsets into the hashes file would overflow.
const maxIndex = 1 << 56

// decodeLeaf reads a line of a leaves file. It fails when a record's kind
// promises a part that is not there.
func decodeLeaf(line []byte) (*Record, error) {
	r := new(Record)
	if err := json.Unmarshal(line, r); err != nil {
		return nil, errors.New("the line is not a record")
	}
	if r.Index < 0 || r.Index >= maxIndex {
		return nil, errors.New("the record has no index")
	}
	if r.Kind == KindKey && r.Key == nil || r.Kind == KindPrevious && r.Previous == nil ||
		r.Kind == KindLoss && r.Loss == nil {
		return nil, fmt.Errorf("the record has no %q", r.Kind)
	}
	return r, nil
}

// head is what the next log has to know of a record. A log may have millions of
// them, and an agent must not be long in starting.
type head struct {
	Log       string `json:"log"`
	Index     int64  `json:"index"`
	ID        string `json:"id"`
	Kind      Kind   `json:"kind"`
	Session   string `json:"session"`
	Seq       int64  `json:"seq"`
	RequestID string `json:"request_id"`
}

func decodeHead(line []byte) (*head, error) {
	r := new(head)
	if err := json.Unmarshal(line, r); err != nil {
		return nil, errors.New("the line is not a record")
	}
	return r, nil
}

// value is a line of a values file.
type value struct {
	Index  int64   `json:"index"`
	ID     string  `json:"id"`
	Field  string  `json:"field"`
	Salt   string  `json:"salt"`
	Value  *string `json:"value"`
	Base64 string  `json:"base64"`
}

func decodeValue(line []byte) (*value, error) {
	v := new(value)
	if err := json.Unmarshal(line, v); err != nil {
		return nil, errors.New("the line is not a value")
	}
	return v, nil
}

// valueIndex reads the index of a value without the rest of its line; -1 when
// the line does not begin as a writer begins it.
func valueIndex(line []byte) int64 {
	digits, ok := bytes.CutPrefix(line, []byte(valueBeginning))
	if !ok {
		return -1
	}
	digits, _, _ = bytes.Cut(digits, []byte(","))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// reveal returns the value and the commitment that a leaf must hold for it.
func (v *value) reveal(s *seal) (text, commitment string, err error) {
	salt, err := hex.DecodeString(v.Salt)
	if err != nil || len(salt) != saltBytes {
		return "", "", errors.New("the value has no salt")
	}
	if v.Value != nil {
		text = *v.Value
	} else {
		b, err := base64.StdEncoding.DecodeString(v.Base64)
		if err != nil {
			return "", "", errors.New("the value is not base64")
		}
		text = string(b)
	}
	return text, s.commitment(salt, text), nil
}

// isCommitment tells whether a leaf holds s in place of a value.
func isCommitment(s string) bool {
	digest, ok := strings.CutPrefix(s, commitmentPrefix)
	if !ok {
		return false
	}
	b, err := hex.DecodeString(digest)
	return err == nil && len(b) == 32
}

// verifier returns the key, certified or not, or nil when it is none.
func (k *Key) verifier() note.Verifier {
	v, err := note.NewVerifier(k.Public)
	if err != nil {
		return nil
	}
	return v
}

// readFile reads a whole file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, limit)
}
