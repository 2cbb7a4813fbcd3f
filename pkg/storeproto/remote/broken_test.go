package remote

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/testkit/rpctest"
)

var quick = rpc.Timing{Dead: 20 * time.Second, Handshake: 20 * time.Second, Backoff: time.Millisecond, BackoffMax: 4 * time.Millisecond}

func newMem() *memstore.Store { s, _ := newTimedMem(); return s }

func newTimedMem() (*memstore.Store, *clock.Manual) {
	m := clock.NewManual()
	s := memstore.New(memstore.Options{ID: storeID, Incarnation: storeInc, Clock: m})
	m.Advance(time.Minute)
	return s, m
}

// sender appends batches to one stream, several in flight, and sends again what it does
// not know to be durable: what an engine does.
type sender struct {
	t      *testing.T
	store  storeproto.Store
	stream storeproto.Stream
	all    []*storeproto.Batch

	mu       sync.Mutex
	moved    *sync.Cond
	acked    id.LSN
	inFlight int
	broken   bool
	up       bool
	errors   int
}

// state is the peer's OnState.
func (s *sender) state(class rpc.Class, up bool) {
	if class == rpc.ClassLog {
		s.mu.Lock()
		s.up = up
		s.moved.Broadcast()
		s.mu.Unlock()
	}
}

func (s *sender) done(a *storeproto.Append) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	switch {
	case a.Err == nil:
		if a.Tail < a.Batch.Last() {
			s.t.Errorf("batch %d is answered with tail %d", a.Batch.First, a.Tail)
		}
		s.acked = max(s.acked, a.Batch.Last())
	case errors.Is(a.Err, errs.ErrUnavailable):
		s.broken = true
		s.errors++
	case errors.Is(a.Err, errs.ErrConflict) && s.broken: // behind one that was lost
		s.errors++
	default:
		s.t.Errorf("batch %d: %v", a.Batch.First, a.Err)
		s.broken = true
	}
	a.Batch.Release()
	s.moved.Broadcast()
}

// run sends until everything is acknowledged.
func (s *sender) run(window int) {
	for next := 0; ; {
		s.mu.Lock()
		for s.inFlight >= window || s.broken && s.inFlight > 0 || next == len(s.all) && s.inFlight > 0 {
			s.moved.Wait()
		}
		if s.broken {
			for !s.up {
				s.moved.Wait()
			}
			s.broken = false
			next = int(s.acked)
		}
		if next == len(s.all) {
			s.mu.Unlock()
			return
		}
		s.inFlight++
		s.mu.Unlock()
		b := s.all[next]
		next++
		b.Retain()
		s.store.Append(&storeproto.Append{Stream: s.stream, Epoch: 3, Batch: b, Base: b.First == 1, Done: s.done})
	}
}

// Without this a broken connection could lose an append that was acknowledged, tear one, or
// leave a hole behind one that was not.
func TestAppendsAcrossDisconnects(t *testing.T) {
	const n = 600
	w := rpctest.NewWorld(t)
	mem := newMem()
	s := serve(t, w, rpctest.Transports[0], ServiceConfig{Lookup: lookup(mem)}, patient)
	link := rpctest.NewLink(t, s.addr)
	x := &sender{t: t, stream: storetest.Stream(3, 1, storeproto.Journal)}
	x.moved = sync.NewCond(&x.mu)
	p := s.peer("a", func(c *PeerConfig) { c.Address, c.Timing, c.OnState = link.Address(), quick, x.state })
	x.store = p.Store(storeID, storeInc)
	const seed = 42
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		x.all = append(x.all, storetest.Batch(3, id.LSN(i+1), 1, rnd.IntN(3)*rnd.IntN(40), uint64(i)))
	}
	stop, cutter := make(chan struct{}), make(chan int)
	go func() { // cuts whenever some more were acknowledged
		cuts, at := 0, id.LSN(0)
		for {
			x.mu.Lock()
			for x.acked < at && x.acked < n {
				x.moved.Wait()
			}
			x.mu.Unlock()
			select {
			case <-stop:
				cutter <- cuts
				return
			default:
			}
			if at += id.LSN(1 + rnd.IntN(2*n/12)); at < n {
				cuts++
				link.Cut()
			}
		}
	}()
	x.run(32)
	close(stop)
	x.mu.Lock()
	x.acked = n
	x.moved.Broadcast()
	x.mu.Unlock()
	cuts := <-cutter
	if x.errors == 0 || cuts < 5 {
		t.Errorf("%d cuts, %d errors: nothing was tried", cuts, x.errors)
	}
	got, err := storetest.FetchAll(t.Context(), mem, x.stream, 1)
	if err != nil || len(got) != n {
		t.Fatalf("%d of %d batches: %v", len(got), n, err)
	}
	for i, b := range got {
		if want := x.all[i]; b.Sum != want.Sum || !bytes.Equal(b.Meta, want.Meta) || b.Verify("stored") != nil {
			t.Fatalf("batch %d differs", i)
		}
	}
}

// Without this requests of all kinds could hang, or be answered as done, when their host dies.
func TestEverythingInFlightEndsWithTheConnection(t *testing.T) {
	mem, m := newTimedMem()
	s := serve(t, rpctest.NewWorld(t), rpctest.Transports[0], ServiceConfig{Lookup: lookup(mem)}, patient)
	link := rpctest.NewLink(t, s.addr)
	p := s.peer("a", func(c *PeerConfig) { c.Address, c.Timing = link.Address(), quick })
	st := p.Store(storeID, storeInc)
	if _, err := st.ShardHeads(t.Context(), 4097); err != nil { // the connections stand
		t.Fatal(err)
	}
	if err := st.Drop(t.Context(), storeproto.Drop{Volume: storetest.Volume, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	mem.Pause()
	results := make(chan error, 16)
	asked := 0
	ask := func(f func() error) { asked++; go func() { results <- f() }() }
	ask(func() error {
		_, err := storetest.Next(st, storetest.Stream(3, 1, storeproto.Journal), storetest.Batch(3, 1, 1, 1, 1))
		return err
	})
	ask(func() error { return storetest.Confirm(st, storetest.Volume, 3) })
	ask(func() error { return (<-storetest.Lease(st, id.Holder{Host: "a", Number: 1}, 0, time.Second)).Err })
	ask(func() error {
		_, err := st.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 9, By: id.Holder{Host: "a", Number: 1}})
		return err
	})
	ask(func() error {
		return storetest.Put(st, storetest.Shard(id.MakeSegment(1, 1), id.Generation{Epoch: 3, N: 1}, 0, 100, 1))
	})
	ask(func() error { return storetest.Read(st, id.MakeSegment(1, 1), id.Generation{}, 0, 0, 4).Err })
	for used := 0; used == 0; used = s.service.BytesUsed(rpc.ClassBulk) { // the last kinds have arrived
		runtime.Gosched()
	}
	link.Cut()
	for range asked {
		if err := <-results; !errors.Is(err, errs.ErrUnavailable) {
			t.Errorf("in flight: %v", err)
		}
	}
	mem.Resume()
	ended := make(chan error, 1)
	go func() { ended <- s.server.Close() }()
	for { // the server's side ends too, whenever it came to what had arrived; the lease when it was held for its wait
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			if n := s.service.BytesUsed(rpc.ClassBulk) + s.service.BytesUsed(rpc.ClassLog) + s.service.BytesUsed(rpc.ClassRead); n != 0 {
				t.Errorf("%d bytes are held for requests that ended", n)
			}
			return
		default:
			m.Advance(time.Second)
			runtime.Gosched()
		}
	}
}

// Without this any host could fence or lease in the name of another.
func TestHolderMustBeThePeer(t *testing.T) {
	s := serve(t, rpctest.NewWorld(t), rpctest.Transports[0], ServiceConfig{Lookup: lookup(newMem())}, patient)
	st := s.peer("a", nil).Store(storeID, storeInc)
	other := id.Holder{Host: "b", Number: 1}
	if l := <-storetest.Lease(st, other, 0, 0); !errors.Is(l.Err, errs.ErrDenied) {
		t.Errorf("lease: %v", l.Err)
	}
	if _, err := st.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: other}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("fence: %v", err)
	}
	if err := st.Release(t.Context(), storeproto.Release{Volume: storetest.Volume, Epoch: 4, By: other}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("release: %v", err)
	}
	if _, err := s.peer("a", nil).Store(id.Store{99}, storeInc).ShardHeads(t.Context(), 4097); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("a store that is elsewhere: %v", err)
	}
}

// Without this an operator's certificate would read and write stores past all fences' owners.
func TestOnlyBlockdsAreServed(t *testing.T) {
	w := rpctest.NewWorld(t)
	s := serve(t, w, rpctest.Transports[0], ServiceConfig{Lookup: lookup(newMem())}, patient)
	st := s.peer("me", func(c *PeerConfig) {
		cr := w.Credentials(pki.RoleOperator, "me")
		c.Self, c.TLS = cr.Self(), cr.Client(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}})
	}).Store(storeID, storeInc)
	if _, err := st.ShardHeads(t.Context(), 4097); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("operator: %v", err)
	}
}

// Without this whole shards of the largest profile would not fit, or many at once take all memory.
func TestLargestShardsUnderALimit(t *testing.T) {
	for _, tr := range rpctest.Transports[:2] {
		t.Run(tr.Name, func(t *testing.T) {
			const limit = 3 << 20
			s := serve(t, rpctest.NewWorld(t), tr, ServiceConfig{Lookup: lookup(newMem()), BulkBytesMax: limit, ReadBytesMax: limit}, patient)
			st := s.peer("a", nil).Store(storeID, storeInc)
			gen := id.Generation{Epoch: 3, N: 1}
			sizes := []int{1, 64, 65, 300, 300, 300, 4096}
			shards := make([]*storeproto.PutShard, len(sizes))
			var wg sync.WaitGroup
			for i, blocks := range sizes {
				shards[i] = storetest.Shard(id.MakeSegment(id.Sequence(i+1), 1), gen, 0, blocks, uint64(i))
				wg.Add(1)
				shards[i].Done = func(p *storeproto.PutShard) {
					if p.Err != nil {
						t.Errorf("put %d blocks: %v", blocks, p.Err)
					}
					wg.Done()
				}
				st.PutShard(shards[i])
			}
			wg.Wait()
			for i, blocks := range sizes {
				r := storetest.Read(st, id.MakeSegment(id.Sequence(i+1), 1), gen, 0, 0, uint16(blocks))
				if r.Err != nil || r.Got != gen || !bytes.Equal(r.Dst, shards[i].Data[0]) {
					t.Errorf("read %d blocks: %v", blocks, r.Err)
				}
			}
			heads, err := st.ShardHeads(t.Context(), id.MakeSegment(7, 1))
			if err != nil || len(heads) != 1 || len(heads[0].Sums) != 4096 {
				t.Errorf("heads: %d, %v", len(heads), err)
			}
		})
	}
}

// Without this a fence that waits would hold its caller beyond its context.
func TestContextEndsAWaitingCall(t *testing.T) {
	mem := newMem()
	s := serve(t, rpctest.NewWorld(t), rpctest.Transports[0], ServiceConfig{Lookup: lookup(mem)}, patient)
	st := s.peer("a", nil).Store(storeID, storeInc)
	if _, err := st.ShardHeads(t.Context(), 4097); err != nil {
		t.Fatal(err)
	}
	mem.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := st.Fence(ctx, storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: id.Holder{Host: "a", Number: 1}}); !errors.Is(err, errs.ErrTimeout) {
		t.Errorf("fence: %v", err)
	}
	mem.Resume()
}

// Without this a store that was formatted anew could grant leases and confirm epochs whose fences it forgot.
func TestAnotherIncarnationIsNotServed(t *testing.T) {
	mem := newMem()
	s := serve(t, rpctest.NewWorld(t), rpctest.Transports[0], ServiceConfig{Lookup: lookup(mem)}, patient)
	st := s.peer("a", nil).Store(storeID, storeInc)
	if err := storetest.Confirm(st, storetest.Volume, 3); err != nil {
		t.Error(err)
	}
	mem.Wipe(id.Incarnation{2})
	if err := storetest.Confirm(st, storetest.Volume, 3); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("confirm: %v", err)
	}
	if l := <-storetest.Lease(st, id.Holder{Host: "a", Number: 1}, 0, 0); !errors.Is(l.Err, errs.ErrNotFound) {
		t.Errorf("lease: %v", l.Err)
	}
	if _, err := st.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: id.Holder{Host: "a", Number: 1}}); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("fence: %v", err)
	}
}
