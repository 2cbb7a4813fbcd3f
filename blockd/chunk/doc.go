// Package chunk is one chunk store on one disk: the body of storeproto.Store that
// keeps its promises through a power loss. It is the shell of package
// pkg/storeproto/core, which has the rules; here are the files. DESIGN.md tells
// why it is built so, FORMAT.md has the bytes and the order of writes and syncs.
//
// A store is a directory: STORE (identity), LOCK, log/ (the journal log), index/
// (Pebble), extents/ (shard data). A volume is nothing here but part of a
// stream's name.
//
// A Store is safe for concurrent use. An error of the disk that leaves it unknown
// what is durable (a failed write or sync) is the store's death: every request is
// answered with errs.ErrUnavailable from then on, Done is closed and Err tells
// why. The process lives on.
package chunk
