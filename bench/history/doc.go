// Package history is a test: whole volumes on stores in memory, with all that makes a past and a future of them (snapshots,
// clones and clones of clones, rollbacks, deletions, flattening, growth, archives against bases and whole, disks that are
// made of these and brought in), while segments are packed and cleaned, owners die and stores crash, against flat bytes.
//
// What a snapshot is, its bytes, its size and its holes, is known from the model when it is taken, and compared again and
// again: read from its disk, read from the archive by a reader that knows no cluster, and read from disks made of it.
// The engine, the restores and the uploads are the real ones; metad is the engine tests' (blockd/volume/coretest), and the tests say
// what the real one would: which snapshot an upload is against, and what must not be deleted.
//
// The longest run recorded: make history SEEDS=300 at 9737a6d (2026-11-23, two cores that others used, too) passed in 236 s: 1,268
// snapshots, 479 clones, 450 archives, 394 restores, 282 rollbacks, 131 flattenings, 184 disks removed, 614 crashes of stores and 615 deaths of owners.
package history
