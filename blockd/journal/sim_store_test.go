package journal

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// simStore is a chunk store in the simulated world: the rules of storeproto/core,
// a disk that keeps what was synced, and syncs that take time.
type simStore struct {
	w      *world
	id     id.Store
	inc    id.Incarnation
	core   *core.Core
	disk   simDisk
	up     bool
	life   uint32
	out    *core.Group
	slow   time.Duration // added to each sync
	paused bool
	parked []func()
	skew   time.Duration
	tick   time.Duration // when a tick is already scheduled
}

type simDisk struct {
	fences  map[id.Volume]core.FenceRow
	rows    map[storeproto.Stream]core.Row
	batches map[storeproto.Stream]map[id.LSN]*storeproto.Batch
	dropped map[storeproto.Stream]id.Epoch
	lossy   map[storeproto.Stream]bool
	rotten  map[*storeproto.Batch]bool // read back with a wrong bit
}

func newSimDisk() simDisk {
	return simDisk{
		fences:  make(map[id.Volume]core.FenceRow),
		rows:    make(map[storeproto.Stream]core.Row),
		batches: make(map[storeproto.Stream]map[id.LSN]*storeproto.Batch),
		dropped: make(map[storeproto.Stream]id.Epoch),
		lossy:   make(map[storeproto.Stream]bool),
		rotten:  make(map[*storeproto.Batch]bool),
	}
}

func (s *simStore) now() time.Duration { return s.w.now + s.skew }

func (s *simStore) member() Member { return Member{Store: s.id, Incarnation: s.inc} }

func (s *simStore) start() {
	s.life++
	s.up = true
	s.core = core.New(core.Config{
		Store: s.id, Incarnation: s.inc, Life: s.life, Started: s.now(), LeaseTerm: s.w.leaseTerm,
	})
	for _, f := range s.disk.fences {
		s.core.RestoreFence(f)
	}
	for n, at := range s.disk.dropped {
		s.core.RestoreDropped(n, at)
	}
	for _, n := range s.w.sortedStreams(s.disk.rows) {
		r := core.Recovered{Row: s.disk.rows[n], TailLost: s.disk.lossy[n]}
		for _, b := range s.disk.batches[n] {
			r.Batches = append(r.Batches, core.BatchOf(b))
		}
		s.core.RestoreStream(r)
	}
	s.core.Restored()
}

// do hands a request to the store, later if it is paused; down it is refused.
func (s *simStore) do(f func(), refuse func(error)) {
	if s.paused {
		s.parked = append(s.parked, func() { s.do(f, refuse) })
		return
	}
	if !s.up {
		refuse(fmt.Errorf("store %s is down: %w", s.id, errs.ErrUnavailable))
		return
	}
	f()
	s.run()
}

// run delivers answers and starts the next sync.
func (s *simStore) run() {
	for {
		replies := s.core.Replies(nil)
		for _, r := range replies {
			r.Deliver()
		}
		if s.out == nil && !s.paused {
			if g := s.core.Take(64, 1<<20); g != nil {
				s.out = g
				life := s.life
				s.w.after(s.w.between(100*time.Microsecond, time.Millisecond)+s.slow, func() { s.synced(g, life) })
			}
		}
		if len(replies) == 0 {
			break
		}
	}
	if due, ok := s.core.NextTick(); ok && (s.tick <= s.now() || due < s.tick) {
		s.tick = max(due, s.now()+time.Millisecond)
		life := s.life
		s.w.after(s.tick-s.now(), func() {
			s.do(func() {
				if s.life == life {
					s.core.Tick(s.now())
				}
			}, func(error) {})
		})
	}
}

func (s *simStore) synced(g *core.Group, life uint32) {
	if s.life != life || !s.up {
		return
	}
	if s.paused {
		s.parked = append(s.parked, func() { s.synced(g, life) })
		return
	}
	for op := g.First(); op != nil; op = op.Next() {
		s.write(op)
	}
	s.out = nil
	s.core.Durable(g)
	for _, f := range s.core.Freed(nil) {
		delete(s.disk.batches[f.Stream], f.Batch.First)
	}
	s.run()
}

func (s *simStore) write(op *core.Op) {
	switch op.Kind {
	case core.OpAppend:
		n, b := op.Append.Stream, op.Append.Batch
		row, ok := s.disk.rows[n]
		if !ok {
			row = op.Stream.Row()
			s.disk.batches[n] = make(map[id.LSN]*storeproto.Batch)
		}
		b.Retain()
		s.disk.batches[n][b.First] = b
		row.Released = max(row.Released, op.Append.Released)
		s.disk.rows[n] = row
	case core.OpFence:
		s.disk.fences[op.Fence.Req.Volume] = op.Fence.Row()
	case core.OpDrop:
		for _, row := range op.Control.Dropped {
			delete(s.disk.rows, row.Stream)
			delete(s.disk.batches, row.Stream)
			delete(s.disk.lossy, row.Stream)
			s.disk.dropped[row.Stream] = op.Control.DropEpoch
		}
	}
}

// crash loses what was not synced: of the sync under way a prefix survives.
func (s *simStore) crash() {
	if !s.up {
		return
	}
	s.up = false
	if s.out != nil {
		keep := s.w.rng.IntN(s.out.Len() + 1)
		for op := s.out.First(); op != nil && keep > 0; op = op.Next() {
			s.write(op)
			keep--
		}
	}
	s.core.Kill(nil)
	if s.out != nil {
		s.core.Abandon(s.out)
		s.out = nil
	}
	for _, r := range s.core.Replies(nil) {
		r.Deliver()
	}
	s.resume()
}

func (s *simStore) restart() {
	s.crash()
	s.start()
	s.run()
}

func (s *simStore) resume() {
	s.paused = false
	parked := s.parked
	s.parked = nil
	for _, f := range parked {
		f()
	}
	if s.up {
		s.run()
	}
}

// wipe gives the store another incarnation and nothing else.
func (s *simStore) wipe() {
	s.crash()
	s.disk = newSimDisk()
	s.inc = s.w.newIncarnation()
}

// loseRecords loses synced records of a stream, from a random place on, and knows it.
func (s *simStore) loseRecords(n storeproto.Stream) {
	s.crash()
	row, ok := s.disk.rows[n]
	if !ok {
		return
	}
	from := row.Base + id.LSN(s.w.rng.IntN(20))
	for first, b := range s.disk.batches[n] {
		if b.Last() >= from {
			delete(s.disk.batches[n], first)
		}
	}
	s.disk.lossy[n] = true
}

// rot damages one batch of a stream, which nobody notices before it is read.
func (s *simStore) rot(n storeproto.Stream) {
	var firsts []id.LSN
	for first := range s.disk.batches[n] {
		firsts = append(firsts, first)
	}
	if len(firsts) > 0 {
		slices.Sort(firsts)
		s.disk.rotten[s.disk.batches[n][firsts[s.w.rng.IntN(len(firsts))]]] = true
	}
}

func (s *simStore) fetch(f storeproto.Fetch) (r storeproto.FetchReply, err error) {
	st := s.core.Stream(f.Stream)
	if st == nil {
		return r, fmt.Errorf("fetch from no stream: %w", errs.ErrNotFound)
	}
	n := 0
	st.Batches(f.From, func(b core.Batch) bool {
		have := s.disk.batches[f.Stream][b.First]
		if n++; n > 3 || n > 1 && f.BytesMax == 1 {
			r.More = true
			return false
		}
		if s.disk.rotten[have] {
			if s.w.rng.IntN(2) == 0 {
				r, err = storeproto.FetchReply{}, errs.ErrCorrupt
				return false
			}
			bad := &storeproto.Batch{Epoch: have.Epoch, First: have.First, Count: have.Count, Meta: append([]byte{1}, have.Meta...), Sum: have.Sum}
			bad.Retain()
			r.Batches = append(r.Batches, bad)
			return true
		}
		have.Retain()
		r.Batches = append(r.Batches, have)
		return true
	})
	return r, nil
}
