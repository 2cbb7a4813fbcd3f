// Package volproto is how one blockd does a volume's I/O through the blockd that owns
// it: the seam (Owner, which the owner serves, and nbd.Device, which a proxy gets), the
// protocol between them (PROTOCOL.md), and Gate, which keeps a client's older sessions
// away from a volume once a newer one was let in.
//
// A proxy never sends a request twice. When its connection breaks, everything in flight
// completes with an error that hangs up the NBD client, and the handle is dead; the
// client comes back and is attached anew, with a higher number.
package volproto
