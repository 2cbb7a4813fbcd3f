// Package archproto is how the archive's daemon reads snapshots at the blockd that owns their
// disk: which slots of which segments a snapshot holds (Plan), and these (Read). PROTOCOL.md
// has the bytes. Both sides are bounded: a plan comes page by page, a read is of one segment.
//
// It serves to role snapshotd alone. A Peer is safe for concurrent use.
package archproto
