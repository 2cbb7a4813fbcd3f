package core

import (
	"fmt"
	"math"
	"sort"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// LossUnknown as Row.LossyTo: synced records were lost and nobody knows how many.
const LossUnknown id.LSN = math.MaxUint64

// Position is where the shell put a batch; the core only keeps it.
type Position struct {
	File    uint32
	Head    uint32 // byte offset of the batch's header in the file
	Payload uint32 // byte offset of its payload in the file
}

// Batch is the index entry of one batch of a stream.
type Batch struct {
	First id.LSN
	Epoch id.Epoch
	Count uint32
	Sum   uint32
	Bytes uint32 // header, meta, sums and payload as written
	Pos   Position
}

// Last is the last LSN.
func (b *Batch) Last() id.LSN { return b.First + id.LSN(b.Count) - 1 }

// BatchOf is the index entry of an append, without a position.
func BatchOf(b *storeproto.Batch) Batch {
	return Batch{First: b.First, Epoch: b.Epoch, Count: b.Count, Sum: b.Sum,
		Bytes: uint32(storeproto.HeaderSize + b.BodySize())}
}

// Row is what a shell persists of a stream besides its batches.
type Row struct {
	Stream   storeproto.Stream
	Base     id.LSN
	Released id.LSN
	// LossyTo: synced records at or below it were lost; LossUnknown where the end
	// is not known. The stream is lossy until a release passes it.
	LossyTo id.LSN
	// Mark is the shell's own.
	Mark uint64
}

// Stream is one stream of the store. Its batches are in order and without gaps
// but where records were lost.
type Stream struct {
	row     Row
	vol     *volume
	tail    id.LSN   // last admitted
	durable id.LSN   // last durable, at least Released
	epoch   id.Epoch // of the last admitted batch
	all     []Batch  // the index; those before head are let go
	head    int
	gone    int // batches let go since the start, to find one by its number
	dropped bool
}

// batches are those the store has, or has in its queue.
func (s *Stream) batches() []Batch { return s.all[s.head:] }

// Row is the stream's row now.
func (s *Stream) Row() Row { return s.row }

// Durable is the last LSN that is durable.
func (s *Stream) Durable() id.LSN { return s.durable }

// Lossy tells whether unreleased synced records were lost.
func (s *Stream) Lossy() bool { return s.row.LossyTo > s.row.Released }

func (s *Stream) state() storeproto.StreamState {
	return storeproto.StreamState{Stream: s.row.Stream, Base: s.row.Base, Released: s.row.Released,
		Tail: s.durable, Lossy: s.Lossy()}
}

// find gives the batch that begins at first.
func (s *Stream) find(first id.LSN) *Batch {
	live := s.batches()
	i := sort.Search(len(live), func(i int) bool { return live[i].First >= first })
	if i < len(live) && live[i].First == first {
		return &live[i]
	}
	return nil
}

// Batches calls f for each durable batch that holds LSNs from from on, in order, until f says stop.
func (s *Stream) Batches(from id.LSN, f func(b Batch) bool) {
	live := s.batches()
	i := sort.Search(len(live), func(i int) bool { return live[i].Last() >= from })
	for ; i < len(live) && live[i].Last() <= s.durable; i++ {
		if !f(live[i]) {
			return
		}
	}
}

// Append decides about an append and gives it its place in the queue. The answer
// comes by Replies, at once if there is nothing to wait for. The shell has
// checked the batch against its sums.
//
//   - Below the volume's fence: ErrStaleEpoch.
//   - Of another epoch than its ensemble's, unless Copy and later: ErrInvalid.
//   - Base creates the stream; without it there must be one: ErrConflict.
//   - The next LSN: admitted. Its batch epoch may not fall: ErrConflict.
//   - At or below the tail: durable if the sums are equal or it was released, else ErrConflict.
func (c *Core) Append(a *storeproto.Append) {
	op := c.newOp()
	op.Append = a
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	op.Kind, op.Err = c.admit(a, op)
	c.enqueue(op)
}

func (c *Core) admit(a *storeproto.Append, op *Op) (OpKind, error) {
	b := a.Batch
	vol := c.volumes[a.Stream.Volume]
	op.vol = vol
	if vol != nil && a.Epoch < vol.fence {
		return OpAnswer, fmt.Errorf("append under %s, fenced at %s: %w", a.Epoch, vol.fence, errs.ErrStaleEpoch)
	}
	if err := c.checkShape(a); err != nil {
		return OpAnswer, err
	}
	s := c.streams[a.Stream]
	if s == nil {
		if err := c.checkCreate(a, vol); err != nil {
			return OpAnswer, err
		}
		s = c.addStream(Row{Stream: a.Stream, Base: b.First})
		op.Creates = true
	}
	op.Stream, op.vol = s, s.vol
	if a.Base && b.First != s.row.Base {
		return OpAnswer, fmt.Errorf("append base %d to a stream of base %d: %w", b.First, s.row.Base, errs.ErrConflict)
	}
	// A stream's tail may be moved up to the released LSN: nobody will ask for
	// what lies between.
	next := b.First == s.tail+1 || b.First > s.tail && b.First == a.Released+1
	switch {
	case next && b.Epoch < s.epoch:
		return OpAnswer, fmt.Errorf("append batch of %s after one of %s: %w", b.Epoch, s.epoch, errs.ErrConflict)
	case next:
		return c.admitNext(a, s, op)
	case b.First > s.tail:
		return OpAnswer, fmt.Errorf("append %d to a stream that ends at %d: %w", b.First, s.tail, errs.ErrConflict)
	case b.Last() <= s.row.Released:
		return OpAnswer, nil
	}
	if have := s.find(b.First); have != nil && have.Sum == b.Sum && have.Count == b.Count && have.Epoch == b.Epoch {
		return OpAnswer, nil
	}
	return OpAnswer, fmt.Errorf("append %d again with other content, the stream ends at %d: %w", b.First, s.tail, errs.ErrConflict)
}

func (c *Core) checkShape(a *storeproto.Append) error {
	b := a.Batch
	switch {
	case a.Released >= LossUnknown/2 || b.First >= LossUnknown/2,
		a.Stream.Kind >= storeproto.Kinds || a.Epoch == 0 || a.Stream.Ensemble.Epoch == 0 || b.Epoch == 0,
		b.First == 0 || b.Count == 0 || b.Count > storeproto.BatchRecordsMax || b.Last() < b.First,
		len(b.Meta) > storeproto.BatchMetaMax || len(b.Sums) > storeproto.BatchBlocksMax:
		return fmt.Errorf("append with a field out of range: %w", errs.ErrInvalid)
	case a.Stream.Kind == storeproto.Journal && storeproto.HeaderSize+b.BodySize() > c.cfg.BatchBytesMax:
		return fmt.Errorf("append of %d bytes, limit %d: %w", b.BodySize(), c.cfg.BatchBytesMax, errs.ErrInvalid)
	case a.Copy && a.Epoch < a.Stream.Ensemble.Epoch, !a.Copy && a.Epoch != a.Stream.Ensemble.Epoch, b.Epoch > a.Epoch:
		return fmt.Errorf("append of %s under %s to a stream of %s: %w", b.Epoch, a.Epoch, a.Stream.Ensemble, errs.ErrInvalid)
	}
	return nil
}

func (c *Core) checkCreate(a *storeproto.Append, vol *volume) error {
	dropped := false
	if vol != nil {
		if all, purged := vol.tombstones[allSegments]; purged && a.Epoch <= all.generation.Epoch {
			return fmt.Errorf("append under %s to a volume that is deleted: %w", a.Epoch, errs.ErrStaleEpoch)
		}
		_, dropped = vol.dropped[a.Stream]
	}
	switch {
	case !a.Base:
		return fmt.Errorf("append to a stream that is not there: %w", errs.ErrConflict)
	case dropped:
		return fmt.Errorf("append to a stream that was dropped: %w", errs.ErrConflict)
	}
	if err := c.checkSeal(a); err != nil {
		return err
	}
	if len(c.streams) >= c.cfg.StreamsMax {
		return fmt.Errorf("append to a new stream, %d exist: %w", len(c.streams), errs.ErrNoSpace)
	}
	return c.checkRoom(a) // do not create what the append could not enter
}

func (c *Core) checkRoom(a *storeproto.Append) error {
	if a.Stream.Kind == storeproto.Meta {
		if c.metaFull {
			return fmt.Errorf("append to a meta stream, the reserve is used up: %w", errs.ErrNoSpace)
		}
		return nil
	}
	if n := int64(storeproto.HeaderSize + a.Batch.BodySize()); c.journalBytes+n > c.cfg.JournalBytesMax {
		return fmt.Errorf("append to the journal, %d bytes unreleased: %w", c.journalBytes, errs.ErrNoSpace)
	}
	return nil
}

func (c *Core) admitNext(a *storeproto.Append, s *Stream, op *Op) (OpKind, error) {
	if err := c.checkRoom(a); err != nil {
		return OpAnswer, err
	}
	b := BatchOf(a.Batch)
	s.tail, s.epoch = b.Last(), b.Epoch
	op.number = s.gone + len(s.all) - s.head
	s.all = append(s.all, b)
	if a.Stream.Kind == storeproto.Journal {
		c.journalBytes += int64(b.Bytes)
	}
	return OpAppend, nil
}

func (c *Core) addStream(row Row) *Stream {
	vol := c.volume(row.Stream.Volume)
	s := &Stream{row: row, vol: vol}
	s.tail = max(row.Base-1, row.Released)
	s.durable = s.tail
	c.streams[row.Stream] = s
	vol.streams = append(vol.streams, s)
	return s
}

// appended moves the stream on: op's batch is durable at op.Pos.
func (c *Core) appended(op *Op) {
	s, a := op.Stream, op.Append
	live := s.batches()
	i := op.number - s.gone
	live[i].Pos = op.Pos
	s.durable = live[i].Last()
	to := a.Released
	if i+1 < len(live) {
		// Invariant: a batch still in the queue is never let go, its op finds it by number.
		to = min(to, live[i+1].First-1)
	}
	c.release(s, to)
}

// release forgets the batches wholly at or below to.
func (c *Core) release(s *Stream, to id.LSN) {
	if to <= s.row.Released {
		return
	}
	s.row.Released = to
	s.tail, s.durable = max(s.tail, to), max(s.durable, to)
	n, live := 0, s.batches()
	for n < len(live) && live[n].Last() <= to {
		n++
	}
	c.forget(s, n)
}

// forgetSlack is how many dead entries of an index are kept for reuse.
const forgetSlack = 256

// forget lets the first n batches of s go.
func (c *Core) forget(s *Stream, n int) {
	for _, b := range s.batches()[:n] {
		c.freed = append(c.freed, Freed{Stream: s.row.Stream, Batch: b})
		if s.row.Stream.Kind == storeproto.Journal {
			c.journalBytes -= int64(b.Bytes)
		}
	}
	s.gone += n
	s.head += n
	switch live := len(s.all) - s.head; {
	case live == 0 && cap(s.all) > 4*forgetSlack:
		s.all, s.head = nil, 0
	case live == 0 || s.head > forgetSlack && s.head > live:
		s.all, s.head = append(s.all[:0], s.batches()...), 0
	}
}

// Stream gives the stream of that name, nil if there is none.
func (c *Core) Stream(name storeproto.Stream) *Stream { return c.streams[name] }

// Streams calls f for every stream, in no order.
func (c *Core) Streams(f func(*Stream)) {
	for _, s := range c.streams {
		f(s)
	}
}

// Moved tells that the batch of s that begins at first now lies at pos. False:
// it was let go meanwhile, and pos is free at once.
func (c *Core) Moved(name storeproto.Stream, first id.LSN, from, to Position) bool {
	s := c.streams[name]
	if s == nil {
		return false
	}
	b := s.find(first)
	if b == nil || b.Pos != from {
		return false
	}
	b.Pos = to
	return true
}
