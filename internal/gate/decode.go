package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"postern.dev/postern/internal/redirect"
)

// What a call may hold at most, so that no frame unfolds into more memory than
// the gate has.
const (
	maxPods       = 2048
	maxNamespaces = 16384
	maxGuards     = 65536
	maxSockets    = 1024
	maxItemBytes  = 8 << 10
	maxSmallBytes = 4 << 10 // of a call that names one thing
	maxIPs        = 16
	maxReasons    = 32
)

// Names that a call may hold. Those of Kubernetes objects are DNS labels or
// subdomains; a UID is a UUID or, of a pod from a file, an MD5 sum.
var (
	uidPattern    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$|^[0-9a-f]{32}$`)
	namePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	volumePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// errItem is an item of a list that is not as it has to be.
var errItem = errors.New("a bad item")

// decodeList decodes a list item by item, and has each judged at once: what is left
// out takes no memory.
//
// Errors: errProtocol when it is no list, and what take answers.
func decodeList[T any](raw json.RawMessage, take func(T, error) error) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		return fmt.Errorf("%w: no list", errProtocol)
	}
	for d.More() {
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		var v T
		var err error
		if len(item) > maxItemBytes {
			err = fmt.Errorf("%w of %d bytes", errItem, len(item))
		} else if err = json.Unmarshal(item, &v); err != nil {
			err = fmt.Errorf("%w: %w", errItem, err)
		}
		if err := take(v, err); err != nil {
			return err
		}
	}
	return nil
}

// decodeAll decodes a list of at most limit items, all of which count.
//
// Errors: of a list that is too long, or has a bad item: the peer hears of it.
func decodeAll[T any](raw json.RawMessage, limit int) (list []T, err error) {
	err = decodeList(raw, func(v T, bad error) error {
		if bad != nil {
			return bad
		}
		if len(list) == limit {
			return fmt.Errorf("more than %d in a list", limit)
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

// decodeSmall decodes a call that names one thing.
func decodeSmall[T any](raw json.RawMessage) (T, error) {
	var v T
	if len(raw) > maxSmallBytes {
		return v, fmt.Errorf("%w: a call of %d bytes", errProtocol, len(raw))
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return v, nil
}

// decodeGuarded decodes what is guarded: all of it, or nothing.
//
// Errors: with any, what was guarded before stays so: without one guard of a list, what
// it holds would be open.
func decodeGuarded(body json.RawMessage) (redirect.Guarded, error) {
	var call guardCall
	if err := json.Unmarshal(body, &call); err != nil {
		return redirect.Guarded{}, fmt.Errorf("%w: %w", errProtocol, err)
	}
	var g redirect.Guarded
	var err error
	if g.Guards, err = decodeAll[redirect.Guard](call.Guards, maxGuards); err != nil {
		return redirect.Guarded{}, err
	}
	if g.Sockets, err = decodeAll[string](call.Sockets, maxSockets); err != nil {
		return redirect.Guarded{}, err
	}
	return g, nil
}

// leftOut is what of a list is not taken, for people to read: the first of it, and
// how many there are.
type leftOut struct {
	said []string
	more int
}

const maxLeftOut = 16

func (l *leftOut) add(format string, args ...any) {
	if len(l.said) == maxLeftOut {
		l.more++
		return
	}
	l.said = append(l.said, clip(fmt.Sprintf(format, args...)))
}

func clip(text string) string {
	const most = 256
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

func (l *leftOut) list() []string {
	if l.more == 0 {
		return l.said
	}
	return append(l.said, fmt.Sprintf("and %d more", l.more))
}

// decodePods decodes and checks the node's pods. Who may make pods decides how many
// there are and what is said of each: one that is not as it has to be, or one too many,
// is left out, and told. The kernel refuses it Targets as it does every pod that nobody
// has spoken of, and of one that was guarded the guard stays. So it is with namespaces:
// each pod of theirs is said to be guarded too.
//
// Errors: errProtocol, of what no agent sends.
func decodePods(body json.RawMessage) (pods []Pod, namespaces []string, left []string, err error) {
	var call podsCall
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	var out leftOut
	seen := make(map[string]bool)
	err = decodeList(call.Pods, func(p Pod, bad error) error {
		if bad == nil {
			bad = p.check(seen)
		}
		switch {
		case bad != nil:
			out.add("pod %s: %v", p.UID, bad)
		case len(pods) == maxPods:
			out.add("pod %s: one more than %d", p.UID, maxPods)
		default:
			seen[p.UID] = true
			pods = append(pods, p)
		}
		return nil
	})
	if err != nil {
		return nil, nil, nil, err
	}
	err = decodeList(call.GuardedNamespaces, func(name string, bad error) error {
		switch {
		case bad != nil || !namePattern.MatchString(name):
			out.add("%q is no namespace's name", name)
		case len(namespaces) == maxNamespaces:
			out.add("namespace %s: one more than %d", name, maxNamespaces)
		default:
			namespaces = append(namespaces, name)
		}
		return nil
	})
	return pods, namespaces, out.list(), err
}

// check tells what is wrong with a pod; seen are the UIDs before it.
func (p Pod) check(seen map[string]bool) error {
	switch {
	case !uidPattern.MatchString(p.UID):
		return fmt.Errorf("%w: %q is no pod's UID", errItem, p.UID)
	case seen[p.UID]:
		return fmt.Errorf("%w: it is there twice", errItem)
	case !namePattern.MatchString(p.Namespace) || !namePattern.MatchString(p.Name):
		return fmt.Errorf("%w: %q in %q is no pod's name", errItem, p.Name, p.Namespace)
	case len(p.IPs) > maxIPs || len(p.Privileges) > maxReasons:
		return fmt.Errorf("%w: %d addresses and %d reasons", errItem, len(p.IPs), len(p.Privileges))
	}
	return nil
}
