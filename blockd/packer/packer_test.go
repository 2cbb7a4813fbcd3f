package packer_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/blockd/packer"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// bench is six stores in one group of 4+2 and a packer.
type bench struct {
	t      testing.TB
	stores []*memstore.Store
	topo   atomic.Pointer[cluster.Topology]
	packer *packer.Packer
	next   id.Sequence
}

func (b *bench) Store(s id.Store) (storeproto.Store, bool) {
	for _, x := range b.stores {
		if x.ID() == s {
			return x, true
		}
	}
	return nil, false
}

func newBench(t testing.TB, timeout time.Duration) *bench {
	b := &bench{t: t}
	pg := cluster.PG{Number: 1, Preferred: true, Healthy: true, Versions: []cluster.PGVersion{{Version: 1, K: 4, M: 2}}}
	topo := &cluster.Topology{Version: 1}
	for i := range 6 {
		ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1}}
		b.stores = append(b.stores, memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.System}))
		topo.Stores = append(topo.Stores, cluster.Store{StoreRef: ref, State: cluster.StoreUp})
		pg.Versions[0].Stores = append(pg.Versions[0].Stores, ref)
	}
	topo.PGs = []cluster.PG{pg}
	b.topo.Store(topo.Index())
	b.packer = packer.New(context.Background(), packer.Config{
		Stores: b, Topology: b.topo.Load, PutTimeout: timeout, Workers: 1,
	})
	t.Cleanup(func() { _ = b.packer.Close() })
	return b
}

// outcome is what became of a job.
type outcome struct {
	job   *packer.Job
	done  chan packer.Result
	freed chan bool
}

func (b *bench) submit(blocks int) *outcome {
	b.next++
	o := &outcome{done: make(chan packer.Result, 2), freed: make(chan bool, 2)}
	o.job = &packer.Job{
		Volume: id.Volume{1}, Epoch: 1, Segment: id.MakeSegment(b.next, 1), Generation: id.Generation{Epoch: 1, N: 1}, PGVersion: 1, K: 4, M: 2,
		Done:  func(_ *packer.Job, r packer.Result) { o.done <- r },
		Freed: func(*packer.Job) { o.freed <- true },
	}
	data := bytes.Repeat([]byte{byte(b.next)}, blocks*storeproto.BlockSize)
	for i := range blocks {
		d := data[i*storeproto.BlockSize:][:storeproto.BlockSize]
		o.job.Blocks = append(o.job.Blocks, packer.Block{Entry: uint64(segment.MakeData(100)), Sum: codec.CRC(d), Data: d})
	}
	if !b.packer.Submit(o.job) {
		b.t.Fatal("not taken")
	}
	return o
}

// Without this a hanging store would keep a worker for good, and the volume would
// give memory away that the store still reads.
func TestHangingStoreHoldsTheBytesAndNotTheWorker(t *testing.T) {
	before := buf.Outstanding().Buffers
	b := newBench(t, 50*time.Millisecond)
	b.stores[3].Pause()
	o := b.submit(100)
	r := <-o.done
	if r.Err == nil || !r.Held || len(r.Suspects) != 1 || r.Suspects[0] != b.stores[3].ID() {
		t.Fatalf("%+v", r)
	}
	select {
	case <-o.freed:
		t.Fatal("freed while the store still reads")
	default:
	}
	b.stores[3].Resume()
	<-o.freed
	o = b.submit(10)
	if r := <-o.done; r.Err != nil || r.Held {
		t.Fatalf("after it: %+v", r)
	}
	if n := buf.Outstanding().Buffers; n != before {
		t.Fatalf("%d buffers are not released", n-before)
	}
}

// Without this a job would wait out its time for a store that metad has already found down.
func TestJobDoesNotWaitForAStoreThatIsDown(t *testing.T) {
	b := newBench(t, time.Hour)
	b.stores[0].Pause()
	o := b.submit(10)
	t1 := b.topo.Load()
	t2 := &cluster.Topology{Version: 2, Stores: append([]cluster.Store(nil), t1.Stores...), PGs: t1.PGs}
	t2.Stores[0].State = cluster.StoreDown
	b.topo.Store(t2.Index())
	if r := <-o.done; r.Err == nil || !r.Held {
		t.Fatalf("%+v", r)
	}
	b.stores[0].Resume()
	<-o.freed
}

// Without this a store that only knows a newer epoch or group would be shunned, and one that is full taken for broken.
func TestStoreThatKnowsBetterIsNoSuspect(t *testing.T) {
	b := newBench(t, time.Second)
	b.stores[2].SetFault(func(c memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrStaleEpoch} })
	r := <-b.submit(10).done
	if !errors.Is(r.Err, errs.ErrStaleEpoch) || len(r.Suspects) != 0 {
		t.Fatalf("%+v", r)
	}
	b.stores[2].SetFault(func(c memstore.Call) memstore.Fault { return memstore.Fault{Err: errs.ErrNoSpace} })
	r = <-b.submit(10).done
	if !errors.Is(r.Err, errs.ErrNoSpace) || len(r.Suspects) != 0 || len(r.Full) != 1 {
		t.Fatalf("%+v", r)
	}
}

// Without this a volume would wait for ever for a job that the packer took and dropped.
func TestCloseEndsEveryJob(t *testing.T) {
	b := newBench(t, time.Hour)
	b.stores[0].Pause()
	var all []*outcome
	for range 5 {
		all = append(all, b.submit(10))
	}
	go func() { _ = b.packer.Close() }()
	for _, o := range all {
		if r := <-o.done; !errors.Is(r.Err, errs.ErrClosed) {
			t.Fatalf("%+v", r)
		}
	}
	if b.packer.Submit(&packer.Job{}) {
		t.Fatal("a closed packer takes jobs")
	}
	b.stores[0].Resume()
}

func BenchmarkPackSegment(b *testing.B) {
	x := newBench(b, time.Minute)
	b.SetBytes(1024 * storeproto.BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		o := x.submit(1024)
		if r := <-o.done; r.Err != nil {
			b.Fatal(r.Err)
		}
		for _, s := range x.stores {
			s.LoseShards(o.job.Segment)
		}
	}
}

// Without this nobody could see on a fast machine what a full journal costs: packing would keep up.
func TestDelayedPackingWaits(t *testing.T) {
	b := newBench(t, time.Minute)
	held := clock.NewManual()
	b.packer = packer.New(context.Background(), packer.Config{Stores: b, Topology: b.topo.Load, Workers: 1, Clock: held, Delay: time.Hour})
	t.Cleanup(func() { _ = b.packer.Close() })
	o := b.submit(3)
	if err := held.AwaitPending(t.Context(), 4); err != nil { // three workers' tickers, and the delay
		t.Fatal(err)
	}
	select {
	case r := <-o.done:
		t.Fatalf("packed at once: %+v", r)
	default:
	}
	held.Advance(time.Hour)
	if r := <-o.done; r.Err != nil {
		t.Fatal(r.Err)
	}
	o = b.submit(3)
	if err := b.packer.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-o.done; !errors.Is(r.Err, errs.ErrClosed) {
		t.Errorf("a job that waits when the packer closes ends with %v", r.Err)
	}
}
