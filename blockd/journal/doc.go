// Package journal is the replicated journal of one volume as pure cores: Opener
// fences and recovers it (DESIGN.md here has the rules), Core appends to it,
// changes its ensembles and guards its reads, Leases counts the grants of one
// process.
//
// The package does no I/O, reads no clock, starts no goroutine and logs nothing.
// Time is now, CLOCK_BOOTTIME as a duration, and is passed in. A step takes an
// *Effects and adds to it what its owner, the shell, must do. What the shell did
// comes back as another step.
//
// Core and Opener are not safe for concurrent use: any goroutine may step one
// under its owner's mutex (Core.MayRead alone needs no lock). Leases is safe for
// concurrent use; its lock is a leaf. Nothing here calls back into the shell,
// save Batch.Free, which may be called within any step and must not step a core.
//
// Effects of consecutive steps of one core must be carried out in the order of
// the steps, outside the mutex, because a store takes a stream's appends in
// order only. The way to do so: keep one Effects beside the core, let every step
// add to it, and let one goroutine at a time swap it for an empty one and carry
// it out until it stays empty.
//
// Effects whose order matters have it in their comments; the rest may be carried
// out in any order and need no durability of their own: everything the journal
// knows is on the stores and in metad.
package journal
