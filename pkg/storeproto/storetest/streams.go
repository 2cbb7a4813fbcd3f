package storetest

import (
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

func want(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want %v", what, err, class)
	}
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func appendFollowsTheTail(t *testing.T, h *Harness) {
	for _, k := range []storeproto.Kind{storeproto.Journal, storeproto.Meta} {
		s := Stream(3, 1, k)
		_, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, 5, 1, 1, 0)})
		want(t, "append without a base", err, errs.ErrConflict)
		tail, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, 5, 4, 1, 0), Base: true})
		if ok(t, "base", err); tail != 8 {
			t.Errorf("tail %d, want 8", tail)
		}
		_, err = Next(h.Store, s, Batch(3, 10, 1, 0, 0))
		want(t, "append after a gap", err, errs.ErrConflict)
		tail, err = Next(h.Store, s, Batch(3, 9, 2, 3, 0))
		if ok(t, "next", err); tail != 10 {
			t.Errorf("tail %d, want 10", tail)
		}
		_, err = Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, 11, 1, 0, 0), Base: true})
		want(t, "second base", err, errs.ErrConflict)
		_, err = Next(h.Store, s, Batch(3, 11, 0, 0, 0))
		want(t, "empty batch", err, errs.ErrInvalid)
	}
}

func resentBatch(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	for i := range id.LSN(3) {
		_, err := Next(h.Store, s, Batch(3, 1+2*i, 2, 1, 0))
		ok(t, "append", err)
	}
	tail, err := Next(h.Store, s, Batch(3, 3, 2, 1, 0))
	if ok(t, "resent", err); tail != 6 {
		t.Errorf("tail %d, want 6", tail)
	}
	_, err = Next(h.Store, s, Batch(3, 3, 2, 1, 99))
	want(t, "other content", err, errs.ErrConflict)
	_, err = Next(h.Store, s, Batch(3, 3, 1, 1, 0))
	want(t, "cut anew", err, errs.ErrConflict)
}

func appendEpochs(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	_, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: 4, Batch: Batch(3, 1, 1, 0, 0), Base: true})
	want(t, "append of a later epoch", err, errs.ErrInvalid)
	_, err = Append(h.Store, &storeproto.Append{Stream: s, Epoch: 2, Batch: Batch(2, 1, 1, 0, 0), Base: true})
	want(t, "append of an earlier epoch", err, errs.ErrInvalid)
	_, err = Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(4, 1, 1, 0, 0), Base: true})
	want(t, "batch of a later epoch than its sender's", err, errs.ErrInvalid)
}

func batchEpochsNeverFall(t *testing.T, h *Harness) {
	s := Stream(5, 1, storeproto.Journal)
	for i, e := range []id.Epoch{3, 3, 4, 5} {
		_, err := Next(h.Store, s, Batch(e, id.LSN(i+1), 1, 0, 0))
		ok(t, "append of "+e.String(), err)
	}
	_, err := Next(h.Store, s, Batch(4, 5, 1, 0, 0))
	want(t, "append of a lower epoch", err, errs.ErrConflict)
}

func copyIntoOlder(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	a := func(e id.Epoch, first id.LSN, base bool) error {
		_, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: e, Batch: Batch(3, first, 1, 1, 0), Base: base, Copy: true})
		return err
	}
	<-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 6, By: HolderA})
	want(t, "copy below the fence", a(5, 8, true), errs.ErrStaleEpoch)
	ok(t, "copy at the fence", a(6, 8, true))
	ok(t, "next copy", a(6, 9, false))
	want(t, "copy below the fence", a(2, 10, false), errs.ErrStaleEpoch)
	_, err := Append(h.Store, &storeproto.Append{Stream: Stream(8, 1, storeproto.Journal), Epoch: 7, Batch: Batch(3, 1, 1, 0, 0), Base: true, Copy: true})
	want(t, "copy below the ensemble", err, errs.ErrInvalid)
}

func damagedBatch(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	b := Batch(3, 1, 1, 2, 0)
	b.Payload[0][4097] ^= 1
	_, err := Next(h.Store, s, b)
	want(t, "damaged payload", err, errs.ErrCorrupt)
	b = Batch(3, 1, 1, 2, 0)
	b.Meta[0] ^= 1
	_, err = Next(h.Store, s, b)
	want(t, "damaged meta", err, errs.ErrCorrupt)
	_, err = Next(h.Store, s, Batch(3, 1, 1, 2, 0))
	ok(t, "good", err)
}

func answersInOrder(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	const n = 150
	var mu sync.Mutex
	var got []int
	done := make(chan struct{})
	for i := range n {
		first := id.LSN(i + 1)
		if i%7 == 3 {
			first = 9999 // refused
		}
		if i > 3 {
			first -= id.LSN((i-4)/7 + 1)
		}
		if i%7 == 3 {
			first = 9999
		}
		a := &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, first, 1, i%2, 0), Base: i == 0}
		a.Done = func(a *storeproto.Append) {
			mu.Lock()
			defer mu.Unlock()
			if (a.Err == nil) != (i%7 != 3) {
				t.Errorf("append %d of %d: %v", i, first, a.Err)
			}
			if got = append(got, i); len(got) == n {
				close(done)
			}
		}
		h.Store.Append(a)
	}
	<-done
	for i := range got {
		if got[i] != i {
			t.Fatalf("answer %d was of call %d", i, got[i])
		}
	}
}

func fenceRefuses(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	_, err := Next(h.Store, s, Batch(3, 1, 2, 1, 0))
	ok(t, "append", err)
	ok(t, "confirm", Confirm(h.Store, Volume, 3))
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA})
	ok(t, "fence", r.Err)
	if len(r.Reply.Streams) != 1 || r.Reply.Lossy {
		t.Fatalf("fence reply %+v", r.Reply)
	}
	if st := r.Reply.Streams[0]; st.Stream != s || st.Base != 1 || st.Tail != 2 || st.Lossy {
		t.Errorf("stream %+v", st)
	}
	_, err = Next(h.Store, s, Batch(3, 3, 1, 1, 0))
	want(t, "append below the fence", err, errs.ErrStaleEpoch)
	_, err = Append(h.Store, &storeproto.Append{Stream: Stream(3, 2, storeproto.Journal), Epoch: 3, Batch: Batch(3, 1, 1, 0, 0), Base: true})
	want(t, "base below the fence", err, errs.ErrStaleEpoch)
	want(t, "confirm below the fence", Confirm(h.Store, Volume, 3), errs.ErrStaleEpoch)
	ok(t, "confirm at the fence", Confirm(h.Store, Volume, 4))
	_, err = h.Store.Fence(t.Context(), storeproto.Fence{Volume: Volume, Epoch: 3, By: HolderB})
	want(t, "lower fence", err, errs.ErrStaleEpoch)
	want(t, "drop below the fence", h.Store.Drop(t.Context(), storeproto.Drop{Volume: Volume, Epoch: 3}), errs.ErrStaleEpoch)
	_, err = Next(h.Store, Stream(4, 1, storeproto.Journal), Batch(4, 1, 1, 0, 0))
	ok(t, "base at the fence", err)
	_, err = h.Store.Fence(t.Context(), storeproto.Fence{Volume: Volume, By: HolderA})
	want(t, "fence at epoch zero", err, errs.ErrInvalid)
}

// fenceQueues: appends that were admitted before a fence are in the tail it
// reports, and none is acknowledged after it.
func fenceQueues(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	var mu sync.Mutex
	var acked id.LSN
	var fenced bool
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := id.LSN(1); ; i++ {
			wg.Add(1)
			h.Store.Append(&storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, i, 1, 1, 0), Base: i == 1, Done: func(a *storeproto.Append) {
				defer wg.Done()
				mu.Lock()
				defer mu.Unlock()
				if a.Err == nil {
					acked = a.Batch.Last()
					if fenced {
						t.Error("acknowledged after the fence was answered")
					}
				}
			}})
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for {
		mu.Lock()
		n := acked
		mu.Unlock()
		if n > 20 {
			break
		}
	}
	r, err := h.Store.Fence(t.Context(), storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA})
	mu.Lock()
	fenced = true
	seen := acked
	mu.Unlock()
	close(stop)
	ok(t, "fence", err)
	if len(r.Streams) != 1 || r.Streams[0].Tail < seen {
		t.Errorf("tail %+v, acknowledged up to %d", r.Streams, seen)
	}
	wg.Wait()
}

func fenceAgain(t *testing.T, h *Harness) {
	f := storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA}
	for range 3 {
		_, err := h.Store.Fence(t.Context(), f)
		ok(t, "fence", err)
	}
	f.By = HolderB
	_, err := h.Store.Fence(t.Context(), f)
	want(t, "fence of another holder at the same epoch", err, errs.ErrConflict)
	ok(t, "confirm", Confirm(h.Store, Volume, 4))
}

func fenceBothStreams(t *testing.T, h *Harness) {
	for _, k := range []storeproto.Kind{storeproto.Journal, storeproto.Meta} {
		_, err := Next(h.Store, Stream(3, 1, k), Batch(3, 1, 1+uint32(k), 0, 0))
		ok(t, "append", err)
	}
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA})
	ok(t, "fence", r.Err)
	if len(r.Reply.Streams) != 2 || r.Reply.Streams[0].Tail != 1 || r.Reply.Streams[1].Tail != 2 {
		t.Errorf("streams %+v", r.Reply.Streams)
	}
	for _, k := range []storeproto.Kind{storeproto.Journal, storeproto.Meta} {
		_, err := Next(h.Store, Stream(3, 1, k), Batch(3, 2+id.LSN(k), 1, 0, 0))
		want(t, "append to "+k.String(), err, errs.ErrStaleEpoch)
	}
}

func fetchGives(t *testing.T, h *Harness) {
	for _, k := range []storeproto.Kind{storeproto.Journal, storeproto.Meta} {
		s := Stream(3, 1, k)
		_, err := h.Store.Fetch(t.Context(), storeproto.Fetch{Stream: s, From: 1})
		want(t, "fetch of no stream", err, errs.ErrNotFound)
		var sums []uint32
		for i := range 10 {
			b := Batch(3, id.LSN(1+3*i), 3, i%4, uint64(i))
			sums = append(sums, b.Sum)
			_, err := Next(h.Store, s, b)
			ok(t, "append", err)
		}
		got, err := FetchAll(t.Context(), h.Store, s, 5)
		ok(t, "fetch", err)
		if len(got) != 9 {
			t.Fatalf("fetched %d batches, want 9", len(got))
		}
		for i, b := range got {
			ok(t, "verify", b.Verify("fetched"))
			if b.Sum != sums[i+1] || b.First != id.LSN(4+3*i) || b.Epoch != 3 {
				t.Errorf("batch %d: first %d epoch %s", i, b.First, b.Epoch)
			}
		}
		r, err := h.Store.Fetch(t.Context(), storeproto.Fetch{Stream: s, From: 31})
		if ok(t, "fetch beyond the tail", err); len(r.Batches) != 0 || r.More {
			t.Errorf("beyond the tail: %+v", r)
		}
		r, err = h.Store.Fetch(t.Context(), storeproto.Fetch{Stream: s, From: 1})
		if ok(t, "fetch of one", err); len(r.Batches) != 1 || !r.More {
			t.Errorf("at least one: %d, more %v", len(r.Batches), r.More)
		}
	}
}

func released(t *testing.T, h *Harness) {
	for _, k := range []storeproto.Kind{storeproto.Journal, storeproto.Meta} {
		s := Stream(3, 1, k)
		for i := range id.LSN(10) {
			_, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, 1+i, 1, 1, 0), Base: i == 0, Released: i / 2})
			ok(t, "append", err)
		}
		_, err := Next(h.Store, s, Batch(3, 1, 1, 1, 0))
		ok(t, "resent and released", err)
		r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 3, By: HolderA})
		ok(t, "fence", r.Err)
		if st := r.Reply.Streams[k]; st.Released != 4 || st.Tail != 10 {
			t.Errorf("stream %+v", st)
		}
		got, err := FetchAll(t.Context(), h.Store, s, 1)
		ok(t, "fetch", err)
		if len(got) == 0 || got[0].First > 5 || got[len(got)-1].Last() != 10 {
			t.Errorf("%s: fetched %d batches", k, len(got))
		}
	}
}

func tailMovesUp(t *testing.T, h *Harness) {
	s := Stream(3, 1, storeproto.Journal)
	_, err := Next(h.Store, s, Batch(3, 1, 2, 0, 0))
	ok(t, "append", err)
	tail, err := Append(h.Store, &storeproto.Append{Stream: s, Epoch: 3, Batch: Batch(3, 50, 2, 1, 0), Released: 49})
	if ok(t, "append after what was released", err); tail != 51 {
		t.Errorf("tail %d, want 51", tail)
	}
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderA})
	ok(t, "fence", r.Err)
	if st := r.Reply.Streams[0]; st.Tail != 51 || st.Released != 49 || st.Lossy {
		t.Errorf("stream %+v", st)
	}
}

func dropForgets(t *testing.T, h *Harness) {
	keep, gone := Stream(3, 2, storeproto.Journal), Stream(3, 1, storeproto.Journal)
	for _, s := range []storeproto.Stream{gone, keep, Stream(3, 1, storeproto.Meta)} {
		_, err := Next(h.Store, s, Batch(3, 1, 1, 1, 0))
		ok(t, "append", err)
	}
	ok(t, "drop", h.Store.Drop(t.Context(), storeproto.Drop{Volume: Volume, Epoch: 3, Keep: []id.Ensemble{keep.Ensemble}}))
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 3, By: HolderA})
	if ok(t, "fence", r.Err); len(r.Reply.Streams) != 1 || r.Reply.Streams[0].Stream != keep {
		t.Errorf("streams %+v", r.Reply.Streams)
	}
	_, err := Next(h.Store, gone, Batch(3, 1, 1, 1, 0))
	want(t, "base of a dropped stream", err, errs.ErrConflict)
	_, err = Next(h.Store, keep, Batch(3, 2, 1, 1, 0))
	ok(t, "append to the kept one", err)
	_, err = h.Store.Fetch(t.Context(), storeproto.Fetch{Stream: gone, From: 1})
	want(t, "fetch of a dropped stream", err, errs.ErrNotFound)
	// A drop that was sent before a later ensemble was made must not take it.
	later := Stream(3, 3, storeproto.Journal)
	_, err = Next(h.Store, later, Batch(3, 1, 1, 1, 0))
	ok(t, "base of a later ensemble", err)
	ok(t, "drop again", h.Store.Drop(t.Context(), storeproto.Drop{Volume: Volume, Epoch: 3, Keep: []id.Ensemble{keep.Ensemble}}))
	_, err = Next(h.Store, later, Batch(3, 2, 1, 1, 0))
	ok(t, "append to the later ensemble", err)
}
