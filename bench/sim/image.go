package sim

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// image is what a store's index and shards are after a loss of power: it stands for
// Pebble, whose batches are there wholly or not at all, and for the extents.
type image struct {
	life    uint32
	fences  map[id.Volume]core.FenceRow
	rows    map[storeproto.Stream]core.Row
	metas   map[storeproto.Stream]map[id.LSN]*storeproto.Batch
	dropped map[storeproto.Stream]id.Epoch
	tombs   map[tombKey]core.Tombstone
	pgs     map[id.PG]uint32
	shards  map[storeproto.ShardName]*shard
	bytes   int64 // of shards
	groups  map[id.PG]int64
	sorted  []storeproto.ShardName // all names; nil: not known since the last change
	care    storeproto.Care
}

type tombKey struct {
	volume  id.Volume
	segment id.Segment
}

type shard struct {
	head  storeproto.ShardHead
	data  []byte // never changed, only replaced: stores, and reads under way, may share it
	wrong bool   // damaged by the world, which keeps count
	err   error
}

func newImage(wall time.Time) *image {
	return &image{
		groups: make(map[id.PG]int64),
		care:   storeproto.Care{EndedMS: wall.UnixMilli()},
		fences: make(map[id.Volume]core.FenceRow), rows: make(map[storeproto.Stream]core.Row),
		metas:   make(map[storeproto.Stream]map[id.LSN]*storeproto.Batch),
		dropped: make(map[storeproto.Stream]id.Epoch), tombs: make(map[tombKey]core.Tombstone),
		pgs: make(map[id.PG]uint32), shards: make(map[storeproto.ShardName]*shard),
	}
}

func compareStreams(a, b storeproto.Stream) int {
	return cmp.Or(bytes.Compare(a.Volume[:], b.Volume[:]), cmp.Compare(a.Ensemble.Epoch, b.Ensemble.Epoch),
		cmp.Compare(a.Ensemble.N, b.Ensemble.N), cmp.Compare(a.Kind, b.Kind))
}

func (m *image) streams() []storeproto.Stream {
	return slices.SortedFunc(maps.Keys(m.rows), compareStreams)
}

// write carries out the part of an op that is the index's; mark is the log's number for
// streams made with it.
func (m *image) write(op *core.Op, mark uint64) {
	switch op.Kind {
	case core.OpAppend:
		m.append(op, mark)
	case core.OpFence:
		m.fences[op.Fence.Req.Volume] = op.Fence.Row()
	case core.OpDrop:
		for _, row := range op.Control.Dropped {
			delete(m.rows, row.Stream)
			delete(m.metas, row.Stream)
			m.dropped[row.Stream] = op.Control.DropEpoch
		}
	case core.OpTombstones:
		for _, t := range op.Control.Tombstones {
			m.tombs[tombKey{t.Volume, t.Segment}] = t
			m.remove(func(h *storeproto.ShardHead) bool {
				return h.Volume == t.Volume && (t.Segment == 0 || h.Segment == t.Segment) && !t.Generation.Less(h.Generation)
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

func (m *image) append(op *core.Op, mark uint64) {
	a := op.Append
	if row, ok := m.rows[a.Stream]; !ok && op.Creates {
		row = op.Stream.Row()
		row.Mark = mark
		m.rows[a.Stream] = row
	}
	if a.Stream.Kind != storeproto.Meta {
		return
	}
	row, ok := m.rows[a.Stream]
	if !ok {
		return // dropped behind it
	}
	row.Released = max(row.Released, a.Released)
	m.rows[a.Stream] = row
	if m.metas[a.Stream] == nil {
		m.metas[a.Stream] = make(map[id.LSN]*storeproto.Batch)
	}
	m.metas[a.Stream][a.Batch.First] = a.Batch
}

func (m *image) put(sh *shard) {
	name := sh.head.Info().ShardName
	if have := m.shards[name]; have != nil {
		if !have.head.Equal(&sh.head) {
			sh.err = fmt.Errorf("put shard of %s again with other content: %w", name.Segment, errs.ErrConflict)
		}
		return
	}
	m.shards[name] = sh
	m.count(name, len(sh.data))
}

// count counts bytes that came or went.
func (m *image) count(name storeproto.ShardName, n int) {
	m.bytes += int64(n)
	m.sorted = nil
	m.groups[name.Segment.PG()] += int64(n)
}

// groupUses tells the bytes of each group, by number.
func (m *image) groupUses() (out []cluster.GroupUse) {
	for pg, n := range m.groups {
		if n > 0 {
			out = append(out, cluster.GroupUse{PG: pg, Bytes: uint64(n)})
		}
	}
	slices.SortFunc(out, func(a, b cluster.GroupUse) int { return cmp.Compare(a.PG, b.PG) })
	return out
}

func (m *image) remove(doomed func(*storeproto.ShardHead) bool) {
	for name, sh := range m.shards {
		if doomed(&sh.head) {
			m.count(name, -len(sh.data))
			delete(m.shards, name)
		}
	}
}

// names are all shards, in order. Who has the list does not change it.
func (m *image) names() []storeproto.ShardName {
	if m.sorted == nil {
		m.sorted = slices.SortedFunc(maps.Keys(m.shards), storeproto.ShardName.Compare)
	}
	return m.sorted
}

// right tells whether all shards are what they were.
func (m *image) right() bool {
	for _, sh := range m.shards {
		if sh.wrong {
			return false
		}
	}
	return true
}

func (m *image) find(seg id.Segment, g id.Generation, index uint8) *shard {
	if g != (id.Generation{}) {
		return m.shards[storeproto.ShardName{Segment: seg, Generation: g, Index: index}]
	}
	var best *shard
	for n, sh := range m.shards {
		if n.Segment == seg && n.Index == index && (best == nil || best.head.Generation.Less(n.Generation)) {
			best = sh
		}
	}
	return best
}

// read lends blocks of a shard: r.Dst are the image's own bytes then.
func (m *image) read(r *storeproto.ReadShard) error {
	sh := m.find(r.Segment, r.Generation, r.Index)
	if sh == nil {
		return fmt.Errorf("read shard %d of %s: %w", r.Index, r.Segment, errs.ErrNotFound)
	}
	r.Got = sh.head.Generation
	n := int(r.Count) * storeproto.BlockSize
	if r.Count == 0 || int(r.First)+int(r.Count) > int(sh.head.Blocks) || len(r.Sums) != int(r.Count) {
		return fmt.Errorf("read %d blocks from %d of a shard of %d: %w", r.Count, r.First, sh.head.Blocks, errs.ErrInvalid)
	}
	r.Dst = sh.data[int(r.First)*storeproto.BlockSize:][:n]
	copy(r.Sums, sh.head.Sums[r.First:])
	for i := range int(r.Count) {
		b := r.Dst[i*storeproto.BlockSize:][:storeproto.BlockSize]
		if got := storeproto.BlockSum(codec.CRC(b), r.Segment, r.Index, r.First+uint16(i)); got != r.Sums[i] {
			return &errs.Corrupt{Place: "shard", Offset: int64(r.First+uint16(i)) * storeproto.BlockSize, What: "block sum", Want: uint64(r.Sums[i]), Got: uint64(got)}
		}
	}
	return nil
}

func (m *image) heads(seg id.Segment) (out []storeproto.ShardHead) {
	for n, sh := range m.shards {
		if n.Segment == seg {
			out = append(out, copyHead(&sh.head))
		}
	}
	slices.SortFunc(out, func(a, b storeproto.ShardHead) int { return a.Info().Compare(b.Info().ShardName) })
	return out
}

func copyHead(h *storeproto.ShardHead) storeproto.ShardHead {
	c := *h
	c.Entries, c.Sums = slices.Clone(h.Entries), slices.Clone(h.Sums)
	return c
}

func (m *image) list(q storeproto.ListShards) (l storeproto.ShardList) {
	names := m.names()
	at, _ := slices.BinarySearchFunc(names, q.After, storeproto.ShardName.Compare)
	for _, n := range names[at:] {
		of := n.Segment.PG() == q.PG
		if q.Volume != (id.Volume{}) {
			of = m.shards[n].head.Volume == q.Volume
		}
		if !of || n.Compare(q.After) <= 0 {
			continue
		}
		if len(l.Shards) == cmp.Or(q.Limit, 16) { // small pages, so that lists have several
			l.More = true
			break
		}
		l.Shards, l.Next = append(l.Shards, m.shards[n].head.Info()), n
	}
	return l
}
