// Package proxy accepts the connections that the kernel led here, finds out
// where each wanted to go and who opened it, and gives it to the handler of its
// protocol. It knows connections and workloads, not the kernel and no protocol.
//
//	listener ──accept──▶ origin ──▶ Session ──▶ Handler.Serve
//	                       │ none                  │ returns
//	                       ▼                       ▼
//	                  refusal, closed         closed; recorded at least once
//
// Every connection leaves at least one record: the pair session.open and
// session.close, a cancel, or a refusal. Of those that exceed the share of their
// workload ([Limits]) one a minute is recorded, and the others are counted.
package proxy
