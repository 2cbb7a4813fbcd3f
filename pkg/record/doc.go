// Package record has the bytes of a volume's two streams: the headers of journal
// records within a batch (Journal), and the records of the meta stream (Meta).
//
// A batch is checksummed as a whole by storeproto; here is only what its Meta
// bytes say. Decoders take any input without panic and bound what they
// allocate by it; their errors are of class errs.ErrCorrupt.
package record
