package crash

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// number reads a setting of the long run from the environment.
func number(t *testing.T, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Without this an acknowledged write could vanish, or what nobody wrote appear, when stores,
// each right by itself, lose power at a moment that the engine did not expect: all at once
// (the engine's host too), or one or two of them while it goes on. CUTS is how many; SEED
// which.
func TestAcknowledgedWritesOutlivePowerCuts(t *testing.T) {
	seed := uint64(number(t, "SEED", int(rand.Uint64()>>1)))
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, seed)
	var all, some int
	for n := number(t, "CUTS", 8); all+some < n && !t.Failed(); {
		c := draw(rng, len(w.slots))
		if w.suffer(c, rng); c.all(w) {
			all++
		} else {
			some++
		}
	}
	if !t.Failed() {
		w.rest()
	}
	d := &w.done
	t.Logf("%d cuts of everything, %d of one store or two; %d syncs, %d acknowledged, %d openings; %d segments packed, %d of long writes, %d checkpoints, %d segments deleted, %d rewritten, %d merged, %d leftovers; %d snapshots taken, %d dropped; %d MiB in six logs of 15",
		all, some, w.power.syncs, w.ledger.acks, d.opens, d.SegmentsPacked, d.SegmentsLong, d.Checkpoints, d.SegmentsDeleted, d.SegmentsRewritten, d.SegmentsMerged, d.Leftovers, d.taken, d.dropped, d.logged>>20)
	for what, n := range map[string]uint64{"packed": d.SegmentsPacked, "written long": d.SegmentsLong, "checkpointed": d.Checkpoints} {
		if n == 0 && !t.Failed() && w.ledger.acks > 200 {
			t.Errorf("nothing was %s: the test does not reach it", what)
		}
	}
}

// suffer lets the world work until the cut comes, wherever that is: in the stores' opening,
// the disk's, or the work; and looks at what is left, at the latest when the next begins.
func (w *world) suffer(c cut, rng *rand.Rand) {
	off := w.power.arm(c)
	if err := w.rise(off); err != nil && w.power.due() {
		w.t.Errorf("open: %v, and nobody lost power after %v", err, w.power.past)
	}
	if w.t.Failed() { // what was found goes no further
		return
	}
	select {
	case <-off:
	case <-time.After(5 * time.Minute):
		w.t.Errorf("nothing was synced for five minutes: %v", c)
		return
	}
	run := w.run
	if c.all(w) || run == nil || rng.IntN(2) == 0 {
		w.halt()
	}
	w.fall()
	w.metad.SetAway(false)
	if w.run == nil {
		return
	}
	if err := w.boot(); err != nil {
		w.t.Errorf("open again: %v", err)
	}
	for _, s := range w.slots {
		run.door.set(s.ref.Store, s.store)
	}
}

// rise brings up what is down: stores, an engine, clients.
func (w *world) rise(off <-chan struct{}) error {
	if w.run != nil {
		return nil
	}
	if err := w.boot(); err != nil {
		return err
	}
	e := w.start()
	wrong, err := e.open(off)
	if wrong != nil {
		w.t.Errorf("%v, after %v", wrong, w.power.past)
	}
	if wrong != nil || err != nil {
		w.halt()
		return err
	}
	w.forget()
	e.work(w.power.seed)
	return nil
}

// forget does what answers to heartbeats do: stores let go of streams of epochs before that no list has.
// Openings that broke off leave such, and small logs would fill up with them.
func (w *world) forget() {
	r := w.metad.Record(w.disk)
	d := storeproto.Drop{Volume: w.disk, Epoch: r.Epoch - 1, Keep: []id.Ensemble{{Epoch: r.Epoch - 1, N: math.MaxUint32}}}
	for _, e := range r.List {
		d.Keep = append(d.Keep, e.ID)
	}
	ctx, cancel := context.WithTimeout(w.run.ctx, 10*time.Second)
	defer cancel()
	for _, s := range w.slots {
		_ = s.store.Drop(ctx, d) // a store without power is told again after the next opening
	}
}

// rest ends the disk's life in peace, and looks once more.
func (w *world) rest() {
	for range 2 {
		w.halt()
		if err := w.boot(); err != nil {
			w.t.Fatal(err)
		}
		e := w.start()
		wrong, err := e.open(nil)
		if wrong != nil || err != nil {
			w.t.Fatal(wrong, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := e.volume.Close(ctx); err != nil {
			w.t.Fatalf("detach: %v", err)
		}
		cancel()
	}
}
