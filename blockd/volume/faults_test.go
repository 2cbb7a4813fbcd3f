package volume_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

const mib = 1 << 20

// disk makes a volume of size bytes on r, opens it on host b1 and gives its model.
func (r *rig) disk(size uint64) (*volume.Volume, *flat, *engine) {
	r.t.Helper()
	v := id.Volume{1}
	r.metad.Create(v, size)
	e := r.engine("b1")
	return e.mustOpen(v), &flat{t: r.t, rng: seed(r.t), data: make([]byte, size)}, e
}

// put writes n pseudorandom bytes at off, to the volume and to the model.
func (f *flat) put(v *volume.Volume, off, n uint64) {
	f.t.Helper()
	b := f.bytes(n)
	if err := write(v, off, b); err != nil {
		f.t.Fatalf("write %d at %d: %v", n, off, err)
	}
	copy(f.data[off:], b)
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := clock.System.Now() + 10*time.Second
	for !cond() {
		if clock.System.Now() > deadline {
			t.Fatalf("waited in vain: %s", what)
		}
		pause(time.Millisecond)
	}
}

// closed closes a volume in peace.
func closed(t *testing.T, v *volume.Volume) {
	t.Helper()
	ctx, cancel := timeout(20 * time.Second)
	defer cancel()
	if err := v.Close(ctx); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// shards counts the shards on all stores, and their segments.
func (r *rig) shards() (shards, segments int) {
	seen := make(map[id.Segment]bool)
	for _, s := range r.stores {
		s.Shards(func(h storeproto.ShardHead) {
			shards++
			seen[h.Segment] = true
		})
	}
	return shards, len(seen)
}

// Without this a store that dies and comes back while clients write could cost a byte.
func TestStoresCrashWhileClientsWrite(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(8 * mib)
	for round := range 12 {
		s := r.stores[f.rng.IntN(len(r.stores))]
		s.Crash(f.rng.Uint64())
		if round%2 == 0 {
			r.metad.Mark(s.ID(), cluster.StoreDown)
		}
		for range 12 {
			f.step(vol)
		}
		s.Restart()
		r.metad.Mark(s.ID(), cluster.StoreUp)
		for range 3 {
			f.step(vol)
		}
	}
	f.all(vol)
	vol.Abandon()
	f.all(r.engine("b1").mustOpen(id.Volume{1}))
}

// Without this one store that hangs would hold writers up although two others have
// their bytes, or the packer, until every buffer is full.
func TestOnePausedStoreHoldsNobodyUp(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(8 * mib)
	f.put(vol, 0, 2*mib)
	r.stores[0].Pause()
	for off := uint64(0); off < 4*mib; off += 128 << 10 { // four times the buffers
		f.put(vol, off, 128<<10)
	}
	f.all(vol) // some data shards lie on the paused store
	r.stores[0].Resume()
	f.put(vol, 0, mib)
	f.all(vol)
	closed(t, vol)
}

// Without this writers would fail, or be answered too early, while two stores of three hang.
func TestWritersWaitForTwoStores(t *testing.T) {
	r := newRig(t, 3, 1, 1, 2)
	vol, f, _ := r.disk(4 * mib)
	f.put(vol, 0, 64<<10)
	r.stores[0].Pause()
	r.stores[1].Pause()
	done := make(chan error, 1)
	data := bytes.Repeat([]byte{7}, 64<<10)
	go func() { done <- write(vol, mib, data) }()
	copy(f.data[mib:], data)
	select {
	case err := <-done:
		t.Fatalf("answered by one store: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	r.stores[0].Resume()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.stores[1].Resume()
	f.all(vol)
}

// Without this lost and rotten shards could cost data that m others can give back,
// or, worse, give wrong bytes when there are too few.
func TestUpToMShardsMayBeLostOrRotten(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.limits.ReadPatience = time.Millisecond
	vol, f, _ := r.disk(2 * mib)
	f.put(vol, 0, 2*mib)
	closed(t, vol)
	vol = r.engine("b1").mustOpen(id.Volume{1})
	f.all(vol)
	// Of every segment one shard goes and another rots.
	for i, s := range r.stores {
		var heads []storeproto.ShardHead
		s.Shards(func(h storeproto.ShardHead) { heads = append(heads, h) })
		for _, h := range heads {
			switch int(h.Segment.Sequence()+id.Sequence(i)) % 6 {
			case 0:
				s.LoseShards(h.Segment)
			case 1:
				for b := range h.Blocks {
					s.Damage(h.Segment, h.Generation, h.Index, b)
				}
			}
		}
	}
	f.all(vol)
	// A third one more is an error, and never wrong.
	for i, s := range r.stores {
		var heads []storeproto.ShardHead
		s.Shards(func(h storeproto.ShardHead) { heads = append(heads, h) })
		for _, h := range heads {
			if int(h.Segment.Sequence()+id.Sequence(i))%6 == 2 {
				s.LoseShards(h.Segment)
			}
		}
	}
	failed := 0
	for off := uint64(0); off < 2*mib; off += 4096 {
		got, err := readBack(vol, off, 4096)
		switch {
		case err != nil:
			failed++
		case !bytes.Equal(got, f.data[off:off+4096]):
			t.Fatalf("wrong data at %d: %x want %x", off, got[:16], f.data[off:off+16])
		}
	}
	if failed == 0 {
		t.Fatal("three of six shards are gone and nothing failed")
	}
}

// Without this a read would wait for a store that hangs although others can give its bytes.
func TestHedgedReadPassesAPausedStore(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, e := r.disk(2 * mib)
	f.put(vol, 0, 2*mib)
	closed(t, vol)
	vol = e.mustOpen(id.Volume{1})
	f.all(vol)
	r.stores[1].Pause()
	defer r.stores[1].Resume()
	f.all(vol)
	if st := e.Reader.Stats(); st.Hedged == 0 {
		t.Fatalf("no read was hedged: %+v", st)
	}
}

// Without this I/O would hang on metad: packing, reads and writes go on while it is away.
func TestIOGoesOnWhileMetadIsAway(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(8 * mib)
	f.put(vol, 0, 64<<10) // segment ids are in hand
	until(t, "ids", func() bool { return vol.Stats().SegmentsPacked > 0 || f.round(vol) })
	r.metad.SetAway(true)
	for range 120 {
		f.step(vol)
	}
	f.all(vol)
	r.metad.SetAway(false)
	closed(t, vol)
	f.all(r.engine("b1").mustOpen(id.Volume{1}))
}

// round writes a memtable full; it gives false.
func (f *flat) round(v *volume.Volume) bool { f.put(v, 0, 512<<10); return false }

// Without this a full cluster would lose what it has taken, or could never be emptied.
func TestFullStoresRefuseWritesAndTakeTrims(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(4 * mib)
	f.put(vol, 0, 2*mib)
	for _, s := range r.stores {
		r.metad.MarkFull(s.ID(), true)
	}
	until(t, "a refused write", func() bool {
		b := bytes.Repeat([]byte{1}, 4096)
		err := write(vol, 3*mib, b)
		if err == nil {
			copy(f.data[3*mib:], b)
			return false
		}
		if !errors.Is(err, errs.ErrNoSpace) {
			t.Fatalf("write into full stores: %v", err)
		}
		return true
	})
	f.all(vol)
	rq, err := do(vol, nbd.OpTrim, 0, mib, nil)
	rq.Recycle()
	if err != nil {
		t.Fatalf("trim: %v", err)
	}
	clear(f.data[:mib])
	f.all(vol)
	for _, s := range r.stores {
		r.metad.MarkFull(s.ID(), false)
	}
	until(t, "a write that is taken", func() bool {
		b := bytes.Repeat([]byte{2}, 4096)
		copy(f.data[3*mib:], b)
		return write(vol, 3*mib, b) == nil
	})
	closed(t, vol)
	f.all(r.engine("b1").mustOpen(id.Volume{1}))
}

// Without this two stores would not be enough for a disk.
func TestTwoStoreCluster(t *testing.T) {
	r := newRig(t, 2, 1, 1, 1)
	vol, f, e := r.disk(4 * mib)
	for range 60 {
		f.step(vol)
	}
	r.stores[1].Crash(1)
	done := make(chan error, 1)
	b := bytes.Repeat([]byte{9}, 4096)
	go func() { done <- write(vol, 0, b) }()
	select {
	case err := <-done:
		t.Fatalf("acknowledged by one store of two: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.stores[1].Restart()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	copy(f.data, b)
	f.all(vol)
	vol.Abandon()
	e.Kill()
	vol = r.engine("b1").mustOpen(id.Volume{1})
	f.all(vol)
	closed(t, vol)
}

// Without this the loss of a host would stop writers as soon as the buffers are full:
// with no group of 4+2 left, a smaller profile takes the new segments.
func TestPackingGoesOnWithAHostGone(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(8 * mib)
	f.put(vol, 0, 2*mib)
	for _, s := range r.stores[4:] {
		s.Crash(1)
		r.metad.Mark(s.ID(), cluster.StoreDown)
	}
	for off := uint64(0); off < 8*mib; off += 256 << 10 {
		f.put(vol, off, 256<<10)
	}
	if n := vol.Stats().UnpackedBytes; n > r.limits.UnpackedBytesMax {
		t.Fatalf("%d bytes are buffered", n)
	}
	f.all(vol)
	for _, s := range r.stores[4:] {
		s.Restart()
		r.metad.Mark(s.ID(), cluster.StoreUp)
	}
	f.put(vol, 0, mib)
	closed(t, vol)
	f.all(r.engine("b2").mustOpen(id.Volume{1}))
}

// Without this failed puts would leave shards behind that nothing names, and dead
// segments would stay: space would leak away.
func TestAbandonedAndDeadSegmentsGiveTheirSpaceBack(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(4 * mib)
	n := 0
	for _, s := range r.stores {
		s.SetFault(func(c memstore.Call) memstore.Fault {
			if c != memstore.PutShard {
				return memstore.Fault{}
			}
			if n++; n%23 == 0 { // guarded by nothing: the stores answer one at a time per mutex, and any count will do
				return memstore.Fault{Err: errs.ErrUnavailable, Lost: n%2 == 0}
			}
			return memstore.Fault{}
		})
		break
	}
	for range 120 {
		f.step(vol)
	}
	for _, s := range r.stores {
		s.SetFault(nil)
	}
	if vol.Stats().PackRetries == 0 {
		t.Log("no put failed this time")
	}
	rq, err := do(vol, nbd.OpTrim, 0, 4*mib, nil)
	rq.Recycle()
	if err != nil {
		t.Fatal(err)
	}
	closed(t, vol)
	vol = r.engine("b1").mustOpen(id.Volume{1})
	until(t, "all but the last pages to be deleted", func() bool { _, s := r.shards(); return s <= 4 })
	_, s := r.shards()
	t.Logf("%d segments are left, %+v", s, vol.Stats())
}

// Without this a new disk of 1 TiB would cost space or time.
func TestThinTebibyteCostsNothing(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	v := id.Volume{1}
	r.metad.Create(v, 1<<40)
	vol := r.engine("b1").mustOpen(v)
	if n, _ := r.shards(); n != 0 {
		t.Fatalf("%d shards of a new disk", n)
	}
	data := bytes.Repeat([]byte{5}, 4096)
	if err := write(vol, 1<<39, data); err != nil {
		t.Fatal(err)
	}
	var extents uint64
	for off := uint64(0); off < 1<<40; {
		rq, err := do(vol, nbd.OpBlockStatus, off, 1<<40-off, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range rq.Extents() {
			if hole := x.State&nbd.StateHole != 0; hole == (off <= 1<<39 && 1<<39 < off+x.Length) {
				t.Fatalf("extent of %d at %d: hole %t", x.Length, off, hole)
			}
			off += x.Length
			extents++
		}
		rq.Recycle()
	}
	rq, err := do(vol, nbd.OpTrim, 0, 1<<40, nil)
	rq.Recycle()
	if err != nil {
		t.Fatal(err)
	}
	closed(t, vol)
	if n, _ := r.shards(); n > 2*6 {
		t.Fatalf("%d shards of an empty disk", n)
	}
	t.Logf("%d extents", extents)
}

// Without this a store that was formatted anew would answer for what it was before:
// it knows no fence, and what it acknowledges counts for nothing in a recovery.
func TestStoreFormattedAnewIsNotTheOneThatMetadNamed(t *testing.T) {
	r := newRig(t, 3, 1, 1, 2)
	for i := range 2 {
		r.stores[i].Wipe(id.Incarnation{99, byte(i)})
	}
	r.metad.Create(id.Volume{1}, mib)
	vol, err := r.engine("b1").openWithin(id.Volume{1}, 300*time.Millisecond)
	if err != nil {
		return
	}
	done := make(chan error, 1)
	go func() { done <- write(vol, 0, make([]byte, 4096)) }()
	select {
	case err := <-done:
		if err == nil {
			t.Fatal("acknowledged by stores that are not those of the list")
		}
	case <-time.After(200 * time.Millisecond):
	}
	vol.Abandon()
	<-done
}

// Without this what a store missed while it was away would stay on it for good.
func TestStoreThatWasAwayDeletesLater(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	vol, f, _ := r.disk(2 * mib)
	f.put(vol, 0, 2*mib)
	until(t, "packing", func() bool { return vol.Stats().SegmentsPacked+vol.Stats().SegmentsLong > 2 || f.round(vol) })
	s := r.stores[5]
	of := func() (n int) { s.Shards(func(storeproto.ShardHead) { n++ }); return n }
	before := of()
	s.Crash(1)
	r.metad.Mark(s.ID(), cluster.StoreDown)
	for range 3 {
		f.put(vol, 0, 2*mib)
	}
	until(t, "dead segments", func() bool { return vol.Stats().Checkpoints > 1 || f.round(vol) })
	if of() != before {
		t.Fatal("a store that is away deletes")
	}
	s.Restart()
	r.metad.Mark(s.ID(), cluster.StoreUp)
	until(t, "the store to delete", func() bool { return of() < before })
}

// Without this many volumes together could take more memory than their process has, or
// one that is quiet could starve the others.
func TestVolumesShareTheProcessMemory(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.memory = core.NewMemory(mib)
	r.limits.LongBlocksMin, r.limits.SealBlocks = -1, 1024
	e := r.engine("b1")
	var vols []*volume.Volume
	for i := range 4 {
		v := id.Volume{byte(i + 1)}
		r.metad.Create(v, 4*mib)
		vols = append(vols, e.mustOpen(v))
	}
	data := bytes.Repeat([]byte{3}, 64<<10)
	most := int64(0)
	for off := uint64(0); off < mib; off += 64 << 10 {
		for _, v := range vols {
			if err := write(v, off, data); err != nil {
				t.Fatal(err)
			}
			most = max(most, r.memory.Used())
		}
	}
	if limit := r.memory.Limit() + 4*(64<<10); most > limit {
		t.Fatalf("%d bytes were buffered, %d are allowed", most, limit)
	}
	for _, v := range vols {
		closed(t, v)
	}
	if n := r.memory.Used(); n != 0 {
		t.Fatalf("%d bytes are charged for nothing", n)
	}
}
