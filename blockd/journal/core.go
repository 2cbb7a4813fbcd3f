package journal

import (
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Core is the journal of an open volume: it appends, acknowledges, changes
// ensembles, and says when a read may be served. An Opener makes it. See the
// package comment for who may call it.
type Core struct{}

type member struct{}
type session struct{}

// Append adds b to the end of a stream. The caller has filled Meta, Sums, Payload,
// Count and Free; the core sets Epoch and First, seals b and so takes the first
// reference, kept until b is released (and, of a store that is a little behind,
// until it has it). A caller that keeps b retains it after the call and not before.
// The caller has asked Room. The error is ErrStaleEpoch after a fence; b is then
// not taken.
//
// b is acknowledged when Effects.Acked reaches b.Last().
func (c *Core) Append(now time.Duration, kind storeproto.Kind, b *storeproto.Batch, fx *Effects) error {
	panic("journal: coming")
}

// Room tells whether another batch may be appended to a stream. It turns true
// again with Effects.Acked only.
func (c *Core) Room(kind storeproto.Kind) bool { panic("journal: coming") }

// Done takes back a send that its store finished.
func (c *Core) Done(now time.Duration, s *Send, fx *Effects) { panic("journal: coming") }

// Confirmed takes back a confirm that its store finished.
func (c *Core) Confirmed(now time.Duration, s *ConfirmSend, fx *Effects) { panic("journal: coming") }

// Answer takes metad's answer to an ask.
func (c *Core) Answer(now time.Duration, r AskResult, fx *Effects) { panic("journal: coming") }

// Dropped takes the outcome of a drop.
func (c *Core) Dropped(now time.Duration, d DropSend, err error, fx *Effects) {
	panic("journal: coming")
}

// Release says that the volume needs no LSN of the stream up to and including
// upto any more: for the journal, that a durable commit covers them; for the meta
// stream, that a later checkpoint is committed in metad. upto is at most the last
// acknowledged LSN.
func (c *Core) Release(now time.Duration, kind storeproto.Kind, upto id.LSN, fx *Effects) {
	panic("journal: coming")
}

// CheckpointCommitted says that metad has committed a checkpoint at position of the meta stream.
func (c *Core) CheckpointCommitted(now time.Duration, position id.LSN, fx *Effects) {
	panic("journal: coming")
}

// Tick drives time limits; call it some ten times a second.
func (c *Core) Tick(now time.Duration, fx *Effects) { panic("journal: coming") }

// StoreDown and StoreUp are hints of metad's topology. A store that is down is
// replaced at once.
func (c *Core) StoreDown(now time.Duration, s id.Store, fx *Effects) { panic("journal: coming") }

// StoreUp says that a store lives (again).
func (c *Core) StoreUp(now time.Duration, s id.Store, fx *Effects) { panic("journal: coming") }

// Fence ends the core as a stale epoch does.
func (c *Core) Fence(fx *Effects) { panic("journal: coming") }

// Close ends the core: it drops its references and its claim. Sends in flight are
// still to be brought to Done.
func (c *Core) Close() { panic("journal: coming") }

// MayRead tells whether a read that arrived before the call may be served from
// the volume's state as it is after the call, without a round trip. It needs no
// lock and may be called from any goroutine.
func (c *Core) MayRead(now time.Duration) bool { panic("journal: coming") }

// AskRead joins a read that has arrived to the next round of confirms and returns
// its token: it may be served when Effects.Readable reaches that.
func (c *Core) AskRead(now time.Duration, fx *Effects) uint64 { panic("journal: coming") }

// Next is the LSN that the next appended batch will begin with.
func (c *Core) Next(kind storeproto.Kind) id.LSN { panic("journal: coming") }

// Acked is the last acknowledged LSN.
func (c *Core) Acked(kind storeproto.Kind) id.LSN { panic("journal: coming") }

// Exposed is the last LSN of the stream such that it or an unreleased one below
// counts in a closed ensemble with fewer than two live holders; 0: none. Packing
// up to it is urgent.
func (c *Core) Exposed(kind storeproto.Kind) id.LSN { panic("journal: coming") }

// Status is for people.
func (c *Core) Status() Status { panic("journal: coming") }

// Status shows a core to people.
type Status struct {
	Fenced    bool
	Version   uint64
	Streams   [storeproto.Kinds]StreamStatus
	Ensembles []EnsembleStatus
	ReadsWait uint64 // reads that wait for a round
}

// StreamStatus shows one stream.
type StreamStatus struct {
	Next, Acked, Released id.LSN
	Batches, Bytes        int // kept in memory
}

// EnsembleStatus shows one ensemble.
type EnsembleStatus struct {
	ID      id.Ensemble
	Closed  bool
	Members []MemberStatus
}

// MemberStatus shows one store of an ensemble, or one that is given copies.
type MemberStatus struct {
	Store    id.Store
	State    string // "ok", "failing", "bad", "lost"
	Copy     bool
	Durable  [storeproto.Kinds]id.LSN
	InFlight [storeproto.Kinds]int
}
