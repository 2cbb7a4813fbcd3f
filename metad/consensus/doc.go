// Package consensus runs metad's Raft group: hashicorp/raft over TLS streams, a log
// and stable store of our own on Pebble, snapshots in files, and the state machine
// under a lock. It decides nothing about the cluster; see package state.
//
// A Node is safe for concurrent use.
//
// What the disk does to us: a failed write to the log, a Pebble that cannot go on, or
// a write that hangs for longer than the watchdog allows ends the Node with an error
// on Failed. The process is then to exit without trying to close the store. A member
// that cannot persist must not lead, and raft alone would let it.
package consensus
