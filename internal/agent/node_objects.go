package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"postern.dev/postern/internal/policy"
)

// objects are the cluster's policy objects, each in its last good version: a bad
// new one never takes the place of a good one, which would open what the good
// one guards. They outlive a restart of the agent in a file.
type objects struct {
	file string            // empty: kept in memory alone
	good map[string][]byte // by "Kind/name", as JSON
}

// openObjects reads what an earlier agent kept. A file that cannot be read is as
// good as none: the cluster's objects count by themselves.
func openObjects(file string) (*objects, error) {
	o := &objects{file: file, good: make(map[string][]byte)}
	if file == "" {
		return o, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read last good objects: %w", err)
	}
	kept := make(map[string]json.RawMessage)
	if err := json.Unmarshal(text, &kept); err != nil {
		return o, fmt.Errorf("read last good objects %s: %w", file, err)
	}
	for name, object := range kept {
		o.good[name] = object
	}
	return o, nil
}

// compile gives the policies of docs, with the last good version of what is not
// accepted.
//
// Shape: rejected says why, by "Kind/name", of the newest versions. An object that
// is not in docs is gone, its good version too.
func (o *objects) compile(docs []policy.Document) (set *policy.Set, rejected map[string]error, err error) {
	set, rejected, err = policy.Compile(docs)
	if err != nil {
		return nil, nil, fmt.Errorf("compile policies: %w", err)
	}
	good := make(map[string][]byte, len(docs))
	mended := make([]policy.Document, 0, len(docs))
	changed := false
	for _, doc := range docs {
		_, bad := rejected[doc.Name]
		last, known := o.good[doc.Name]
		if bad && known && !bytes.Equal(last, doc.JSON) {
			doc.JSON, bad, changed = last, false, true
		}
		if !bad {
			good[doc.Name] = doc.JSON
		} else if known {
			good[doc.Name] = last // bad for what it names, which may come back
		}
		mended = append(mended, doc)
	}
	if changed {
		if set, _, err = policy.Compile(mended); err != nil {
			return nil, nil, fmt.Errorf("compile policies: %w", err)
		}
	}
	return set, rejected, o.keep(good)
}

// keep writes the good versions down where they changed. They are in force also
// when that fails.
func (o *objects) keep(good map[string][]byte) error {
	same := len(good) == len(o.good)
	for name, object := range good {
		same = same && bytes.Equal(o.good[name], object)
	}
	o.good = good
	if same || o.file == "" {
		return nil
	}
	kept := make(map[string]json.RawMessage, len(good))
	for name, object := range good {
		kept[name] = object
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	if err := replaceFile(o.file, text); err != nil {
		return fmt.Errorf("%w: %w", errNotKept, err)
	}
	return nil
}

// errNotKept says that policies are in force and did not get to the disk.
var errNotKept = errors.New("keep last good objects")

// replaceFile writes a file that its owner alone can read, whole or not at all.
func replaceFile(path string, text []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return nil
}
