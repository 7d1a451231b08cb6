package audit

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// cut is where a file has to end.
type cut struct {
	path   string
	end    int64
	bytes  int64 // behind it, zeros at the end of the file aside
	lines  int64 // begun or whole
	values bool
}

// repairOf sums up what is cut off; nil when that is only room that was not
// used.
func repairOf(cuts []cut) *Repair {
	var r Repair
	for _, c := range cuts {
		if c.values {
			r.ValueBytes += c.bytes
			continue
		}
		r.LeafBytes += c.bytes
		r.Lines += c.lines
	}
	if r == (Repair{}) {
		return nil
	}
	return &r
}

// survey finds what is behind the last good record of the log in dir. None of
// it was acknowledged as durable: no fdatasync has returned for it.
func (f *inspection) survey(dir string) ([]cut, error) {
	var cuts []cut
	for segment := f.segment; ; segment++ {
		leaf := cut{path: segmentPath(dir, leavesPrefix, segment)}
		if segment == f.segment {
			leaf.end = f.leafEnd
		}
		if err := leaf.measure(); errors.Is(err, fs.ErrNotExist) {
			return cuts, nil
		} else if err != nil {
			return nil, err
		}
		cuts = append(cuts, leaf)

		value := cut{path: segmentPath(dir, valuesPrefix, segment), values: true}
		value.end = valuesEnd(value.path, f.size)
		if err := value.measure(); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		cuts = append(cuts, value)
	}
}

// valuesEnd tells where in a values file the last value of a record below size
// ends.
func valuesEnd(path string, size int64) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	one := lines{max: maxValueLineBytes, file: f}
	end := int64(0)
	for {
		line, err := one.line()
		if err != nil {
			return end
		}
		if v, err := decodeValue(line); err != nil || v.Index >= size {
			return end
		}
		end = one.offset()
	}
}

// measure tells what is behind the end.
func (c *cut) measure() error {
	f, err := os.Open(c.path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	inLine := false
	for at := c.end; ; {
		n, err := f.ReadAt(buf, at)
		for i, b := range buf[:n] {
			if b == 0 {
				continue
			}
			c.bytes = at + int64(i) + 1 - c.end
			inLine = b != '\n'
			if b == '\n' {
				c.lines++
			}
		}
		at += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if inLine {
		c.lines++
	}
	return nil
}

// make ends the file there.
func (c *cut) make() error {
	f, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(c.end), f.Sync(), f.Close())
}
