package audit

import "golang.org/x/mod/sumdb/tlog"

// edge is the right edge of a tree: the roots of the complete subtrees that
// its leaves fall into, largest first. It is all that is needed to append a
// leaf or to know the root.
//
// Source: RFC 6962 §2.1.
type edge struct {
	size  int64
	roots []tlog.Hash
}

// push appends a leaf and appends to stored the hashes that it completes, in
// the order of [tlog.StoredHashIndex].
func (e *edge) push(leaf tlog.Hash, stored []byte) []byte {
	stored = append(stored, leaf[:]...)
	e.roots = append(e.roots, leaf)
	for n := e.size; n&1 == 1; n >>= 1 {
		last := len(e.roots) - 1
		e.roots[last-1] = tlog.NodeHash(e.roots[last-1], e.roots[last])
		e.roots = e.roots[:last]
		stored = append(stored, e.roots[last-1][:]...)
	}
	e.size++
	return stored
}

// root is the tree's root hash.
func (e *edge) root() tlog.Hash {
	if e.size == 0 {
		h, _ := tlog.TreeHash(0, nil) // reads nothing and cannot fail
		return h
	}
	last := len(e.roots) - 1
	h := e.roots[last]
	for i := last - 1; i >= 0; i-- {
		h = tlog.NodeHash(e.roots[i], h)
	}
	return h
}

// copyTo makes to equal to e, reusing its memory.
func (e *edge) copyTo(to *edge) {
	to.size = e.size
	to.roots = append(to.roots[:0], e.roots...)
}
