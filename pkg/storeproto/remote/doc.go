// Package remote is storeproto.Store across a connection: Peer is the client's side,
// one for each distant host, and Service the side that serves the stores of this host.
// The protocol is in ../PROTOCOL.md.
//
// A Peer has three connections: log, bulk and read, so that shards never delay an
// append. Each is made anew when it breaks; what was in flight on it completes with
// ErrUnavailable and an unknown outcome, what is called while it is down at once.
// Nothing is sent twice: the caller decides what to send again.
package remote
