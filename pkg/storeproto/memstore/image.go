package memstore

import (
	"cmp"
	"fmt"
	"slices"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// image is what survives a crash.
type image struct {
	fences  map[id.Volume]core.FenceRow
	rows    map[storeproto.Stream]core.Row
	batches map[storeproto.Stream]map[id.LSN]*storeproto.Batch // retained
	dropped map[storeproto.Stream]id.Epoch
	tombs   map[tombKey]core.Tombstone
	pgs     map[id.PG]uint32
	shards  map[id.Segment][]*shard
	care    storeproto.Care
}

type tombKey struct {
	volume  id.Volume
	segment id.Segment
}

type shard struct {
	head storeproto.ShardHead
	data []byte
	err  error
}

func newImage() image {
	return image{
		fences:  make(map[id.Volume]core.FenceRow),
		rows:    make(map[storeproto.Stream]core.Row),
		batches: make(map[storeproto.Stream]map[id.LSN]*storeproto.Batch),
		dropped: make(map[storeproto.Stream]id.Epoch),
		tombs:   make(map[tombKey]core.Tombstone),
		pgs:     make(map[id.PG]uint32),
		shards:  make(map[id.Segment][]*shard),
	}
}

// restore fills a new core.
func (m *image) restore(c *core.Core) {
	for _, f := range m.fences {
		c.RestoreFence(f)
	}
	for s, at := range m.dropped {
		c.RestoreDropped(s, at)
	}
	for _, t := range m.tombs {
		c.RestoreTombstone(t)
	}
	for pg, v := range m.pgs {
		c.RestorePG(core.PGVersion{PG: pg, Version: v})
	}
	for name, row := range m.rows {
		r := core.Recovered{Row: row}
		for _, b := range m.batches[name] {
			r.Batches = append(r.Batches, core.BatchOf(b))
		}
		c.RestoreStream(r)
		m.rows[name] = c.Stream(name).Row()
	}
	c.Restored()
}

// write carries out one op.
func (m *image) write(op *core.Op) {
	switch op.Kind {
	case core.OpAppend:
		name, b := op.Append.Stream, op.Append.Batch
		row, ok := m.rows[name]
		if !ok {
			row = op.Stream.Row()
			m.batches[name] = make(map[id.LSN]*storeproto.Batch)
		}
		if prev := m.batches[name][b.First]; prev != nil {
			prev.Release()
		}
		b.Retain()
		m.batches[name][b.First] = b
		row.Released = max(row.Released, op.Append.Released)
		m.rows[name] = row
	case core.OpFence:
		m.fences[op.Fence.Req.Volume] = op.Fence.Row()
	case core.OpDrop:
		for _, row := range op.Control.Dropped {
			for _, b := range m.batches[row.Stream] {
				b.Release()
			}
			delete(m.rows, row.Stream)
			delete(m.batches, row.Stream)
			m.dropped[row.Stream] = op.Control.DropEpoch
		}
	case core.OpTombstones:
		for _, t := range op.Control.Tombstones {
			m.tombs[tombKey{t.Volume, t.Segment}] = t
			m.delete(t.Segment, func(h *storeproto.ShardHead) bool {
				return h.Volume == t.Volume && !t.Generation.Less(h.Generation)
			})
		}
		for _, t := range op.Control.Pruned {
			delete(m.tombs, tombKey{t.Volume, t.Segment})
		}
	case core.OpPG:
		for _, v := range op.Control.PGs {
			m.pgs[v.PG] = v.Version
		}
	case core.OpShard:
		m.put(op.Control.Shard.(*shard))
	}
}

// forget lets a released batch go.
func (m *image) forget(f core.Freed) {
	if b := m.batches[f.Stream][f.Batch.First]; b != nil {
		delete(m.batches[f.Stream], f.Batch.First)
		b.Release()
	}
}

func (m *image) free() {
	for _, s := range m.batches {
		for _, b := range s {
			b.Release()
		}
	}
}

func newShard(p *storeproto.PutShard) (*shard, error) {
	if err := p.Head.Validate(); err != nil {
		return nil, err
	}
	sh := &shard{head: copyHead(p.Head)}
	for _, d := range p.Data {
		sh.data = append(sh.data, d...)
	}
	if len(sh.data) != int(p.Head.Blocks)*storeproto.BlockSize {
		return nil, fmt.Errorf("put shard of %d bytes, head has %d blocks: %w", len(sh.data), p.Head.Blocks, errs.ErrInvalid)
	}
	for i := range p.Head.Sums {
		if err := checkBlock("put shard", p.Head, sh.data[i*storeproto.BlockSize:][:storeproto.BlockSize], uint16(i)); err != nil {
			return nil, err
		}
	}
	return sh, nil
}

func copyHead(h *storeproto.ShardHead) storeproto.ShardHead {
	c := *h
	c.Entries, c.Sums = slices.Clone(h.Entries), slices.Clone(h.Sums)
	return c
}

func checkBlock(place string, h *storeproto.ShardHead, b []byte, i uint16) error {
	if got := storeproto.BlockSum(codec.CRC(b), h.Segment, h.Index, i); got != h.Sums[i] {
		return &errs.Corrupt{Place: place, Offset: int64(i) * storeproto.BlockSize, What: "block sum", Want: uint64(h.Sums[i]), Got: uint64(got)}
	}
	return nil
}

func (m *image) put(sh *shard) {
	for _, have := range m.shards[sh.head.Segment] {
		if have.head.Generation == sh.head.Generation && have.head.Index == sh.head.Index {
			if !have.head.Equal(&sh.head) {
				sh.err = fmt.Errorf("put shard of %s again with other content: %w", sh.head.Segment, errs.ErrConflict)
			}
			return
		}
	}
	m.shards[sh.head.Segment] = append(m.shards[sh.head.Segment], sh)
}

func (m *image) delete(seg id.Segment, doomed func(*storeproto.ShardHead) bool) {
	kept := slices.DeleteFunc(m.shards[seg], func(s *shard) bool { return doomed(&s.head) })
	if m.shards[seg] = kept; len(kept) == 0 {
		delete(m.shards, seg)
	}
}

func (m *image) find(seg id.Segment, g id.Generation, index uint8) *shard {
	var best *shard
	for _, s := range m.shards[seg] {
		h := &s.head
		if h.Index == index && (h.Generation == g || g == id.Generation{} && (best == nil || best.head.Generation.Less(h.Generation))) {
			best = s
		}
	}
	return best
}

func (m *image) read(r *storeproto.ReadShard) error {
	sh := m.find(r.Segment, r.Generation, r.Index)
	if sh == nil {
		return fmt.Errorf("read shard %d of %s: %w", r.Index, r.Segment, errs.ErrNotFound)
	}
	r.Got = sh.head.Generation
	n := int(r.Count) * storeproto.BlockSize
	if r.Count == 0 || int(r.First)+int(r.Count) > int(sh.head.Blocks) || len(r.Dst) != n || len(r.Sums) != int(r.Count) {
		return fmt.Errorf("read %d blocks from %d of a shard of %d: %w", r.Count, r.First, sh.head.Blocks, errs.ErrInvalid)
	}
	copy(r.Dst, sh.data[int(r.First)*storeproto.BlockSize:][:n])
	copy(r.Sums, sh.head.Sums[r.First:])
	for i := range int(r.Count) {
		if err := checkBlock("shard", &sh.head, r.Dst[i*storeproto.BlockSize:][:storeproto.BlockSize], r.First+uint16(i)); err != nil {
			return err
		}
	}
	return nil
}

func (m *image) heads(seg id.Segment) []storeproto.ShardHead {
	var heads []storeproto.ShardHead
	for _, s := range m.shards[seg] {
		heads = append(heads, copyHead(&s.head))
	}
	slices.SortFunc(heads, func(a, b storeproto.ShardHead) int {
		switch {
		case a.Generation.Less(b.Generation):
			return -1
		case b.Generation.Less(a.Generation):
			return 1
		}
		return int(a.Index) - int(b.Index)
	})
	return heads
}

// Damage flips a bit of one block of a shard: reads of it are ErrCorrupt. False: no such shard.
func (s *Store) Damage(seg id.Segment, g id.Generation, index uint8, block uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.mu.disk.find(seg, g, index)
	if sh == nil || block >= sh.head.Blocks {
		return false
	}
	sh.data[int(block)*storeproto.BlockSize] ^= 1
	return true
}

// LoseShards loses the shards of a segment, as if they had never been put.
func (s *Store) LoseShards(seg id.Segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.disk.delete(seg, func(*storeproto.ShardHead) bool { return true })
}

// Shards calls f with every shard's head.
func (s *Store) Shards(f func(storeproto.ShardHead)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.mu.disk.shards {
		for _, sh := range list {
			f(copyHead(&sh.head))
		}
	}
}

// LoseRecords loses the durable batches of a stream from an LSN on: at the next
// Restart the store knows that it lost synced records, and says so.
func (s *Store) LoseRecords(name storeproto.Stream, from id.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for first, b := range s.mu.disk.batches[name] {
		if b.Last() >= from {
			delete(s.mu.disk.batches[name], first)
			b.Release()
		}
	}
	row := s.mu.disk.rows[name]
	row.LossyTo = core.LossUnknown
	s.mu.disk.rows[name] = row
}

func (m *image) list(q storeproto.ListShards) (list storeproto.ShardList) {
	var all []storeproto.ShardInfo
	for seg, shards := range m.shards {
		for _, sh := range shards {
			if x := sh.head.Info(); (q.Volume.IsZero() && seg.PG() == q.PG || x.Volume == q.Volume) && x.Compare(q.After) > 0 {
				all = append(all, x)
			}
		}
	}
	slices.SortFunc(all, func(a, b storeproto.ShardInfo) int { return a.Compare(b.ShardName) })
	if limit := cmp.Or(q.Limit, storeproto.ListMax); len(all) > limit {
		all, list.More = all[:limit], true
	}
	if list.Shards = all; len(all) > 0 {
		list.Next = all[len(all)-1].ShardName
	}
	return list
}
