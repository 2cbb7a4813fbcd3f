package metadtest

import (
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// ranges: sequences are given once, to whoever asks, higher ones later; the record says to whom.
func ranges(w *world) {
	first := w.take("b1")
	a, err := w.AllocRange(w.ctx(), w.disk, first.Epoch)
	w.ok(err)
	b, err := w.AllocRange(w.ctx(), w.disk, first.Epoch)
	w.ok(err)
	w.want(a.First > 0 && a.Count > 0 && b.First >= a.First+id.Sequence(a.Count), "ranges %+v, %+v", a, b)
	second := w.take("b2")
	c, err := w.AllocRange(w.ctx(), w.disk, second.Epoch)
	w.ok(err)
	w.want(c.First >= b.First+id.Sequence(b.Count), "range %+v after %+v", c, b)
	want := []cluster.Span{{Epoch: first.Epoch, First: a.First, End: b.First + id.Sequence(b.Count)}, {Epoch: second.Epoch, First: c.First, End: c.First + id.Sequence(c.Count)}}
	w.want(slices.Equal(w.record().Spans, want), "spans %v, want %v", w.record().Spans, want)
}

// spans: nothing is forgotten before the opening is complete, and nothing of the own epoch.
func spans(w *world) {
	first := w.opened("b1")
	_, err := w.AllocRange(w.ctx(), w.disk, first.Epoch)
	w.ok(err)
	r := w.take("b2")
	_, err = w.AllocRange(w.ctx(), w.disk, r.Epoch)
	w.ok(err)
	w.refused("before it is open", w.ForgetSpans(w.ctx(), w.disk, r.Epoch, r.Epoch), errs.ErrConflict)
	r = w.must(w.add(r))
	r = w.must(w.ReplaceList(w.ctx(), at(r), r.List[len(r.List)-1].ID))
	w.refused("above the own epoch", w.ForgetSpans(w.ctx(), w.disk, r.Epoch, r.Epoch+1), errs.ErrConflict)
	w.ok(w.ForgetSpans(w.ctx(), w.disk, r.Epoch, r.Epoch))
	left := w.record().Spans
	w.want(len(left) == 1 && left[0].Epoch == r.Epoch, "left: %v", left)
}

// checkpoints: of an owner that is open, each above the last, and the last again.
func checkpoints(w *world) {
	r := w.take("b1")
	c := cluster.Checkpoint{Epoch: r.Epoch, Meta: 5, Covered: 9, Opaque: []byte("five")}
	commit := func(c cluster.Checkpoint) error { return w.CommitCheckpoint(w.ctx(), w.disk, r.Epoch, c) }
	w.refused("before it is open", commit(c), errs.ErrConflict)
	r = w.must(w.add(r))
	r = w.must(w.ReplaceList(w.ctx(), at(r), r.List[0].ID))
	w.ok(commit(c))
	w.ok(commit(c)) // the answer was lost
	other := c
	other.Opaque = []byte("other")
	w.refused("another of the same place", commit(other), errs.ErrConflict)
	lower := c
	lower.Meta = 4
	w.refused("a lower one", commit(lower), errs.ErrConflict)
	w.refused("of an epoch to come", commit(cluster.Checkpoint{Epoch: r.Epoch + 1, Meta: 9}), errs.ErrInvalid)
	w.refused("of no epoch", commit(cluster.Checkpoint{Meta: 9}), errs.ErrInvalid)
	w.refused("too large", commit(cluster.Checkpoint{Epoch: r.Epoch, Meta: 9, Opaque: make([]byte, cluster.CheckpointBytesMax+1)}), errs.ErrInvalid)
	got := w.record().Checkpoint
	w.want(got != nil && got.Meta == 5 && string(got.Opaque) == "five", "metad has %+v", got)
	old := r.Epoch
	r = w.opened("b2")
	w.ok(commit(cluster.Checkpoint{Epoch: r.Epoch, Meta: 1}))
	w.refused("of the epoch before", commit(cluster.Checkpoint{Epoch: old, Meta: 50}), errs.ErrConflict)
}

// groups: new ones are made of the stores that can take shards, without those that are left
// out; with one such store there are none.
func groups(w *world) {
	good := func(t *cluster.Topology, without ...id.Store) bool {
		return slices.ContainsFunc(t.PGs, func(p cluster.PG) bool {
			return !slices.ContainsFunc(p.Current().Stores, func(s cluster.StoreRef) bool { return slices.Contains(without, s.Store) })
		})
	}
	all := w.stores()
	t, err := w.EnsurePlacement(w.ctx(), []id.Store{all[0].Store})
	w.ok(err)
	w.want(good(t, all[0].Store), "no group without %s: %+v", all[0].Store, t.PGs)
	w.Full(w.T, all[1].StoreRef, true)
	t, err = w.EnsurePlacement(w.ctx(), []id.Store{all[0].Store})
	w.ok(err)
	w.want(good(t, all[0].Store, all[1].Store), "no group without %s and %s: %+v", all[0].Store, all[1].Store, t.PGs)
	for _, p := range t.PGs {
		w.want(!p.Healthy || good(&cluster.Topology{PGs: []cluster.PG{p}}, all[1].Store), "group %d is healthy, and a store of it is full", p.Number)
	}
	var off []id.Store
	for _, s := range all[2:] {
		off = append(off, s.Store)
	}
	_, err = w.EnsurePlacement(w.ctx(), off)
	w.refused("over one store", err, errs.ErrUnavailable)
	w.Full(w.T, all[1].StoreRef, false)
	_, err = w.EnsurePlacement(w.ctx(), off)
	w.ok(err)
}

// origins: a disk that is no clone and from no archive says so as often as it is asked.
func origins(w *world) {
	r := w.opened("b1")
	w.ok(w.VolumeFlattened(w.ctx(), w.disk, r.Epoch))
	w.ok(w.RestoreWhole(w.ctx(), w.disk, r.Epoch))
}
