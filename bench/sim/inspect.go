package sim

import (
	"fmt"
	"slices"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// inspection looks at what all stores' disks hold at one moment: those that are down too,
// for they may come back.
type inspection struct {
	w    *World
	gens map[segmentName]*found
	segs map[id.Segment][]*found

	archives map[*disk]*restore.Disk
	foreign  map[id.Segment]foreignSegment
}

// found is one generation of a segment with its shards that are right.
type found struct {
	name   segmentName
	head   *storeproto.ShardHead // of any shard
	shards map[uint8]*shard
	kept   *segment.Kept
}

func (w *World) inspect() *inspection {
	x := &inspection{w: w, gens: make(map[segmentName]*found), segs: make(map[id.Segment][]*found),
		archives: make(map[*disk]*restore.Disk), foreign: make(map[id.Segment]foreignSegment)}
	for _, st := range w.allStores() {
		for _, n := range st.img.names() {
			sh := st.img.shards[n]
			name := segmentName{n.Segment, n.Generation}
			f := x.gens[name]
			if f == nil {
				f = &found{name: name, head: &sh.head, shards: make(map[uint8]*shard)}
				x.gens[name] = f
				x.segs[n.Segment] = append(x.segs[n.Segment], f)
			}
			if !sh.wrong {
				f.shards[n.Index] = sh
			}
		}
	}
	return x
}

// readable tells whether k shards are right.
func (f *found) readable() bool { return f != nil && len(f.shards) >= int(f.head.K) }

// keeps gives which slots the generation has.
func (f *found) keeps() *segment.Kept {
	if f.kept != nil {
		return f.kept
	}
	all := make([]uint64, f.head.Slots)
	for i, sh := range f.shards {
		h := &sh.head
		if len(h.Entries) == len(all) {
			copy(all, h.Entries)
			break
		}
		l := segment.Layout{K: h.K, Slots: h.Slots}
		for b, e := range h.Entries {
			if slot, ok := l.Slot(i, uint16(b)); ok && i < h.K {
				all[slot] = e
			}
		}
	}
	f.kept = segment.MakeKept(all)
	return f.kept
}

// slot gives the bytes of a slot; false if they cannot be had.
func (f *found) slot(slot uint16) ([]byte, bool) {
	if !f.readable() {
		return nil, false
	}
	kept := f.keeps()
	rank, ok := kept.Rank(slot)
	if !ok {
		return nil, false
	}
	l := segment.Layout{K: f.head.K, Slots: kept.Count()}
	index, block := l.Place(rank)
	cut := func(sh *shard) []byte { return sh.data[int(block)*storeproto.BlockSize:][:storeproto.BlockSize] }
	if sh := f.shards[index]; sh != nil {
		return cut(sh), true
	}
	code, err := stripe.For(stripe.Profile{K: f.head.K, M: f.head.M})
	if err != nil {
		return nil, false
	}
	var pieces []stripe.Piece
	for i := range f.head.K + f.head.M {
		if sh := f.shards[i]; sh != nil && len(pieces) < int(f.head.K) {
			pieces = append(pieces, stripe.Piece{Index: i, Generation: f.name.generation, Data: cut(sh)})
		}
	}
	dst := make([]byte, storeproto.BlockSize)
	return dst, code.Rebuild(dst, index, pieces) == nil
}

// block gives the bytes at a location, of whatever generation has it, or of the archive.
func (x *inspection) block(l id.Location) ([]byte, bool) {
	for _, f := range x.segs[l.Segment()] {
		if b, ok := f.slot(l.Slot()); ok {
			return b, true
		}
	}
	return x.archivedBlock(l)
}

// inspector is what the core's own count needs.
func (x *inspection) inspector() core.Inspector {
	return core.Inspector{
		Page:   x.block,
		Exists: func(s id.Segment, g id.Generation) bool { return x.gens[segmentName{s, g}].readable() },
		Has: func(l id.Location, g id.Generation) bool {
			if (g == id.Generation{}) {
				_, ok := x.block(l)
				return ok
			}
			f := x.gens[segmentName{l.Segment(), g}]
			if !f.readable() {
				return false
			}
			_, ok := f.keeps().Rank(l.Slot())
			return ok
		},
	}
}

// watch counts everything reachable again, now and then.
func (w *World) watch() {
	w.after(w.between(watchEvery/2, watchEvery), "everything is counted", func() {
		w.checkReachable()
		w.watch()
	})
}

// checkReachable looks for everything that an owner's map, and metad's checkpoint, refer to.
func (w *World) checkReachable() {
	x := w.inspect()
	in := x.inspector()
	for _, d := range w.disks {
		if e := d.owner(); e != nil && !e.dead && e.epoch == w.epochOf(d) {
			in.Packs, in.Longs = e.packs, e.longs
			if err := e.core.Check(in); err != nil {
				w.fail(CheckReachable, "%s: %v", e.name, err)
			}
		}
		if err := x.checkpoint(d, func(id.Segment, blockmap.Entry) {}); err != nil {
			w.fail(CheckReachable, "checkpoint of %s in metad: %v", d.name, err)
		}
	}
	w.checkOrigins(x)
}

func (w *World) epochOf(d *disk) id.Epoch {
	v, _ := w.metad.m.Volume(d.id)
	return v.Epoch
}

// checkpoint walks the trees of metad's checkpoint of a disk and calls seen for each
// segment that it knows; those of which nothing lives wait for the next checkpoint.
func (x *inspection) checkpoint(d *disk, seen func(id.Segment, blockmap.Entry)) error {
	v, ok := x.w.metad.m.Volume(d.id)
	if !ok || v.Deleted || v.Checkpoint == nil {
		return nil
	}
	k, err := record.DecodeCheckpoint("metad's checkpoint", v.Checkpoint.Opaque)
	if err != nil {
		return err
	}
	in := x.inspector()
	roots := []blockmap.Root{k.Map, k.Table}
	for _, s := range k.Snapshots {
		roots = append(roots, s.Root)
	}
	for _, root := range roots {
		if err := core.CountTree(root, in, make(map[id.Segment]int)); err != nil {
			return err
		}
	}
	for _, p := range k.Pages {
		seen(p.Segment, p.Entry)
	}
	t, err := x.table(k.Table)
	if err != nil {
		return err
	}
	var gone error
	t.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		seen(s, e)
		if e.Live > 0 && !in.Exists(s, e.Generation) {
			gone = fmt.Errorf("segment %s %s of the table is gone", s, e.Generation)
		}
		return gone == nil
	})
	return gone
}

func (x *inspection) table(root blockmap.Root) (*blockmap.Table, error) {
	l, err := blockmap.LoadTable(root)
	if err != nil {
		return nil, err
	}
	in := x.inspector()
	for want := l.Missing(make([]blockmap.Miss, 0, 16)); len(want) > 0; want = l.Missing(want[:0]) {
		for _, m := range want {
			b, ok := in.Page(m.Location)
			if !ok {
				return nil, fmt.Errorf("page at %v of the table is gone", m.Location)
			}
			if err := l.Fill(m, b); err != nil {
				return nil, err
			}
		}
	}
	t, ok := l.Table()
	if !ok {
		return nil, fmt.Errorf("the table is not whole")
	}
	return t, nil
}

// checkWhole demands, in peace, that every segment that is needed has all its shards,
// right, where readers look first.
func (w *World) checkWhole() {
	x := w.inspect()
	for _, d := range w.disks {
		err := x.checkpoint(d, func(s id.Segment, e blockmap.Entry) {
			g := w.group(s.PG())
			if e.Live == 0 {
				return
			}
			if g == nil {
				w.fail(CheckWhole, "segment %s is in a group that is not there", s)
				return
			}
			current := newestOf(g, e.K, e.M)
			for i := range e.K + e.M {
				n := storeproto.ShardName{Segment: s, Generation: e.Generation, Index: i}
				st := w.store(current.Stores[i].Store)
				if w.missing(current.Stores[i]) && w.placeless(*g) {
					continue
				}
				if st == nil || st.img.shards[n] == nil || st.img.shards[n].wrong {
					w.fail(CheckWhole, "%s: shard %d of %s %s (%d+%d) is not right on %s; %s", d.name, i, s, e.Generation, e.K, e.M, current.Stores[i], x.where(s))
				}
			}
		})
		if err != nil {
			w.fail(CheckWhole, "%s: %v", d.name, err)
		}
	}
}

// newestOf is the newest version of a group that has a code.
func newestOf(g *state.PG, k, m uint8) cluster.PGVersion {
	for _, v := range slices.Backward(g.Versions) {
		if v.K == k && v.M == m {
			return v
		}
	}
	return g.Current()
}

// where says which shards of a segment there are.
func (x *inspection) where(s id.Segment) (text string) {
	for _, st := range x.w.allStores() {
		for _, n := range st.img.names() {
			if n.Segment == s {
				text += fmt.Sprintf(" %s has %d of %s", st.name, n.Index, n.Generation)
				if st.img.shards[n].wrong {
					text += " (wrong)"
				}
			}
		}
	}
	return text
}

func (w *World) group(n id.PG) *state.PG {
	pgs := w.metad.m.PGs()
	for i := range pgs {
		if pgs[i].Number == n {
			return &pgs[i]
		}
	}
	return nil
}

// deadMax is how many blocks a drained disk may leave in shards of dead segments: its last
// checkpoint displaces pages of the one before, which go with the next one.
const deadMax = 256

// checkSpace demands, when all disks were trimmed and drained, that nothing of them is
// left but what their checkpoints know, hardly anything of it dead; nor what the crashes
// of earlier epochs left behind.
func (w *World) checkSpace() {
	x := w.inspect()
	known := make(map[segmentName]bool) // whether something lives in it
	for _, d := range w.disks {
		err := x.checkpoint(d, func(s id.Segment, e blockmap.Entry) { known[segmentName{s, e.Generation}] = e.Live > 0 })
		if err != nil {
			w.fail(CheckSpace, "%s: %v", d.name, err)
		}
	}
	dead := make(map[*disk]int)
	for _, st := range w.allStores() {
		for _, n := range st.img.names() {
			h := &st.img.shards[n].head
			d := w.disk(h.Volume)
			if d.gone {
				w.fail(CheckDeleted, "%s has shard %d of %s %s of %s", st.name, n.Index, n.Segment, n.Generation, d.name)
				return
			}
			lives, knows := known[segmentName{n.Segment, n.Generation}]
			switch {
			case !knows:
				w.fail(CheckSpace, "%s has shard %d of %s %s of %s, which nothing knows", st.name, n.Index, n.Segment, n.Generation, d.name)
			case !lives:
				dead[d] += int(h.Blocks)
			}
		}
	}
	for _, d := range w.disks {
		if dead[d] > deadMax {
			w.fail(CheckSpace, "%d blocks of shards of %s are dead", dead[d], d.name)
		}
	}
}

// right tells whether the bytes of a shard are what its head says.
func (sh *shard) right() bool {
	for i, want := range sh.head.Sums {
		if storeproto.BlockSum(codec.CRC(sh.data[i*storeproto.BlockSize:][:storeproto.BlockSize]), sh.head.Segment, sh.head.Index, uint16(i)) != want {
			return false
		}
	}
	return true
}
