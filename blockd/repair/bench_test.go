package repair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/stripe"
	"ashlar.dev/pkg/telemetry"
)

const (
	group  = id.PG(3)
	owner  = id.Epoch(7)
	spares = 4
)

var volume = id.Volume{1}

// bench is a group over stores in memory, some spare ones, and the workers of all.
type bench struct {
	t       testing.TB
	profile stripe.Profile
	clock   *clock.Manual
	stores  []*memstore.Store
	workers []*Worker
	top     *cluster.Topology
	random  *rand.Rand
	heads   map[storeproto.ShardName]*storeproto.ShardHead // what was put
	slots   map[id.Segment][][]byte
}

func newBench(t testing.TB, p stripe.Profile) *bench {
	b := &bench{t: t, profile: p, clock: clock.NewManual(), random: rand.New(rand.NewPCG(1, 2)),
		heads: make(map[storeproto.ShardName]*storeproto.ShardHead), slots: make(map[id.Segment][][]byte)}
	b.top = &cluster.Topology{Version: 1}
	width := int(p.K + p.M)
	for i := range width + spares {
		ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1}}
		s := memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: b.clock})
		b.stores = append(b.stores, s)
		b.top.Stores = append(b.top.Stores, cluster.Store{StoreRef: ref, State: cluster.StoreUp})
		b.workers = append(b.workers, New(Config{Self: ref, Local: s, Stores: b, Topology: func() *cluster.Topology { return b.top },
			Clock: b.clock, Log: telemetry.Discard()}))
	}
	b.top.PGs = []cluster.PG{{Number: group, Versions: []cluster.PGVersion{{Version: 1, K: p.K, M: p.M, Stores: b.refs(seq(width)...)}}}}
	b.top.Index()
	return b
}

func seq(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

func (b *bench) refs(stores ...int) (out []cluster.StoreRef) {
	for _, i := range stores {
		out = append(out, b.top.Stores[i].StoreRef)
	}
	return out
}

// Store makes bench Stores.
func (b *bench) Store(s id.Store) (storeproto.Store, bool) {
	i := int(s[15]) - 1
	return b.stores[i], true
}

// change makes a newer topology.
func (b *bench) change(f func(*cluster.Topology)) {
	t := &cluster.Topology{Version: b.top.Version + 1, Stores: slices.Clone(b.top.Stores)}
	for _, p := range b.top.PGs {
		p.Versions = slices.Clone(p.Versions)
		t.PGs = append(t.PGs, p)
	}
	f(t)
	b.top = t.Index()
}

func (b *bench) mark(store int, s cluster.StoreState) {
	b.change(func(t *cluster.Topology) { t.Stores[store].State = s })
}

// give gives slots of the group to other stores, as metad does.
func (b *bench) give(slotToStore map[int]int) {
	b.change(func(t *cluster.Topology) {
		p := &t.PGs[0]
		v := p.Current()
		v.Version++
		v.Stores = slices.Clone(v.Stores)
		for slot, store := range slotToStore {
			v.Stores[slot] = t.Stores[store].StoreRef
		}
		p.Versions = append(p.Versions, v)
	})
}

// lose has a store gone for good.
func (b *bench) lose(store int) {
	b.stores[store].Wipe(id.Incarnation{9})
	b.mark(store, cluster.StoreLost)
}

// forget is what metad does when the group is whole.
func (b *bench) forget() {
	b.change(func(t *cluster.Topology) {
		p := &t.PGs[0]
		p.Versions = p.Versions[len(p.Versions)-1:]
	})
}

// write puts a segment under the current version, on all stores but those in skip.
func (b *bench) write(seq, slots int, skip ...int) id.Segment {
	b.t.Helper()
	seg, err := b.writeUnder(b.top.PGs[0].Current(), seq, slots, skip...)
	if err != nil {
		b.t.Fatal(err)
	}
	return seg
}

// writeUnder puts a segment as an owner does that knows a version; with an error it does not count.
func (b *bench) writeUnder(v cluster.PGVersion, seq, slots int, skip ...int) (id.Segment, error) {
	seg := id.MakeSegment(id.Sequence(seq), group)
	code, _ := stripe.For(b.profile)
	layout := code.Layout(uint16(slots))
	var all [][]byte
	var entries []uint64
	for i := range slots {
		d := make([]byte, storeproto.BlockSize)
		for j := 0; j < len(d); j += 8 {
			d[j] = byte(b.random.Uint32())
		}
		all, entries = append(all, d), append(entries, uint64(segment.MakeData(100))+uint64(i))
	}
	shards := make([][]byte, b.profile.K+b.profile.M)
	for i := range shards {
		shards[i] = make([]byte, int(layout.Blocks())*storeproto.BlockSize)
	}
	heads := make([]*storeproto.ShardHead, len(shards))
	for i := range heads {
		heads[i] = &storeproto.ShardHead{Volume: volume, Segment: seg, Generation: id.Generation{Epoch: owner, N: 1}, Index: uint8(i), K: b.profile.K, M: b.profile.M,
			PGVersion: v.Version, Slots: layout.Slots, Blocks: layout.Blocks(), Sums: make([]uint32, layout.Blocks())}
	}
	for slot := range slots {
		shard, block := layout.Place(uint16(slot))
		copy(shards[shard][int(block)*storeproto.BlockSize:], all[slot])
		heads[shard].Entries = append(heads[shard].Entries, entries[slot])
	}
	code.EncodeSlots(all, shards[b.profile.K:])
	b.slots[seg] = all
	for i, h := range heads {
		if i >= int(b.profile.K) {
			h.Entries = entries
		}
		stripe.ShardSums(h.Sums, seg, h.Index, shards[i])
		b.heads[h.Info().ShardName] = h
		if slices.Contains(skip, i) {
			continue
		}
		q := &storeproto.PutShard{Head: h, Epoch: owner, Data: [][]byte{shards[i]}}
		if err := b.put(b.index(v.Stores[i]), q); err != nil {
			return seg, err
		}
	}
	return seg, nil
}

func (b *bench) index(r cluster.StoreRef) int { return int(r.Store[15]) - 1 }

func (b *bench) put(store int, q *storeproto.PutShard) error {
	done := make(chan struct{})
	q.Done = func(*storeproto.PutShard) { close(done) }
	b.stores[store].PutShard(q)
	<-done
	return q.Err
}

// rounds lets all workers look a few times.
func (b *bench) rounds() {
	for range 3 {
		for i, w := range b.workers {
			if s := b.top.Stores[i].State; s.Serves() {
				w.Round(b.t.Context())
			}
		}
		b.clock.Advance(10 * time.Second)
	}
}

// whole tells whether every store that was given a slot says that it lacks nothing.
func (b *bench) whole() bool {
	p := &b.top.PGs[0]
	for slot, r := range p.Current().Stores {
		if always(p, slot) {
			continue
		}
		if !slices.ContainsFunc(b.workers[b.index(r)].Progress(), func(x Progress) bool {
			return x.PG == group && x.Version == p.Current().Version && x.Whole
		}) {
			return false
		}
	}
	return true
}

// has compares the shard of a slot at its current store with what was put at first.
func (b *bench) has(seg id.Segment, slot int) error {
	store := b.index(b.top.PGs[0].Current().Stores[slot])
	name := storeproto.ShardName{Segment: seg, Generation: id.Generation{Epoch: owner, N: 1}, Index: uint8(slot)}
	heads, err := b.stores[store].ShardHeads(b.t.Context(), seg)
	if err != nil {
		return err
	}
	for i := range heads {
		if heads[i].Info().ShardName != name {
			continue
		}
		if !heads[i].Equal(b.heads[name]) {
			return fmt.Errorf("shard %d of %s on store %d differs: %w", slot, seg, store, errs.ErrCorrupt)
		}
		return b.bytes(store, &heads[i])
	}
	return fmt.Errorf("shard %d of %s on store %d: %w", slot, seg, store, errs.ErrNotFound)
}

func (b *bench) bytes(store int, h *storeproto.ShardHead) error {
	done := make(chan struct{})
	q := &storeproto.ReadShard{Segment: h.Segment, Generation: h.Generation, Index: h.Index, Count: h.Blocks,
		Dst: make([]byte, int(h.Blocks)*storeproto.BlockSize), Sums: make([]uint32, h.Blocks), Done: func(*storeproto.ReadShard) { close(done) }}
	b.stores[store].ReadShard(q)
	<-done
	if q.Err != nil {
		return q.Err
	}
	for i, sum := range h.Sums {
		if got := storeproto.BlockSum(codec.CRC(q.Dst[i*storeproto.BlockSize:][:storeproto.BlockSize]), h.Segment, h.Index, uint16(i)); got != sum {
			return fmt.Errorf("block %d: %w", i, errs.ErrCorrupt)
		}
	}
	return nil
}

// allRight wants every shard of the segments where it belongs now.
func (b *bench) allRight(segs ...id.Segment) {
	b.t.Helper()
	for _, seg := range segs {
		for slot := range int(b.profile.K + b.profile.M) {
			if err := b.has(seg, slot); err != nil {
				b.t.Error(err)
			}
		}
	}
}

func (b *bench) delete(store int, seg id.Segment, known uint32) error {
	return b.stores[store].DeleteShards(context.Background(), storeproto.DeleteShards{Volume: volume, Epoch: owner,
		Segments: []storeproto.SegmentGeneration{{Segment: seg, Generation: id.Generation{Epoch: owner, N: 1}}},
		Groups:   []storeproto.GroupVersion{{PG: group, Version: known}}})
}

func (b *bench) shards(store int) (n int) {
	b.stores[store].Shards(func(storeproto.ShardHead) { n++ })
	return n
}
