package cluster

import "time"

// Care is what a store found of its own shards.
type Care struct {
	// Since the store was formatted: shards found wrong, shards that were not there, and those of both put right again.
	Wrong, Missing, Mended uint64
	Stuck                  uint32 // wrong now, and too few others are right
	Problem                string // of one of these
	Flagged                bool   // so many, so fast that the disk is not to be trusted
	// The pass over all shards that nobody asked for; a zero time: none is under way, none has ended.
	PassBegan, PassEnded  time.Time
	PassShards, PassBytes uint64
}

// ScrubState is how far a scrub is; the numbers are those of the wire.
type ScrubState uint8

// The states.
const (
	ScrubWaiting ScrubState = iota + 1
	ScrubRunning
	ScrubDone
	ScrubAway // the store does not answer
)

// ScrubsMax bounds the scrubs that a store remembers; the oldest that is done goes first.
const ScrubsMax = 16

// ScrubProgress is what a scrub of one store has found.
type ScrubProgress struct {
	ID                  [16]byte // chosen by who asked
	State               ScrubState
	Shards, Bytes       uint64 // looked at
	AllShards, AllBytes uint64 // that there were when it began
	Wrong, Missing      uint64 // shards
	Mended, Stuck       uint64
	NotCompared         uint64 // groups of which not all stores could be asked
	Problem             string // of a shard that is stuck, or why stores could not be compared
}
