package redirect

// Counters count since the run began.
type Counters struct {
	Seen       uint64 // connects to guarded destinations
	Redirected uint64 // of these, led to the listener
	Refused    uint64 // connects, binds and datagrams refused
	Dropped    uint64 // packets that went around connect
	Others     uint64 // refused to other processes of the user
}
