package redirect

import "net/netip"

// Guard is one set of destinations that the command does not reach directly.
type Guard struct {
	Prefix netip.Prefix
	Port   uint16 // 0: any
	Refuse bool   // refused instead of redirected
	Target bool   // refused to other processes of the command's user too
}

// Guarded is all that is guarded.
type Guarded struct {
	Guards  []Guard
	Sockets []string // paths of unix sockets; "@name" is an abstract one
}
