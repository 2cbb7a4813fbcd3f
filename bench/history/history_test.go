package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
)

// Limits of a world.
const (
	diskBytes    = 2 << 20
	diskBytesMax = 4 << 20
	disksMax     = 5 // and one more
	snapsMax     = 8
)

// world is what one seed makes.
type world struct {
	*rig
	rng   *rand.Rand
	disks []*disk
	next  byte // of ids
	done  map[string]int

	archived []*archived
}

func (w *world) id() byte {
	w.next++
	return w.next
}

func (w *world) add(d *disk) *disk {
	d.own = w.open(d.id, nil)
	w.disks = append(w.disks, d)
	return d
}

func (w *world) any() *disk { return w.disks[w.rng.IntN(len(w.disks))] }

func (w *world) anySnap() *snap {
	d := w.any()
	if len(d.snaps) == 0 {
		return nil
	}
	return d.snaps[w.rng.IntN(len(d.snaps))]
}

// snapshot takes one.
func (w *world) snapshot() bool {
	d := w.any()
	if len(d.snaps) >= snapsMax {
		return false
	}
	w.take(d)
	return true
}

func (w *world) take(d *disk) *snap {
	s := &snap{id: id.Snapshot{w.id()}, of: d, is: d.is.clone(), parent: d.parent}
	w.ok(d.own.TakeSnapshot(w.t.Context(), s.id))
	d.snaps, d.parent = append(d.snaps, s), s
	return s
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// origin is where a clone of s begins, by the checkpoint that metad has.
func (w *world) origin(s *snap) (o *lineage.Origin) {
	w.t.Helper()
	w.await("the snapshot to be in a checkpoint", func() bool {
		c := w.metad.Record(s.of.id).Checkpoint
		if c == nil {
			return false
		}
		k, err := record.DecodeCheckpoint("checkpoint", c.Opaque)
		w.ok(err)
		for _, x := range k.Snapshots {
			if x.ID == id.Raw(s.id) {
				o = &lineage.Origin{Volume: s.of.id, Snapshot: s.id, Root: x.Root, Watermark: x.Watermark, Blocks: x.Blocks, Ancestors: k.Origin.Chain()}
			}
		}
		return o != nil
	})
	return o
}

func (w *world) clone() bool {
	s := w.anySnap()
	if s == nil || len(w.disks) >= disksMax {
		return false
	}
	w.begin(s)
	return true
}

// begin makes a clone.
func (w *world) begin(s *snap) {
	d := &disk{id: id.Volume{w.id()}, is: s.is.clone(), from: s}
	w.metad.CreateClone(d.id, uint64(len(d.is.data)), w.origin(s))
	s.clones++
	same(w.t, "a new clone", w.add(d).own, d.is)
}

// children are what goes on from a snapshot in its own disk.
func (s *snap) children() (n int) {
	for _, x := range s.of.snaps {
		if x.parent.alive() == s {
			n++
		}
	}
	if s.of.parent.alive() == s {
		n++
	}
	return n
}

// drop deletes a snapshot that nothing but one other goes on from.
func (w *world) drop() bool {
	s := w.anySnap()
	if s == nil || s.clones > 0 || s.children() > 1 {
		return false
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.ok(s.of.own.DropSnapshot(ctx, s.id))
	s.gone = true
	s.of.snaps = slices.DeleteFunc(s.of.snaps, func(x *snap) bool { return x == s })
	return true
}

// rollback makes a disk one of its snapshots. What it was is another one.
func (w *world) rollback() bool {
	s := w.anySnap()
	if s == nil || len(s.of.snaps) >= snapsMax {
		return false
	}
	d := s.of
	safety := &snap{id: id.Snapshot{w.id()}, of: d, is: d.is.clone(), parent: d.parent}
	d.own.kill()
	r := cluster.Rollback{To: s.id, Safety: safety.id}
	d.own = w.open(d.id, &r)
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	w.ok(d.own.RollBack(ctx, r))
	d.own.Thaw()
	now := newFlat(len(d.is.data)) // as large as it is
	copy(now.data, s.is.data)
	copy(now.written, s.is.written)
	d.is, d.snaps, d.parent = now, append(d.snaps, safety), s
	same(w.t, "a disk that was rolled back", d.own, d.is)
	return true
}

// remove deletes a disk that no other began with.
func (w *world) remove() bool {
	d := w.any()
	if len(w.disks) == 1 || slices.ContainsFunc(d.snaps, func(s *snap) bool { return s.clones > 0 }) {
		return false
	}
	d.own.kill()
	if d.from != nil {
		d.from.clones--
	}
	w.disks = slices.DeleteFunc(w.disks, func(x *disk) bool { return x == d })
	return true
}

// grow makes a disk larger.
func (w *world) grow() bool {
	d := w.any()
	if len(d.is.data) >= diskBytesMax {
		return false
	}
	if d.parent != nil && !d.parent.gone { // the size of a snapshot is known when it stands, and may be later ones before
		w.origin(d.parent)
	}
	d.is.grow(diskBytes / 2)
	w.metad.Resize(d.id, uint64(len(d.is.data)))
	d.own.Resize(uint64(len(d.is.data)))
	return true
}

// reopen has another process take a disk, in peace or not.
func (w *world) reopen() bool {
	d := w.any()
	if w.rng.IntN(2) == 0 {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		w.ok(d.own.Close(ctx))
	}
	d.own.kill()
	d.own = w.open(d.id, nil)
	same(w.t, "a disk opened anew", d.own, d.is)
	return true
}

// crash has a store crash, and looks at everything while it is away.
func (w *world) crash() bool {
	x := w.stores[w.rng.IntN(len(w.stores))]
	x.Crash(w.rng.Uint64())
	d := w.any()
	same(w.t, "a disk with a store less", d.own, d.is)
	x.Restart()
	return true
}

// flatten lets a clone copy what it began with.
func (w *world) flatten() bool {
	d := w.any()
	if d.from == nil || d.own.Flattening() || w.metad.Record(d.id).Origin == nil {
		return false
	}
	d.own.SetFlatten(&cluster.Flatten{})
	return true
}

// look compares a snapshot with what it was.
func (w *world) look() bool {
	s := w.anySnap()
	if s == nil {
		return false
	}
	same(w.t, fmt.Sprintf("snapshot %s of disk %s", s.id, s.of.id), s.of.own.View(s.id, uint64(len(s.is.data))), s.is)
	return true
}

// step does one thing.
func (w *world) step() {
	rare := []struct {
		name string
		do   func() bool
	}{{"snapshot", w.snapshot}, {"snapshot", w.snapshot}, {"clone", w.clone}, {"clone", w.clone}, {"drop", w.drop}, {"drop", w.drop}, {"rollback", w.rollback}, {"remove", w.remove}, {"grow", w.grow},
		{"reopen", w.reopen}, {"crash", w.crash}, {"flatten", w.flatten}, {"look", w.look}, {"archive", w.archive}, {"archive", w.archive}, {"restore", w.restore}, {"restore", w.restore}, {"forget", w.forget}, {"hydrate", w.hydrate}}
	if w.rng.IntN(3) > 0 {
		for range 1 + w.rng.IntN(4) {
			w.any().change(w.t, w.rng)
		}
		return
	}
	if x := rare[w.rng.IntN(len(rare))]; x.do() {
		w.done[x.name]++
		if os.Getenv("TRACE") != "" {
			w.t.Logf("%s: %d disks, %d archived", x.name, len(w.disks), len(w.archived))
		}
	}
}

// all looks at everything there is.
func (w *world) all() {
	for _, d := range w.disks {
		same(w.t, "disk "+d.id.String(), d.own, d.is)
		for _, s := range d.snaps {
			same(w.t, fmt.Sprintf("snapshot %s of disk %s", s.id, d.id), d.own.View(s.id, uint64(len(s.is.data))), s.is)
		}
	}
	for _, a := range w.archived {
		w.reads(a)
	}
}

func runWorld(t *testing.T, seed uint64, steps int) {
	w := &world{rig: newRig(t), rng: rand.New(rand.NewPCG(seed, 7)), done: make(map[string]int)}
	d := &disk{id: id.Volume{w.id()}, is: newFlat(diskBytes)}
	w.metad.Create(d.id, diskBytes)
	w.add(d)
	for range steps {
		w.step()
	}
	w.all()
	t.Logf("%v", w.done)
}

// Without this what is true of snapshots, clones, rollbacks, archives and restores by themselves could be false of them
// together: every snapshot has now the bytes, the size and the holes that it had then, wherever it is read.
// SEED=n is another world, SEEDS=n are so many from there on (make history).
func TestPastsStayAsTheyWere(t *testing.T) {
	first, n := uint64(7), uint64(1)
	for name, to := range map[string]*uint64{"SEED": &first, "SEEDS": &n} {
		if s := os.Getenv(name); s != "" {
			x, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			*to = x
		}
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) { runWorld(t, seed, 120) })
	}
}
