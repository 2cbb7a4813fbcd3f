package reader_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

const block4k = storeproto.BlockSize

// liar is a store that answers reads with success and what lie makes of them.
type liar struct {
	*memstore.Store
	lie func(*storeproto.ReadShard)
}

func (l *liar) ReadShard(r *storeproto.ReadShard) {
	if l.lie == nil {
		l.Store.ReadShard(r)
		return
	}
	done := r.Done
	r.Done = func(r *storeproto.ReadShard) {
		r.Done = done
		l.lie(r)
		done(r)
	}
	l.Store.ReadShard(r)
}

// bench is six stores, a segment of 4+2 on them, and a reader.
type bench struct {
	t      *testing.T
	stores []*liar
	topo   *cluster.Topology
	reader *reader.Reader
	clock  *clock.Manual
	data   []byte
	at     id.Location
	where  reader.Where
}

func (b *bench) Store(s id.Store) (storeproto.Store, bool) {
	for _, x := range b.stores {
		if x.ID() == s {
			return x, true
		}
	}
	return nil, false
}

const slots = 150

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: clock.NewManual()}
	pg := cluster.PG{Number: 1, Preferred: true, Healthy: true, Versions: []cluster.PGVersion{{Version: 1, K: 4, M: 2}}}
	topo := &cluster.Topology{Version: 1}
	for i := range 6 {
		ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1}}
		b.stores = append(b.stores, &liar{Store: memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: b.clock})})
		topo.Stores = append(topo.Stores, cluster.Store{StoreRef: ref, State: cluster.StoreUp})
		pg.Versions[0].Stores = append(pg.Versions[0].Stores, ref)
	}
	topo.PGs = []cluster.PG{pg}
	b.topo = topo.Index()
	b.reader = reader.New(reader.Config{Stores: b, Topology: func() *cluster.Topology { return b.topo }, Clock: b.clock})
	g := id.Generation{Epoch: 1, N: 1}
	b.at = id.MakeLocation(id.MakeSegment(9, 1), 0)
	b.where = reader.Where{Generation: g, PGVersion: 1, K: 4, M: 2, Slots: slots}
	b.data = make([]byte, slots*block4k)
	rng := rand.New(rand.NewPCG(1, 2))
	j := &packer.Job{Volume: id.Volume{1}, Epoch: 1, Segment: b.at.Segment(), Generation: g, PGVersion: 1, K: 4, M: 2}
	for i := range slots {
		d := b.data[i*block4k:][:block4k]
		for k := range d {
			d[k] = byte(rng.Uint32())
		}
		j.Blocks = append(j.Blocks, packer.Block{Entry: uint64(segment.MakeData(100)), Sum: codec.CRC(d), Data: d})
	}
	p := packer.New(context.Background(), packer.Config{Stores: b, Topology: func() *cluster.Topology { return b.topo }})
	done := make(chan packer.Result, 1)
	j.Done = func(_ *packer.Job, r packer.Result) { done <- r }
	p.Submit(j)
	if r := <-done; r.Err != nil {
		t.Fatal(r.Err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// read reads n slots from first on.
func (b *bench) read(first, n int) ([]byte, error) {
	ch := make(chan error, 1)
	dst := make([]byte, n*block4k)
	b.reader.Read(&reader.Request{
		Location: b.at + id.Location(first), Count: uint32(n), Where: b.where, Dst: dst, Done: func(_ *reader.Request, err error) { ch <- err },
	})
	return dst, <-ch
}

// good reads all over the segment and compares.
func (b *bench) good() {
	b.t.Helper()
	for _, r := range [][2]int{{0, 1}, {15, 2}, {0, slots}, {64, 64}, {100, 50}, {149, 1}, {7, 30}} {
		got, err := b.read(r[0], r[1])
		if err != nil {
			b.t.Fatalf("read %v: %v", r, err)
		}
		if !bytes.Equal(got, b.data[r[0]*block4k:(r[0]+r[1])*block4k]) {
			b.t.Fatalf("read %v: wrong bytes", r)
		}
	}
}

func flip(r *storeproto.ReadShard) { r.Dst[len(r.Dst)-1] ^= 1 }

// Without this bytes that rotted on the wire, or on a store that does not check, would reach a client.
func TestReaderChecksWhatAStoreCalledRight(t *testing.T) {
	b := newBench(t)
	b.good()
	b.stores[0].lie, b.stores[4].lie = flip, flip
	b.good()
	b.stores[1].lie = flip
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatalf("three wrong shards of six: %v", err)
	}
}

// Without this a decode could mix two generations of a segment.
func TestReaderNeverMixesGenerations(t *testing.T) {
	b := newBench(t)
	other := func(r *storeproto.ReadShard) { r.Got = id.Generation{Epoch: 1, N: 2} }
	b.stores[0].lie, b.stores[1].lie = other, other
	b.good()
	b.stores[2].lie = other
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatalf("three shards of another generation: %v", err)
	}
}

// Without this the engine could not tell a segment that went from stores that are
// away: it looks again for the one, waits for the other, and gives up on neither too early.
func TestReaderTellsGoneFromAwayFromRotten(t *testing.T) {
	b := newBench(t)
	for i := range 3 {
		b.stores[i].Crash(1)
	}
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("three stores away: %v", err)
	}
	for i := range 3 {
		b.stores[i].Restart()
	}
	b.good()
	for _, s := range b.stores {
		s.LoseShards(b.at.Segment())
	}
	if _, err := b.read(0, 1); !errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("all shards gone: %v", err)
	}
}

// Without this a read would wait for a slow store as long as that likes.
func TestReaderHedges(t *testing.T) {
	b := newBench(t)
	b.stores[0].Pause()
	type answer struct {
		data []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() { d, err := b.read(0, 1); done <- answer{d, err} }()
	for tries := 0; ; tries++ {
		b.clock.Advance(30 * time.Millisecond)
		b.reader.Tick(b.clock.Now())
		select {
		case a := <-done:
			if a.err != nil || !bytes.Equal(a.data, b.data[:block4k]) {
				t.Fatalf("wrong: %v", a.err)
			}
			b.stores[0].Resume()
			b.good()
			return
		case <-time.After(time.Millisecond):
			if tries > 5000 {
				t.Fatal("no answer")
			}
		}
	}
}

// Without this a store that metad finds down would be asked, and waited for.
func TestReaderLeavesOutStoresThatAreDown(t *testing.T) {
	b := newBench(t)
	b.stores[2].Pause() // it would never answer
	t2 := &cluster.Topology{Version: 2, Stores: append([]cluster.Store(nil), b.topo.Stores...), PGs: b.topo.PGs}
	t2.Stores[2].State = cluster.StoreDown
	b.topo = t2.Index()
	b.good()
}
