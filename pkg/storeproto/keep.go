package storeproto

import "context"

// Keeper is what a store offers, beside Store, to whoever looks after its shards on its
// own host: package repair. None of it crosses the wire. Safe for concurrent use.
type Keeper interface {
	Lister
	// NextShards gives the shards whose names come after after, in order, at most limit.
	NextShards(after ShardName, limit int) ([]ShardInfo, error)
	// VerifyShard reads a shard from the disk and checks every block and its head. pace is
	// asked before each piece is read and ends the check with its error. ErrNotFound: there
	// is no such shard (any more); ErrCorrupt: it is wrong. Nothing is changed, and nothing
	// that a client waits for is held up while pace waits.
	VerifyShard(ctx context.Context, n ShardName, pace func(bytes int) error) error
	// ReplaceShard puts right bytes in the place of a shard that is there and wrong. What it
	// is given must be what the store's index says of the shard, else ErrConflict: nobody can
	// have it change what was put. ErrNotFound: the shard is not there, or was deleted
	// meanwhile; it does not come back. Readers see the old or the new bytes. Durable when
	// it returns.
	ReplaceShard(context.Context, *PutShard) error
	// RemoveShards deletes shards and leaves no tombstones: they belong to other stores now.
	// Nobody may be putting them. Durable when it returns.
	RemoveShards(context.Context, ...ShardName) error
	// Suspects gives, once, the shards that reads found wrong, or asked for by name and did
	// not find, since the last call.
	Suspects() []ShardName
	// Suspected is sent to when there are some.
	Suspected() <-chan struct{}
	// Care is what SaveCare kept last; zero if nothing.
	Care() (Care, error)
	// SaveCare keeps c over restarts. Durable when it returns.
	SaveCare(Care) error
}

// SuspectsMax bounds the shards that a store remembers as suspect; a scrub finds the rest.
const SuspectsMax = 4096

// Care is what a store remembers of the care for its shards. Times are milliseconds since 1970.
type Care struct {
	// The pass over all shards that is under way; BeganMS 0: none.
	BeganMS int64
	After   ShardName // the last one looked at
	Shards  uint64    // looked at in this pass
	Bytes   uint64
	EndedMS int64 // when the last whole pass ended
	// Since the store was formatted:
	Wrong   uint64 // shards found wrong
	Missing uint64 // shards that should have been there and were not
	Mended  uint64 // put right again
	// Score rises with each shard found wrong or missing and fades with time, in thousandths,
	// as of ScoreMS; Flagged: it rose so high that the disk is not to be trusted.
	Score   uint32
	ScoreMS int64
	Flagged bool
}
