package coretest

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/buf"
)

// small makes everything happen often: a memtable is some blocks, a checkpoint some segments.
func small(seed uint64) Config {
	return Config{
		Seed: seed, Stores: 5, Blocks: 1 << 19,
		Limits: core.Limits{
			UnpackedBytesMax: 2 << 20, SealBlocks: 48, SealBytes: 512 << 10, SealIdle: 2 * time.Second, LongBlocksMin: 24,
			CheckpointBytes: 1 << 20, CheckpointDead: 512 << 10, CheckpointMeta: 64 << 10, CheckpointDirty: 64,
			CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 12,
		},
		Journal:    journal.Limits{ReplaceAfter: 300 * time.Millisecond},
		Leases:     seed%3 == 0,
		CheckEvery: 50,
	}
}

// shortened divides the work of a run.
var shortened = 1

// seeds gives where to begin and how many to try: SEED for one, SEEDS for more.
func seeds(t *testing.T, n int) (from, to uint64) {
	t.Helper()
	get := func(name string) (uint64, bool) {
		s := os.Getenv(name)
		if s == "" {
			return 0, false
		}
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v, true
	}
	if s, ok := get("SEED"); ok {
		return s, s + 1
	}
	if m, ok := get("SEEDS"); ok {
		return 1, m + 1
	}
	return 1, uint64(max(n/shortened, 1)) + 1
}

// total is how much all worlds cleaned: a test that never cleans proves nothing.
var total struct{ rewritten, merged, moved uint64 }

// live runs one world to a quiet end and looks at everything there.
func live(t *testing.T, cfg Config, steps int) *World {
	t.Helper()
	if os.Getenv("SEED") != "" && testing.Verbose() {
		cfg.Trace = func(s string) { t.Log(s) }
	}
	before := buf.Outstanding().Buffers
	w := New(cfg)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(w.Run(steps / min(shortened, 2)))
	check(w.Settle())
	w.Check()
	check(w.Err())
	check(w.ReadAll())
	check(w.StatusAll())
	check(w.ReadSnapshots())
	check(w.ChangesAll())
	o := w.Owner()
	o.Drain()
	check(w.Until(func() bool { return o.Drained }))
	for _, e := range w.Engines {
		e.Kill()
	}
	check(w.Until(func() bool { return len(w.tasks) == 0 || w.Owner() != o }))
	w.open()
	check(w.Settle())
	check(w.ReadAll())
	check(w.StatusAll())
	check(w.ReadSnapshots())
	check(w.ChangesAll())
	w.Check()
	check(w.Err())
	check(w.dropAll())
	check(w.bringIn())
	for _, e := range w.Engines {
		e.Kill()
	}
	w.calm = true
	for w.happen() {
	}
	check(w.Err())
	total.rewritten += w.rewritten
	total.merged += w.merged
	total.moved += w.moved
	if n := buf.Outstanding().Buffers; n != before {
		t.Fatalf("seed %d: %d buffers are not released", cfg.Seed, n-before)
	}
	return w
}

// Without this nothing would try whether the engine keeps every acknowledged byte in
// whatever order stores, metad and its own work answer, fail or fall silent.
func TestEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 12)
	for s := from; s < to; s++ {
		cfg := small(s)
		cfg.PackFails, cfg.PageFails, cfg.ReadFails = 0.1, 0.05, 0.02
		cfg.MetadFails, cfg.StoreFails, cfg.TakesOver = 0.05, 0.0005, 0.0004
		w := live(t, cfg, 4000)
		if s == from {
			t.Logf("cleaned: %+v", total)
			t.Logf("seed %d: %d requests, %d puts, %d segments at the end, %d engines, %+v", s, w.Done, w.Puts, w.Segments(), w.life, w.Owner().Core.Stats())
		}
	}
}

// Without this a mistake that only shows when nothing fails would hide behind faults.
func TestCalmWeather(t *testing.T) {
	from, to := seeds(t, 3)
	for s := from; s < to; s++ {
		w := live(t, small(s), 4000)
		if w.life != 2 {
			t.Fatalf("seed %d: %d engines in calm weather", s, w.life)
		}
	}
}

// Without this an owner that was replaced and does not know it could go on serving.
func TestZombiesAndHeirs(t *testing.T) {
	from, to := seeds(t, 3)
	for s := from; s < to; s++ {
		cfg := small(3*s + 1) // no leases: an old owner lives on
		cfg.TakesOver, cfg.ToZombies = 0.004, 0.5
		live(t, cfg, 3000)
	}
}

// Without this nothing would try whether a snapshot holds what the disk held at its mark,
// for as long as it is there, whatever is written, packed, cleaned and deleted beside it.
func TestSnapshotsInEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 2)
	taken, dropped := 0, 0
	for s := from; s < to; s++ {
		cfg := small(s)
		cfg.Snapshots = 0.05
		if s%2 == 0 {
			cfg.PackFails, cfg.PageFails, cfg.ReadFails = 0.1, 0.05, 0.02
			cfg.MetadFails, cfg.StoreFails, cfg.TakesOver, cfg.ToZombies = 0.05, 0.0005, 0.002, 0.1
		}
		w := live(t, cfg, 4000)
		taken, dropped = taken+w.Taken, dropped+w.Dropped
	}
	t.Logf("%d snapshots taken, %d dropped; cleaned: %+v", taken, dropped, total)
}

// dropAll deletes all snapshots and looks at what is left.
func (w *World) dropAll() error {
	for _, s := range w.Snaps {
		if s.state == snapMade {
			w.Drop(s)
		}
	}
	err := w.Until(func() bool {
		return w.requests == 0 && !slices.ContainsFunc(w.Snaps, func(s *Snap) bool { return s.state == snapDropping })
	})
	w.Check()
	return errors.Join(err, w.Err(), w.ReadAll())
}
