// Package core is the engine of one volume as a step function: what to append,
// when a write is acknowledged, what to pack, when a commit may change the map,
// when a checkpoint is cut, what is dead. It starts no goroutine, reads no clock
// and does no I/O. The shell (package volume) calls its methods under the volume's
// mutex and carries out the Effects after unlocking; the simulator is
// another shell.
//
// The way of a write: memory is reserved (write.go), its range is free (locks.go),
// it joins a batch (batch.go), the journal makes it durable (package journal), it
// enters the memtable (memtable.go), the memtable is sealed and packed into
// segments (pack.go), a commit in the meta stream makes them count and changes the
// map (commit.go), a checkpoint makes the commits unnecessary (checkpoint.go).
// A long write goes into a segment first and into the journal after (long.go).
// Opening reads it all back in the opposite order (load.go). Reads are in read.go
// and status.go, the two ends in fence.go and drain.go, what the simulator counts
// again in check.go. DESIGN.md one folder up says why.
package core
