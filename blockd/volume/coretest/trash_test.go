package coretest

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/buf"
)

// Without this nothing would try whether a disk that comes back from the trash is what was acknowledged before: it is thrown
// away under I/O, snapshots, packing and cleaning, looked after by owners that come and go, and brought back or not.
func TestDiskComesBackFromTheTrashInEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 2)
	thrown := 0
	for seed := from; seed < to; seed++ {
		before := buf.Outstanding().Buffers
		cfg := small(seed)
		cfg.Leases, cfg.Snapshots, cfg.CheckEvery = true, 0.05, 100
		if seed%2 == 1 {
			cfg.PackFails, cfg.PageFails, cfg.ReadFails, cfg.MetadFails, cfg.TakesOver = 0.1, 0.05, 0.02, 0.05, 0.002
		}
		w := New(cfg)
		for range max(4/shortened, 2) {
			thrown++
			if err := w.throwAway(true); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := w.throwAway(false); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := errors.Join(w.Until(func() bool { return w.retired.emptied }), w.finish()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for w.happen() {
		}
		w.Owner().Kill()
		if n := buf.Outstanding().Buffers; n != before {
			t.Fatalf("seed %d: %d buffers are not released", seed, n-before)
		}
	}
	t.Logf("thrown away and brought back %d times", thrown)
}

// throwAway uses the disk, deletes it at some moment, has it looked after, and brings it back, or not; then all is looked at.
func (w *World) throwAway(back bool) error {
	if err := w.Run(500 / shortened); err != nil {
		return err
	}
	w.Trash()
	if err := w.Run(w.rng.IntN(300)); err != nil { // it may be brought back before anybody has opened it
		return err
	}
	w.Untrash(back)
	if err := w.Settle(); err != nil {
		return err
	}
	if w.Check(); w.Err() != nil {
		return w.Err()
	}
	return errors.Join(w.ReadAll(), w.ReadSnapshots())
}
