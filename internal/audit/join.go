package audit

import (
	"errors"
	"io"
	"io/fs"
	"strconv"
)

// joiner reads a log's values side by side with its leaves.
type joiner struct {
	lines *lines
	from  int64  // nobody will ask for the values of records before
	ahead *value // read, of a record to come
	seal  seal
}

func newJoiner(dir string) *joiner {
	return &joiner{lines: newLines(dir, valuesPrefix, maxValueLineBytes)}
}

func (j *joiner) close() error { return j.lines.close() }

// disclosure is a place in a leaf where a commitment stands for a value.
type disclosure struct {
	field      string
	commitment *string // in the record
	text       string
	found      bool // there is a value
	kept       bool // and it is the one that the leaf commits to
}

// disclosures lists the commitments of a record.
func disclosures(r *Record) []disclosure {
	if r.Request == nil {
		return nil
	}
	var ds []disclosure
	if r.Request.Text != "" {
		ds = append(ds, disclosure{field: fieldText, commitment: &r.Request.Text})
	}
	for i := range r.Request.Parameters {
		ds = append(ds, disclosure{field: fieldParameter + strconv.Itoa(i), commitment: &r.Request.Parameters[i]})
	}
	return ds
}

// join finds the values of r, whose index must be larger than that of the call
// before. It also tells how many values it passed over that belong to no
// record.
func (j *joiner) join(r *Record) (ds []disclosure, strays int, err error) {
	values, strays, err := j.at(r.Index)
	if err != nil {
		return nil, 0, err
	}
	ds = disclosures(r)
	for i := range ds {
		d := &ds[i]
		v, ok := values[d.field]
		delete(values, d.field)
		if !ok || v.ID != r.ID {
			continue
		}
		text, commitment, err := v.reveal(&j.seal)
		d.found, d.text = true, text
		d.kept = err == nil && commitment == *d.commitment
	}
	return ds, strays + len(values), nil
}

// at returns the values for the record with this index by their fields, no more
// than a record can have.
func (j *joiner) at(index int64) (values map[string]*value, strays int, err error) {
	room := 2 * maxValueBytes
	for {
		v, err := j.peek()
		if err != nil {
			return nil, 0, err
		}
		if v == nil || v.Index > index {
			return values, strays, nil
		}
		j.ahead = nil
		size := len(v.Base64)
		if v.Value != nil {
			size += len(*v.Value)
		}
		if v.Index < index || values[v.Field] != nil || len(values) > maxParameters || room < size {
			strays++
			continue
		}
		room -= size
		if values == nil {
			values = make(map[string]*value)
		}
		values[v.Field] = v
	}
}

// peek returns the next value, or nil. A line that is none is passed over: the
// record that it belonged to will miss it.
func (j *joiner) peek() (*value, error) {
	for j.ahead == nil {
		line, err := j.lines.read()
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errLongLine) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if n := valueIndex(line); n >= 0 && n < j.from {
			continue
		}
		if v, err := decodeValue(line); err == nil {
			j.ahead = v
		}
	}
	return j.ahead, nil
}
