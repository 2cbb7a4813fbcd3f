// Package log is a store's journal log: preallocated, pre-written, recycled files
// with direct I/O. Everything appended at once goes into one log write, which is
// synced before the next is issued. FORMAT.md of package chunk has the bytes and
// the scan rule.
//
// One goroutine writes (Begin, Add, Flush, Carry); reads, and the accounting of
// what is live, may come from others at the same time. The log decides nothing
// about streams: what may be forgotten it is told by Free.
package log
