package volume_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// still is a snapshot and what the model was when it was taken.
type still struct {
	id   id.Snapshot
	data []byte
}

// read reads all of a snapshot.
func (s *still) read(t *testing.T, v *volume.Volume) []byte {
	t.Helper()
	b := make([]byte, len(s.data))
	for at := 0; at < len(b); at += 1 << 20 {
		part := b[at : at+1<<20]
		ch := make(chan error, 1)
		r := nbd.NewRequest(nbd.OpRead, 0, uint64(at), uint64(len(part)), part, nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
		v.View(s.id, uint64(len(s.data))).Submit(r)
		if err := <-ch; err != nil {
			t.Fatalf("read snapshot %s: %v", s.id, err)
		}
		r.FillHoles()
		r.Recycle()
	}
	return b
}

// Without this what the simulated world knows of snapshots would be tried nowhere on real
// shards: random writes, trims and zeros, snapshots that come and go, cleaning, the death
// of owners and of a store, against flat bytes.
func TestSnapshotsAreLikeCopiesOfFlatBytes(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.limits.CheckpointDead, r.limits.CheckpointIdle = 64<<10, time.Millisecond
	v := id.Volume{1}
	const size = 4 << 20
	r.metad.Create(v, size)
	f := &flat{t: t, rng: seed(t), data: make([]byte, size)}
	var all []*still
	for life := range 4 {
		e := r.engine(id.Host([]string{"b1", "b2"}[life%2]))
		vol := e.mustOpen(v)
		for n := range 60 {
			f.step(vol)
			if n%15 == 7 {
				s := &still{id.Snapshot{1, byte(life), byte(n)}, bytes.Clone(f.data)}
				if err := vol.TakeSnapshot(t.Context(), s.id); err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
			if n%20 == 13 && len(all) > 4 {
				i := f.rng.IntN(len(all))
				if err := vol.DropSnapshot(t.Context(), all[i].id); err != nil {
					t.Fatal(err)
				}
				all = append(all[:i], all[i+1:]...)
			}
		}
		f.all(vol)
		for _, s := range all {
			if !bytes.Equal(s.read(t, vol), s.data) {
				t.Fatalf("life %d: snapshot %s is not what it was", life, s.id)
			}
		}
		r.stores[life].Crash(1)
		for _, s := range all[:min(2, len(all))] {
			if !bytes.Equal(s.read(t, vol), s.data) {
				t.Fatalf("life %d: snapshot %s is not what it was, a store less", life, s.id)
			}
		}
		r.stores[life].Restart()
		e.Kill()
	}
}

// Without this a client could change a snapshot, or read beyond it, or take one that is
// gone for zeros.
func TestSnapshotIsReadOnlyAndEnds(t *testing.T) {
	r := newRig(t, 3, 1, 2, 1)
	v := id.Volume{1}
	r.metad.Create(v, 1<<20)
	vol := r.engine("b1").mustOpen(v)
	if err := write(vol, 0, bytes.Repeat([]byte{1}, 8192)); err != nil {
		t.Fatal(err)
	}
	s := id.Snapshot{3}
	if err := vol.TakeSnapshot(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	view := vol.View(s, 1<<20)
	ask := func(op nbd.Op, off, n uint64) error {
		ch := make(chan error, 1)
		q := nbd.NewRequest(op, 0, off, n, make([]byte, n), nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
		view.Submit(q)
		return <-ch
	}
	for _, op := range []nbd.Op{nbd.OpWrite, nbd.OpTrim, nbd.OpWriteZeroes} {
		if err := ask(op, 0, 4096); !errors.Is(err, nbd.EPERM) {
			t.Errorf("%v: %v", op, err)
		}
	}
	if err := ask(nbd.OpRead, 1<<20, 4096); !errors.Is(err, nbd.EINVAL) {
		t.Errorf("read beyond the end: %v", err)
	}
	if err := ask(nbd.OpFlush, 0, 0); err != nil || !view.Info().ReadOnly {
		t.Errorf("flush: %v, %+v", err, view.Info())
	}
	if err := ask(nbd.OpRead, 0, 8192); err != nil {
		t.Errorf("read: %v", err)
	}
	if err := vol.DropSnapshot(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := ask(nbd.OpRead, 0, 4096); !errors.Is(err, nbd.ErrHangup) {
		t.Errorf("read of what is gone: %v", err)
	}
}

// Without this writers of all disks of a group would wait for the stores of each, or a group would count of which a mark is on no store
// and dies with its owner: a mark has its place at once, and its release is answered when it is durable.
func TestHeldSnapshotIsReleasedBeforeItIsDurable(t *testing.T) {
	r := newRig(t, 3, 1, 1, 2)
	vol, f, e := r.disk(4 * mib)
	f.put(vol, 0, 64<<10)
	s := id.Snapshot{7}
	r.stores[0].Pause()
	r.stores[1].Pause()
	if err := vol.HoldSnapshot(t.Context(), s, time.Minute); err != nil {
		t.Fatal(err)
	}
	released, written := make(chan error, 1), make(chan error, 1)
	data := bytes.Repeat([]byte{7}, 64<<10)
	go func() { written <- write(vol, 0, data) }()
	go func() { released <- vol.ReleaseSnapshot(t.Context(), s) }()
	select {
	case err := <-released:
		t.Fatalf("released with its mark on one store of three: %v", err)
	case err := <-written:
		t.Fatalf("answered by one store: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	r.stores[0].Resume()
	r.stores[1].Resume()
	for _, done := range []chan error{released, written} {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	copy(f.data, data)
	f.all(vol)
	if err := vol.ReleaseSnapshot(t.Context(), s); !errors.Is(err, errs.ErrTimeout) {
		t.Errorf("a hold was released twice: %v", err)
	}
	for _, x := range r.stores[:2] {
		x.Pause()
	}
	if err := vol.HoldSnapshot(t.Context(), id.Snapshot{8}, time.Minute); err != nil {
		t.Fatal(err)
	}
	go func() { released <- vol.ReleaseSnapshot(t.Context(), id.Snapshot{8}) }()
	vol.Abandon()
	if err := <-released; err == nil {
		t.Error("the owner is gone with a mark that no two stores have, and it is said to be durable")
	}
	for _, x := range r.stores[:2] {
		x.Resume()
	}
	e.Kill()
}

// tickless is a clock that never ticks: only timers move what waits.
type tickless struct{ clock.Clock }

func (tickless) NewTicker(time.Duration) clock.Ticker { return neverTicks{} }

type neverTicks struct{}

func (neverTicks) C() <-chan time.Time   { return nil }
func (neverTicks) Stop()                 {}
func (neverTicks) Reset(d time.Duration) {}

// Without this a group whose release is late would keep writers waiting until the next tick: a hold ends by itself when its time is
// over, and the release says that it did not stand.
func TestHoldEndsByItself(t *testing.T) {
	r := newRig(t, 3, 1, 1, 2)
	v := id.Volume{1}
	r.metad.Create(v, 4*mib)
	e := r.engine("b1")
	vol, err := e.Open(t.Context(), v, r.limits, func(c *volume.Config) { c.Clock = tickless{c.Clock} })
	if err != nil {
		t.Fatal(err)
	}
	s := id.Snapshot{7}
	if err := vol.HoldSnapshot(t.Context(), s, 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := write(vol, 0, bytes.Repeat([]byte{7}, 64<<10)); err != nil {
		t.Fatal(err)
	}
	if err := vol.ReleaseSnapshot(t.Context(), s); !errors.Is(err, errs.ErrTimeout) {
		t.Errorf("released after its time, and it is said to have stood: %v", err)
	}
	vol.Abandon()
	e.Kill()
}
