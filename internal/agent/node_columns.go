package agent

import (
	"slices"

	"postern.dev/postern/internal/policy"
)

// maxDatabases is of how many databases of a Target it is kept what was found in
// them. Clients choose the names, but of those only that they could log in to.
const maxDatabases = 64

// columns are the patterns of one Target's sensitive columns, and those that fit a
// column of a database that was looked at. What fits in one database is found, and
// what fits in none is missing: a misspelt name masks nothing.
type columns struct {
	patterns []string            // of the Target as it was at the time
	found    map[string][]string // by database
}

// looked is [postgres.Config.Looked].
func (v *view) looked(target *policy.Target, database string, found []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	patterns := target.Sensitive().Patterns()
	c, ok := v.columns[target.Name()]
	if !ok || !slices.Equal(c.patterns, patterns) {
		c = &columns{patterns: patterns, found: make(map[string][]string)}
		v.columns[target.Name()] = c
	}
	before, known := c.found[database]
	if known && slices.Equal(before, found) {
		return
	}
	if !known && len(c.found) >= maxDatabases {
		for other := range c.found {
			delete(c.found, other) // whichever: the next session there looks again
			break
		}
	}
	c.found[database], v.changed = found, true
}

// sensitive tells what was found of a Target's sensitive columns; both are empty
// where nobody has looked since they were written. The caller holds mu.
func (v *view) sensitive(target *policy.Target) (found, missing []string) {
	c, ok := v.columns[target.Name()]
	if !ok || !slices.Equal(c.patterns, target.Sensitive().Patterns()) {
		return nil, nil
	}
	for _, pattern := range c.patterns {
		is := false
		for _, there := range c.found {
			_, here := slices.BinarySearch(there, pattern)
			is = is || here
		}
		if is {
			found = append(found, pattern)
		} else {
			missing = append(missing, pattern)
		}
	}
	return found, missing
}
