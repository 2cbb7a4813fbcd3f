// Package storeproto is the seam between a volume engine and a chunk store: the
// requests, their answers, and the interface Store that both a store in the same
// process and a connection to a distant one implement.
//
// A store knows streams and shards. It does not know what a record or a segment
// means: a Batch is an opaque head and checksummed 4 KiB blocks.
//
// Requests on the I/O path (Append, ReadShard, PutShard, Confirm, Lease) are
// structs that their sender owns and may pool: the sender sets the input fields
// and Done, calls the method, and must not touch the struct until Done is
// called, exactly once, inline or from any goroutine. Done must not block. The
// rest are plain calls with a context.
//
// PROTOCOL.md has the bytes; the same header is written to a store's log.
package storeproto
