package agent

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// checkpointInterval is how often a new checkpoint leaves the node, at most: the
	// trail signs one every second in which there are records.
	checkpointInterval = 10 * time.Second
	checkpointLines    = 5        // origin, size, root, an empty one, signature
	checkpointRead     = 64 << 10 // bytes at once; a checkpoint has some 200
)

// checkpoints follow the checkpoints of this agent's trail, of which the newest is
// published: whoever has it can tell that records before it were changed or cut off,
// also when the node and its disk are not to be trusted any more.
//
// Source: C2SP tlog-checkpoint.
type checkpoints struct {
	path string

	mu     sync.Mutex
	offset int64 // that is read
	looked time.Time
	newest string
}

// checkpointsOf is where the checkpoints of a trail are.
func checkpointsOf(logDir, trail string) string { return filepath.Join(logDir, trail, "checkpoints") }

// last is the newest checkpoint as of a look that is not older than
// [checkpointInterval]; empty while there is none.
//
// Errors: the file cannot be read; the answer is then the one of before.
func (c *checkpoints) last() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < checkpointInterval {
		return c.newest, nil
	}
	c.looked = time.Now()
	err := c.read()
	if errors.Is(err, fs.ErrNotExist) { // the first is not signed yet
		err = nil
	}
	return c.newest, err
}

// read reads on. Behind the checkpoints the file is zero, and the last one may be
// half written: it is read the next time.
func (c *checkpoints) read() error {
	file, err := os.Open(c.path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := make([]byte, checkpointRead)
	for {
		n, err := file.ReadAt(buffer, c.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text, _, _ := bytes.Cut(buffer[:n], []byte{0})
		taken := c.take(text)
		c.offset += int64(taken)
		if taken == 0 {
			return nil
		}
	}
}

// take keeps the last whole checkpoint of text, and tells where it ends.
func (c *checkpoints) take(text []byte) int {
	end := 0
	for {
		next := end
		for range checkpointLines {
			i := bytes.IndexByte(text[next:], '\n')
			if i < 0 {
				return end
			}
			next += i + 1
		}
		c.newest = string(text[end:next])
		end = next
	}
}
