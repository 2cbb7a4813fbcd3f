// Package metadtest holds metad as the volume engine sees it to its rules, whoever plays it: the
// real one over its wire (bench/metad), the state machine of the simulator (bench/sim), the one
// that tests of the engine have (blockd/volume/coretest). A rule that only one of them keeps
// makes tests of the engine pass, or fail, for what never happens.
//
// Which owner must give way to whom is not here: the engine begins with the record it was given.
package metadtest

import (
	"context"
	"errors"
	"testing"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Body is a metad with a fresh cluster: the hosts b1, b2 and b3 with two stores each, all up, and
// placement groups over them.
type Body struct {
	volume.Metad
	// Create makes a disk.
	Create func(t *testing.T) id.Volume
	// Live begins a life of a host, which ends the one before.
	Live func(t *testing.T, h id.Holder)
	// Acquire raises the epoch of a disk and gives it to a host, whose holder before is dead.
	Acquire func(t *testing.T, v id.Volume, by id.Holder) *cluster.Volume
	// Lose declares a store lost for good. The topology says so when it returns.
	Lose func(t *testing.T, s cluster.StoreRef)
	// Full says whether a store has room. The topology says so when it returns.
	Full func(t *testing.T, s cluster.StoreRef, full bool)
}

// Hosts are those of a Body.
var Hosts = []id.Host{"b1", "b2", "b3"}

// Run runs the suite against bodies that fresh gives, one for each rule.
func Run(t *testing.T, fresh func(t *testing.T) Body) {
	for _, r := range []struct {
		name string
		test func(w *world)
	}{
		{"an epoch fences all that came before", epochs},
		{"a list changes by its version", versions},
		{"targets of openings that broke off go", targets},
		{"openings that break off never fill the list", brokenOff},
		{"prior owners are those that served", prior},
		{"ensembles are on different hosts", ensembles},
		{"ensembles of two hosts have two stores", twoHosts},
		{"better ensembles only", better},
		{"closing needs a successor, bounds and holders", closing},
		{"holders are memories that still stand", holders},
		{"removing needs release and cover", removing},
		{"replacing needs an open ensemble of the epoch", replacing},
		{"ranges rise and never overlap", ranges},
		{"spans are forgotten once open", spans},
		{"checkpoints only rise", checkpoints},
		{"groups avoid stores that are full or excluded", groups},
		{"a disk that began with nothing stays so", origins},
	} {
		t.Run(r.name, func(t *testing.T) {
			w := &world{T: t, Body: fresh(t)}
			w.disk = w.Create(t)
			r.test(w)
		})
	}
}

// world is one run of a rule.
type world struct {
	*testing.T
	Body
	disk  id.Volume
	owner id.Host
	lives uint64
}

func (w *world) ctx() context.Context { return w.Context() }

// take lets a new process of a host open the disk. That which had it is dead.
func (w *world) take(h id.Host) *cluster.Volume {
	w.Helper()
	w.lives++
	if w.owner != "" && w.owner != h {
		w.Live(w.T, id.Holder{Host: w.owner, Number: w.lives})
	}
	w.Live(w.T, id.Holder{Host: h, Number: w.lives})
	w.owner = h
	return w.Acquire(w.T, w.disk, id.Holder{Host: h, Number: w.lives})
}

// opened takes the disk and opens it: a fresh ensemble is the whole list.
func (w *world) opened(h id.Host) *cluster.Volume {
	w.Helper()
	r := w.must(w.add(w.take(h)))
	return w.must(w.ReplaceList(w.ctx(), at(r), r.List[len(r.List)-1].ID))
}

func at(r *cluster.Volume) client.ListVersion {
	return client.ListVersion{Volume: r.ID, Epoch: r.Epoch, Version: r.ListVersion}
}

func (w *world) add(r *cluster.Volume, exclude ...id.Store) (*cluster.Volume, error) {
	return w.AddEnsemble(w.ctx(), client.AddEnsemble{At: at(r), Exclude: exclude})
}

// record is the disk as metad knows it.
func (w *world) record() *cluster.Volume {
	w.Helper()
	return w.must(w.Volume(w.ctx(), w.disk))
}

func (w *world) must(r *cluster.Volume, err error) *cluster.Volume {
	w.Helper()
	w.ok(err)
	return r
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// refused fails unless err is of a class.
func (w *world) refused(what string, err, class error) {
	w.Helper()
	if !errors.Is(err, class) {
		w.Errorf("%s: %v, want %v", what, err, class)
	}
}

func (w *world) want(ok bool, format string, args ...any) {
	w.Helper()
	if !ok {
		w.Errorf(format, args...)
	}
}

// stores are those of the topology.
func (w *world) stores() []cluster.Store { return w.Topology().Stores }

// epochs: whoever acts under an epoch that is over is refused, whatever it asks.
func epochs(w *world) {
	old := w.opened("b1")
	now := w.take("b2")
	w.want(now.Epoch == old.Epoch+1, "epoch %s after %s", now.Epoch, old.Epoch)
	w.want(now.Owner == id.Holder{Host: "b2", Number: w.lives} && !now.OpenComplete, "granted %+v", now)
	stale := client.ListVersion{Volume: w.disk, Epoch: old.Epoch, Version: now.ListVersion}
	x := now.List[0].ID
	_, err := w.AddEnsemble(w.ctx(), client.AddEnsemble{At: stale})
	w.refused("add", err, errs.ErrStaleEpoch)
	_, err = w.CloseEnsemble(w.ctx(), client.CloseEnsemble{At: stale, Ensemble: x})
	w.refused("close", err, errs.ErrStaleEpoch)
	_, err = w.RemoveEnsembles(w.ctx(), client.RemoveEnsembles{At: stale, Ensembles: []id.Ensemble{x}})
	w.refused("remove", err, errs.ErrStaleEpoch)
	_, err = w.ReplaceList(w.ctx(), stale, x)
	w.refused("replace", err, errs.ErrStaleEpoch)
	_, err = w.AllocRange(w.ctx(), w.disk, old.Epoch)
	w.refused("range", err, errs.ErrStaleEpoch)
	_, err = w.AllocRange(w.ctx(), w.disk, now.Epoch+1)
	w.refused("range of an epoch to come", err, errs.ErrStaleEpoch)
	w.refused("spans", w.ForgetSpans(w.ctx(), w.disk, old.Epoch, old.Epoch), errs.ErrStaleEpoch)
	w.refused("checkpoint", w.CommitCheckpoint(w.ctx(), w.disk, old.Epoch, cluster.Checkpoint{Epoch: old.Epoch, Meta: 1}), errs.ErrStaleEpoch)
	w.refused("flattened", w.VolumeFlattened(w.ctx(), w.disk, old.Epoch), errs.ErrStaleEpoch)
	w.refused("whole", w.RestoreWhole(w.ctx(), w.disk, old.Epoch), errs.ErrStaleEpoch)
	nobody := id.Volume{0xff, 1}
	_, err = w.AllocRange(w.ctx(), nobody, 1)
	w.refused("range of a disk that is not", err, errs.ErrNotFound)
	_, err = w.Volume(w.ctx(), nobody)
	w.refused("a disk that is not", err, errs.ErrNotFound)
}
