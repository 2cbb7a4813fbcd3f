package storeproto

import (
	"context"
	"time"

	"ashlar.dev/pkg/id"
)

// Store is one chunk store as an engine sees it. Safe for concurrent use.
//
// Errors are classes of pkg/errs. ErrStaleEpoch: a fence above the request's
// epoch is in force; the sender is no longer the owner. ErrConflict: the request
// does not follow the stream's tail, or differs from what is there. ErrNoSpace:
// above the store's mark. ErrCorrupt: the request's or the stored bytes fail
// their check. ErrUnavailable, ErrTimeout: the store cannot be reached or has
// died; whether the request was carried out is unknown.
type Store interface {
	// Append adds one batch to a stream. Done reports it durable.
	Append(*Append)
	// ReadShard reads slots of one shard.
	ReadShard(*ReadShard)
	// PutShard writes one whole shard. Done reports it durable and visible.
	PutShard(*PutShard)
	// Confirm asks whether an epoch is still the newest the store knows of a volume.
	Confirm(*Confirm)
	// Lease asks for a grant; see Lease.
	Lease(*Lease)

	// Fence raises a volume's fence; see Fence.
	Fence(context.Context, Fence) (FenceReply, error)
	// Fetch reads batches of a stream, for recovery.
	Fetch(context.Context, Fetch) (FetchReply, error)
	// Drop forgets streams of a volume; see Drop.
	Drop(context.Context, Drop) error
	// Release ends a holder's claim on a volume, so that a fence need not wait for its grants.
	Release(context.Context, Release) error
	// DeleteShards deletes segments by name and leaves tombstones; see DeleteShards.
	DeleteShards(context.Context, DeleteShards) error
	// ShardHeads gives the headers of the generations of a segment's shards that the store has.
	ShardHeads(context.Context, id.Segment) ([]ShardHead, error)
}

// Kind tells a volume's two streams apart.
type Kind uint8

// The journal has the data, the meta stream commits and checkpoints.
const (
	Journal Kind = iota
	Meta
	Kinds = 2
)

func (k Kind) String() string {
	switch k {
	case Journal:
		return "journal"
	case Meta:
		return "meta"
	}
	return "unknown"
}

// Stream names one stream on a store.
type Stream struct {
	Volume   id.Volume
	Ensemble id.Ensemble
	Kind     Kind
}

// Append adds Batch at the end of Stream. The first append of a stream has Base
// set and creates it, at or above the volume's fence; any other must begin right
// after the tail. A batch at or below the tail with an equal sum is answered as
// durable; with another sum, ErrConflict. Appends of one sender to one stream
// are handled in the order of the calls, and answered in that order.
//
// Epoch is the epoch under which the sender owns the volume; for the streams of
// an ensemble it is the ensemble's own, but for a copy into a stream of an older
// ensemble (Copy set), where it is the later one. Each batch keeps the epoch it
// was written under.
type Append struct {
	Stream   Stream
	Epoch    id.Epoch
	Batch    *Batch
	Base     bool
	Copy     bool
	Released id.LSN // batches wholly at or below may be forgotten by the store

	Err  error  // the answer
	Tail id.LSN // last durable LSN of the stream; valid when Err is nil
	Done func(*Append)
}

// Confirm asks whether no fence above Epoch has arrived for Volume.
// Err is nil for yes, ErrStaleEpoch for no.
type Confirm struct {
	Volume id.Volume
	Epoch  id.Epoch

	Err  error
	Done func(*Confirm)
}

// Lease asks for a grant of Term, counted by the holder from the moment it sent
// the request and by the store from the moment it answers, so the store's view
// ends later. The store may hold the request for up to Wait and answers at once
// when a volume must be named. Named lists volumes fenced for others since
// Acked; the holder must stop serving them, and whatever it is still opening at a
// lower epoch, before it counts the grant and acknowledges by the next request's
// Acked. A holder has one Lease in flight per
// store. A higher Number of the same host ends all grants of the lower ones.
type Lease struct {
	Holder id.Holder
	Acked  uint64 // the highest Naming applied
	Wait   time.Duration

	Err    error
	Term   time.Duration
	Naming uint64
	Named  []NamedFence
	Done   func(*Lease)
}

// NamedFence says that Volume was fenced at Epoch: lower epochs serve nothing any more.
type NamedFence struct {
	Volume id.Volume
	Epoch  id.Epoch
}

// Fence raises the fence of Volume to Epoch: through the same queue as appends
// and once for both streams. When it returns, everything admitted before is
// durable and within the tails; nothing below Epoch is admitted, confirmed or
// acknowledged after; the fence is persisted; and no holder but By can still
// count a grant for Volume: each has run out, acknowledged the naming, released
// the volume, or is proven dead. Prior are the hosts that may have served the
// volume before; when all of them are By's own host (whose earlier lives are
// proven dead by By.Number) or listed in Released the store need not wait, even
// right after its own start. Fencing again at the same epoch by the same holder
// is harmless; at a lower epoch: ErrStaleEpoch. By serves nothing of the volume
// under a lower epoch from before it asks: its own fence is not named to it.
type Fence struct {
	Volume id.Volume
	Epoch  id.Epoch
	By     id.Holder
	Prior  []id.Host
}

// FenceReply tells what a store has of a volume.
type FenceReply struct {
	Store       id.Store
	Incarnation id.Incarnation
	// Lossy: the store knows it lost synced records of some stream; it lends
	// records but does not count as an answer.
	Lossy   bool
	Streams []StreamState
}

// StreamState is one stream's extent on a store. LSNs from Base to Tail are
// there, except those at or below Released. Tail < Base: empty.
type StreamState struct {
	Stream   Stream
	Base     id.LSN
	Released id.LSN
	Tail     id.LSN
	Lossy    bool
}

// Fetch reads batches of a stream that hold LSNs from From on.
type Fetch struct {
	Stream   Stream
	From     id.LSN
	BytesMax int // stop after as many bytes of payload; at least one batch is returned if there is one
}

// FetchReply has batches in order, of each one reference that is the caller's. More
// tells that the stream goes on.
type FetchReply struct {
	Batches []*Batch
	More    bool
}

// Drop forgets, durably, the streams of Volume whose ensembles are not in Keep
// and whose ensemble epoch is at most Epoch. Ensembles newer than every one in
// Keep stay too: a drop that arrives late cannot take a stream it did not know of. Sent only after the list without
// them is committed in metad. The fence stays.
type Drop struct {
	Volume id.Volume
	Epoch  id.Epoch
	Keep   []id.Ensemble
}

// Release ends By's claim on Volume under epochs up to Epoch.
type Release struct {
	Volume id.Volume
	Epoch  id.Epoch
	By     id.Holder
}
