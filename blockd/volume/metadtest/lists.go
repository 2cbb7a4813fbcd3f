package metadtest

import (
	"slices"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// versions: a change names the version it was decided on, and makes the next.
func versions(w *world) {
	before := w.take("b1")
	r := w.must(w.add(before))
	w.want(r.ListVersion == before.ListVersion+1, "version %d after %d", r.ListVersion, before.ListVersion)
	_, err := w.add(before)
	w.refused("add to the list as it was", err, errs.ErrConflict)
	w.want(len(w.record().List) == 1, "what was refused is in the list: %+v", w.record().List)
	_, err = w.ReplaceList(w.ctx(), at(before), r.List[0].ID)
	w.refused("replace the list as it was", err, errs.ErrConflict)
}

// targets: what an opening that broke off has added is not in the list that the next begins
// with; the ensembles in force are.
func targets(w *world) {
	r := w.opened("b1")
	second := w.must(w.add(r)) // an ensemble change, half done
	broken := w.take("b2")
	w.want(len(broken.List) == 2, "in force are %+v", broken.List)
	target := w.must(w.add(broken))
	next := w.take("b3")
	w.want(slices.EqualFunc(next.List, second.List, sameEnsemble), "an opening begins with %+v, in force is %+v", next.List, second.List)
	w.want(next.ListVersion > target.ListVersion, "a list that lost a target has version %d, with it %d", next.ListVersion, target.ListVersion)
	_, err := w.ReplaceList(w.ctx(), client.ListVersion{Volume: w.disk, Epoch: next.Epoch, Version: next.ListVersion}, target.List[2].ID)
	w.refused("replace by another's target", err, errs.ErrConflict)
}

func sameEnsemble(a, b cluster.Ensemble) bool {
	return a.ID == b.ID && a.Closed == b.Closed && slices.Equal(a.Stores, b.Stores)
}

// brokenOff: openings that break off, more than a list has room for, leave it as long as it was.
func brokenOff(w *world) {
	w.opened("b1")
	for range 70 {
		w.must(w.add(w.take("b1")))
	}
	w.want(len(w.opened("b2").List) == 1, "the list is %+v", w.record().List)
}

// prior: those who may still serve are named, each once, until an opening is complete.
func prior(w *world) {
	w.want(len(w.take("b1").Prior) == 0, "nobody had the disk before")
	w.want(len(w.take("b2").Prior) == 0, "b1 never served")
	r := w.must(w.add(w.take("b2")))
	w.must(w.ReplaceList(w.ctx(), at(r), r.List[0].ID))
	w.take("b3")
	r = w.take("b1")
	w.want(slices.Equal(r.Prior, []id.Host{"b2"}), "prior owners %v", r.Prior)
	r = w.opened("b3")
	w.want(len(r.Prior) == 0 && r.OpenComplete, "after the opening: %+v", r)
}

func (w *world) hostOf(s cluster.StoreRef) id.Host {
	for _, x := range w.stores() {
		if x.StoreRef == s {
			return x.Host
		}
	}
	w.Errorf("store %s is not in the topology", s)
	return ""
}

// ensembles: three stores of three hosts, without those that the owner will not have; their
// names rise within an epoch and never recur.
func ensembles(w *world) {
	r := w.must(w.add(w.take("b1")))
	e := r.List[0]
	hosts := make(map[id.Host]bool)
	for _, s := range e.Stores {
		hosts[w.hostOf(s)] = true
	}
	w.want(len(e.Stores) == 3 && len(hosts) == 3 && !e.Closed, "ensemble %+v", e)
	w.want(e.ID.Epoch == r.Epoch, "ensemble %s of %s", e.ID, r.Epoch)
	r = w.must(w.add(r, e.Stores[0].Store))
	last := r.List[1]
	w.want(!slices.Contains(last.Stores, e.Stores[0]), "%s was to be left out of %+v", e.Stores[0], last)
	w.want(last.ID.Epoch == e.ID.Epoch && last.ID.N > e.ID.N, "ensemble %s after %s", last.ID, e.ID)
	next := w.must(w.add(w.take("b1")))
	w.want(next.List[len(next.List)-1].ID.Epoch == next.Epoch, "ensembles of the next epoch: %+v", next.List)
}

// twoHosts: with a host out of question two stores of the others do; with two out, two of the
// third; with one store left nothing does.
func twoHosts(w *world) {
	var off []id.Store
	leave := func(h id.Host) {
		for _, s := range w.stores() {
			if s.Host == h {
				off = append(off, s.Store)
			}
		}
	}
	r := w.take("b1")
	leave("b3")
	r = w.must(w.add(r, off...))
	e := r.List[len(r.List)-1]
	w.want(len(e.Stores) == 2 && w.hostOf(e.Stores[0]) != w.hostOf(e.Stores[1]), "over two hosts: %+v", e)
	leave("b2")
	r = w.must(w.add(r, off...))
	w.want(len(r.List[len(r.List)-1].Stores) == 2, "over one host: %+v", r.List)
	_, err := w.add(r, append(off, r.List[len(r.List)-1].Stores[0].Store)...)
	w.refused("over one store", err, errs.ErrUnavailable)
}

// better: an owner that asks for a better one only is given none that is not.
func better(w *world) {
	var off []id.Store
	for _, s := range w.stores() {
		if s.Host == "b3" {
			off = append(off, s.Store)
		}
	}
	r := w.must(w.add(w.take("b1"), off...))
	ask := client.AddEnsemble{At: at(r), Exclude: off, Better: true}
	_, err := w.AddEnsemble(w.ctx(), ask)
	w.refused("as good", err, errs.ErrUnavailable)
	ask.Exclude = nil
	r = w.must(w.AddEnsemble(w.ctx(), ask))
	w.want(len(r.List[1].Stores) == 3, "a better one is %+v", r.List[1])
}

// closing: only with a successor, once, with bounds, by two stores that can have the streams.
func closing(w *world) {
	r := w.opened("b1")
	e := r.List[0]
	good := client.CloseEnsemble{At: at(r), Ensemble: e.ID, From: 1, To: 9, MetaFrom: 1, MetaTo: 0, Holders: e.Stores[:2]}
	try := func(change func(*client.CloseEnsemble)) error {
		c := good
		c.At = at(w.record())
		change(&c)
		_, err := w.CloseEnsemble(w.ctx(), c)
		return err
	}
	w.refused("without a successor", try(func(*client.CloseEnsemble) {}), errs.ErrConflict)
	r = w.must(w.add(r))
	w.refused("what is not there", try(func(c *client.CloseEnsemble) { c.Ensemble.N += 100 }), errs.ErrNotFound)
	w.refused("the newest", try(func(c *client.CloseEnsemble) { c.Ensemble = r.List[1].ID }), errs.ErrConflict)
	w.refused("without a beginning", try(func(c *client.CloseEnsemble) { c.From = 0 }), errs.ErrInvalid)
	w.refused("ending before it begins", try(func(c *client.CloseEnsemble) { c.MetaFrom, c.MetaTo = 5, 3 }), errs.ErrInvalid)
	w.refused("held by one", try(func(c *client.CloseEnsemble) { c.Holders = e.Stores[:1] }), errs.ErrInvalid)
	w.refused("held twice by one", try(func(c *client.CloseEnsemble) { c.Holders = []cluster.StoreRef{e.Stores[0], e.Stores[0]} }), errs.ErrInvalid)
	stranger := cluster.StoreRef{Store: id.Store{1}, Incarnation: id.Incarnation{1}}
	w.refused("held by a stranger", try(func(c *client.CloseEnsemble) { c.Holders = []cluster.StoreRef{e.Stores[0], stranger} }), errs.ErrConflict)
	w.ok(try(func(*client.CloseEnsemble) {}))
	got := w.record().List[0]
	w.want(got.Closed && got.From == 1 && got.To == 9 && got.MetaFrom == 1 && got.MetaTo == 0 && slices.Equal(got.Holders, e.Stores[:2]), "closed: %+v", got)
	w.refused("twice", try(func(*client.CloseEnsemble) {}), errs.ErrConflict)
}

// holders: a store that is lost for good holds nothing, and is in no new ensemble.
func holders(w *world) {
	r := w.must(w.add(w.opened("b1")))
	e := r.List[0]
	w.Lose(w.T, e.Stores[0])
	c := client.CloseEnsemble{At: at(r), Ensemble: e.ID, From: 1, To: 9, MetaFrom: 1, MetaTo: 1, Holders: e.Stores[:2]}
	_, err := w.CloseEnsemble(w.ctx(), c)
	w.refused("held by a lost store", err, errs.ErrConflict)
	c.Holders = e.Stores[1:]
	r = w.must(w.CloseEnsemble(w.ctx(), c))
	r = w.must(w.add(r))
	w.want(!slices.Contains(r.List[len(r.List)-1].Stores, e.Stores[0]), "a lost store is in %+v", r.List)
}

// removing: an ensemble goes when its records are released and a checkpoint covers its meta stream.
func removing(w *world) {
	r := w.must(w.add(w.opened("b1")))
	e := r.List[0]
	try := func(released id.LSN) error {
		_, err := w.RemoveEnsembles(w.ctx(), client.RemoveEnsembles{At: at(w.record()), Ensembles: []id.Ensemble{e.ID}, Released: released})
		return err
	}
	w.refused("an open one", try(100), errs.ErrConflict)
	w.must(w.CloseEnsemble(w.ctx(), client.CloseEnsemble{At: at(r), Ensemble: e.ID, From: 1, To: 9, MetaFrom: 1, MetaTo: 3, Holders: e.Stores[:2]}))
	w.refused("without a checkpoint", try(9), errs.ErrConflict)
	w.ok(w.CommitCheckpoint(w.ctx(), w.disk, r.Epoch, cluster.Checkpoint{Epoch: r.Epoch, Meta: 2}))
	w.refused("uncovered", try(9), errs.ErrConflict)
	w.ok(w.CommitCheckpoint(w.ctx(), w.disk, r.Epoch, cluster.Checkpoint{Epoch: r.Epoch, Meta: 3}))
	w.refused("unreleased", try(8), errs.ErrConflict)
	w.ok(try(9))
	w.refused("what is gone", try(9), errs.ErrNotFound)
	w.want(len(w.record().List) == 1, "left: %+v", w.record().List)
}

// replacing: by an open ensemble of the owner's own epoch, or the records of the run are not on it.
func replacing(w *world) {
	old := w.opened("b1")
	r := w.must(w.add(w.take("b2")))
	_, err := w.ReplaceList(w.ctx(), at(r), old.List[0].ID)
	w.refused("by one of the epoch before", err, errs.ErrConflict)
	_, err = w.ReplaceList(w.ctx(), at(r), id.Ensemble{Epoch: r.Epoch, N: 99})
	w.refused("by one that is not there", err, errs.ErrConflict)
	r = w.must(w.ReplaceList(w.ctx(), at(r), r.List[1].ID))
	w.want(len(r.List) == 1 && r.List[0].ID.Epoch == r.Epoch && r.OpenComplete, "replaced: %+v", r)
}
