package gate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"

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

// decodeList decodes a list of at most limit items, each of at most maxItemBytes.
func decodeList[T any](raw json.RawMessage, limit int) ([]T, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		return nil, fmt.Errorf("%w: no list", errProtocol)
	}
	var list []T
	for d.More() {
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		if len(list) == limit || len(item) > maxItemBytes {
			return nil, fmt.Errorf("%w: a list of more than %d items, or an item of more than %d bytes", errProtocol, limit, maxItemBytes)
		}
		var v T
		if err := json.Unmarshal(item, &v); err != nil {
			return nil, fmt.Errorf("%w: %w", errProtocol, err)
		}
		list = append(list, v)
	}
	return list, nil
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

func decodeGuarded(body json.RawMessage) (redirect.Guarded, error) {
	var call guardCall
	if err := json.Unmarshal(body, &call); err != nil {
		return redirect.Guarded{}, fmt.Errorf("%w: %w", errProtocol, err)
	}
	var g redirect.Guarded
	var err error
	if g.Guards, err = decodeList[redirect.Guard](call.Guards, maxGuards); err != nil {
		return redirect.Guarded{}, err
	}
	if g.Sockets, err = decodeList[string](call.Sockets, maxSockets); err != nil {
		return redirect.Guarded{}, err
	}
	return g, nil
}

// decodePods decodes and checks the node's pods.
func decodePods(body json.RawMessage) (pods []Pod, namespaces []string, err error) {
	var call podsCall
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if pods, err = decodeList[Pod](call.Pods, maxPods); err != nil {
		return nil, nil, err
	}
	if namespaces, err = decodeList[string](call.GuardedNamespaces, maxNamespaces); err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool, len(pods))
	for _, p := range pods {
		switch {
		case !uidPattern.MatchString(p.UID):
			return nil, nil, fmt.Errorf("%w: %q is no pod's UID", errProtocol, p.UID)
		case seen[p.UID]:
			return nil, nil, fmt.Errorf("%w: pod %s twice", errProtocol, p.UID)
		case !namePattern.MatchString(p.Namespace) || !namePattern.MatchString(p.Name):
			return nil, nil, fmt.Errorf("%w: %q in %q is no pod's name", errProtocol, p.Name, p.Namespace)
		case len(p.IPs) > maxIPs || len(p.Privileges) > maxReasons:
			return nil, nil, fmt.Errorf("%w: pod %s with too much", errProtocol, p.UID)
		}
		seen[p.UID] = true
	}
	for _, n := range namespaces {
		if !namePattern.MatchString(n) {
			return nil, nil, fmt.Errorf("%w: %q is no namespace's name", errProtocol, n)
		}
	}
	return pods, namespaces, nil
}
