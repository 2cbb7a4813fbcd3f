// Package nbd serves and speaks the Network Block Device protocol. PROTOCOL.md
// beside it says which parts, with the test of each; this page says how the pieces meet.
//
// # Pieces
//
// A Server takes connections from listeners, goes through the handshake with each and hands
// requests to the Device that Exports opened for it. A Client is the other end, and a Device
// itself, so that a server can serve what a client reaches: a proxy. Sub-packages: devices
// has small disks and wrappers, nbdtest the conformance suite of Device and helpers for tests.
//
// It is not a volume: it caches nothing, orders nothing and retries nothing. What a request
// means for durability is the device's affair; the package carries flags and waits.
//
// # The way of a request
//
// One goroutine per connection, the reader, parses requests from a 256 KiB buffer, checks them
// against the protocol and the device, waits for room within the limits, and calls
// Device.Submit. Replies go to the connection's outbox from whatever goroutine completes.
// While the reader works through what has arrived, replies collect; before it reads again it
// sends them in one system call. Who completes when nothing is being sent becomes the
// sender, for all that join meanwhile, but never waits for the socket: when that is full, or
// the replies are long, a goroutine takes over. So a completion may be called from an
// engine's loop. A Batch completes many with one write; a Corker is told when the
// requests that came together have all been submitted.
//
// No goroutine and no allocation belongs to a request, and a payload is copied at most once
// on its way in (from the read buffer; a long rest is read in place) and not at all on its way out.
//
// # Who owns the bytes
//
// The payload of a write lies in a buf.Buffer, aligned to 4 KiB, which the server holds
// until the reply is sent. A device reads Request.Data until it completes. To keep the bytes longer
// it calls TakeBuffer, which adds a holder: the device then releases the buffer when it is done,
// at any later time, and does not change the bytes, nor does anybody else.
//
// For a read the server brings such a buffer with undefined contents; the device fills Data or names
// holes, and touches neither after Complete. A device must not leave a byte undefined: it would
// be some other client's.
//
// A Request itself belongs to the server again from Complete on.
//
// # Reconnecting clients
//
// QEMU with reconnect-delay repeats requests whose connection broke, but reports an error reply to
// its guest, ESHUTDOWN too (tried with QEMU 7.2). So a device that was fenced or moves away
// completes with ErrHangup, a moving export is taken from its clients by Server.Hangup, and a
// server that will come back is configured with HangupOnShutdown.
//
// # Locks
//
// Server.mu guards the sets of connections and listeners and is never held across I/O or a
// call to a device. An outbox has a mutex for its queue, a limiter one for its counts, a Client one for what
// is in flight; each is held for a few instructions, calls nothing and is never held with
// another of the three. The writer of an outbox is who set busy under its mutex; only the
// writer touches what is being sent.
package nbd
