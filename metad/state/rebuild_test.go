package state

import (
	"bytes"
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// opened has by own v and complete its opening, with a checkpoint.
func (w *world) opened(v id.Volume, by id.Holder, meta id.LSN) *Volume {
	w.t.Helper()
	w.acquire(v, by)
	e := w.addEnsemble(v)
	x := w.ok(&ReplaceList{At: w.at(v), Keep: e.ID}).Volume
	w.ok(&AllocRange{Volume: v, Epoch: x.Epoch})
	return w.ok(&CommitCheckpoint{Volume: v, Epoch: x.Epoch, Checkpoint: cluster.Checkpoint{Epoch: x.Epoch, Meta: meta, Covered: meta, Opaque: []byte{byte(meta)}}}).Volume
}

// behind gives a copy of w as its backup, marked.
func (w *world) behind(backup []byte) *world {
	w.t.Helper()
	m, err := Restore(backup)
	if err != nil {
		w.t.Fatal(err)
	}
	m.Reopen([16]byte{7})
	return &world{t: w.t, Machine: m, next: m.Index()}
}

// tell has every store of the real cluster say what it has of its volumes.
func (w *world) tell(real *world) {
	w.t.Helper()
	for _, s := range real.Stores() {
		c := &TellInventory{Store: s.StoreRef, Last: true}
		for _, v := range real.Volumes() {
			x := Sighting{Volume: v.ID, Fence: v.Epoch, Checkpoint: v.Checkpoint}
			if v.Deleted {
				c.Volumes = append(c.Volumes, Sighting{Volume: v.ID, Fence: v.Epoch})
				continue
			}
			for _, e := range v.List {
				if slices.Contains(e.Stores, s.StoreRef) {
					x.Streams = append(x.Streams, StreamSighting{Ensemble: e.ID, Tail: 9, Meta: 9})
				}
			}
			for _, span := range v.Spans {
				x.LastSequence, x.Shards = max(x.LastSequence, span.End-1), 1
			}
			c.Volumes = append(c.Volumes, x)
		}
		w.ok(c)
	}
}

// Schedule: a backup is taken; then disks are opened by others, written, made and deleted;
// all metads burn; the backup is restored. What it grants next must be above all that was
// ever granted, and it must know where the bytes are.
func TestRestoredStateTakesTheHighestOfEverything(t *testing.T) {
	w := newWorld(t, 3, 2)
	old, doomed := w.create("old"), w.create("doomed")
	w.opened(old, holder(1, 1), 3)
	w.opened(doomed, holder(1, 1), 3)
	backup := w.Snapshot()

	w.ok(&Release{Volume: old, Epoch: 1, By: holder(1, 1)})
	last := w.opened(old, holder(2, 1), 40)
	young := w.create("young")
	w.opened(young, holder(3, 1), 5)
	w.ok(&DeleteVolume{Volume: doomed, Forced: true})
	sequence := w.nextSequence

	r := w.behind(backup)
	r.tell(w)
	r.ok(&FinishRebuild{})
	if r.Rebuilding() {
		t.Fatal("rebuilding goes on")
	}
	v, _ := r.Volume(old)
	if v.Checkpoint.Meta != 40 || v.Owner != (id.Holder{}) {
		t.Fatalf("checkpoint %+v, owner %s", v.Checkpoint, v.Owner)
	}
	if newest, _ := v.Newest(); newest.ID != last.List[0].ID || !sameRefs(newest.Stores, last.List[0].Stores) || newest.Closed {
		t.Fatalf("the list is %+v, the journal lies in %+v", v.List, last.List)
	}
	if len(v.Prior) != 3 {
		t.Fatalf("a fence would wait for %v only; all may have served", v.Prior)
	}
	g := r.acquire(old, holder(1, 1))
	if g.Epoch <= last.Epoch {
		t.Fatalf("epoch %s is granted again; %s was", g.Epoch, last.Epoch)
	}
	// What was acknowledged since the backup lies in the list that the backup does not know, and that
	// list took the place of the one which the backup knows: the checkpoint is of its epoch.
	if in := cluster.InForce(g.List); len(in) != 1 || in[0].ID != last.List[0].ID {
		t.Fatalf("an opening recovers %+v of %+v", in, g.List)
	}
	if first := r.ok(&AllocRange{Volume: old, Epoch: r.at(old).Epoch}).First; first < sequence {
		t.Fatalf("sequence %d is handed out again; all below %d were", first, sequence)
	}
	if x, ok := r.Find("recovered-" + young.String()); !ok || len(x.List) != 1 || x.Checkpoint.Meta != 5 {
		t.Fatalf("the disk made after the backup: %+v", x)
	}
	if _, ok := r.Find("doomed"); ok {
		t.Fatal("a disk whose bytes are gone is served again")
	}
	if x := r.Rebuild(); len(x.Found) != 1 || !slices.Equal(x.Gone, []string{"doomed"}) {
		t.Fatalf("found %v, gone %v", x.Found, x.Gone)
	}
	if next := r.create("next"); bytes.Compare(next[:], young[:]) <= 0 {
		t.Fatal("a volume id could recur: a fence outlives its volume")
	}
}

// Schedule: a backup is taken while a disk is being opened; the opening ends, its target is the list,
// and all that is acknowledged from then on lies there. Then the backup is restored. Taken for the target of an opening
// that broke off, it would leave the list with the next grant, and what was acknowledged with it.
func TestOpeningUnderWayAtTheBackupMayHaveEnded(t *testing.T) {
	w := newWorld(t, 3, 2)
	v := w.create("v")
	w.opened(v, holder(1, 1), 3)
	w.ok(&Release{Volume: v, Epoch: 1, By: holder(1, 1)})
	w.acquire(v, holder(2, 1))
	target := w.addEnsemble(v)
	backup := w.Snapshot()
	w.ok(&ReplaceList{At: w.at(v), Keep: target.ID})

	r := w.behind(backup)
	r.tell(w)
	r.ok(&FinishRebuild{})
	g := r.acquire(v, holder(3, 1))
	if in := cluster.InForce(g.List); !slices.ContainsFunc(in, func(e cluster.Ensemble) bool { return e.ID == target.ID }) {
		t.Fatalf("an opening recovers %+v, and what was acknowledged lies in %s", in, target.ID)
	}
}

func sameRefs(a, b []cluster.StoreRef) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, compareRefs)
	slices.SortFunc(b, compareRefs)
	return slices.Equal(a, b)
}

// Without this a restored metad would grant an epoch that somebody holds, or have stores
// forget what it does not remember.
func TestNothingIsGrantedOrDeletedWhileRebuilding(t *testing.T) {
	w := newWorld(t, 3, 2)
	v := w.create("d")
	w.opened(v, holder(1, 1), 3)
	r := w.behind(w.Snapshot())
	for _, c := range []Command{
		&Acquire{Volume: v, By: holder(1, 1)}, &Release{Volume: v, Epoch: 1, By: holder(1, 1)}, &AllocRange{Volume: v, Epoch: 1},
		&CreateVolume{Name: "x", Size: 1 << 30}, &DeleteVolume{Volume: v, Forced: true}, &ResizeVolume{Volume: v, Size: 2 << 30},
		&AddEnsemble{At: r.at(v), Candidates: r.all(), Want: 3, Fallback: 2}, &ReplaceList{At: r.at(v)}, &RemoveEnsembles{At: r.at(v)},
		&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 9}}, &ForgetSpans{Volume: v, Epoch: 1, Below: 1},
		&EnsurePlacement{}, &ConfirmPurge{Volume: v}, &AcceptLoss{Volume: v}, &RegisterHost{Holder: holder(1, 2)},
	} {
		r.refused(errs.ErrUnavailable, c)
	}
	r.refused(errs.ErrConflict, &FinishRebuild{})
	r.tell(&world{t: t, Machine: w.Machine})
	r.ok(&FinishRebuild{})
	r.ok(&FinishRebuild{})
	r.refused(errs.ErrConflict, &TellInventory{Store: storeRef(1, 1)})
}

// Schedule: one store is dead for good when the backup is restored. Its word is missed
// until an operator goes on without it, by name.
func TestRebuildWaitsForEveryStoreThatIsNotNamed(t *testing.T) {
	w := newWorld(t, 2, 2)
	r := w.behind(w.Snapshot())
	for _, s := range w.Stores()[1:] {
		r.ok(&TellInventory{Store: s.StoreRef, Last: true})
	}
	dead := w.Stores()[0]
	if got := r.Untold(); len(got) != 1 || got[0].Store != dead.Store {
		t.Fatalf("waiting for %v", got)
	}
	r.refused(errs.ErrConflict, &FinishRebuild{})
	r.ok(&FinishRebuild{Without: []id.Store{dead.Store}})
}

// Schedule: groups were formed after the backup, and segments coded under them. Numbers
// mean places: were one given to other stores, those segments could not be read.
func TestRestoredStateKnowsTheGroupsThatShardsWereCodedUnder(t *testing.T) {
	w := newWorld(t, 3, 2)
	backup := w.Snapshot()
	var all []cluster.StoreRef
	for _, s := range w.Stores() {
		all = append(all, s.StoreRef)
	}
	w.ok(&EnsurePlacement{Healthy: all, Seed: 1})
	want := w.PGs()[1].Current()
	fromShards, fromHosts := w.behind(backup), w.behind(backup)
	for i, s := range want.Stores {
		fromShards.ok(&TellInventory{Store: s, Last: true, Groups: []GroupSighting{{PG: 2, Version: 1, K: want.K, M: want.M, Index: uint8(i)}}})
		fromHosts.ok(&TellInventory{Store: s, Last: true, Known: []KnownGroup{{PG: 2, Version: want}}})
	}
	for _, r := range []*world{fromShards, fromHosts} {
		r.ok(&FinishRebuild{})
		if got := r.PGs(); len(got) != 1 || got[0].Number != 2 || !slices.Equal(got[0].Current().Stores, want.Stores) {
			t.Fatalf("groups %+v, want number 2 as %+v", got, want)
		}
		r.ok(&EnsurePlacement{Healthy: all, Seed: 2})
		if n := r.PGs()[1].Number; n != 3 {
			t.Fatalf("the next group has number %d", n)
		}
	}
}

// movedGroup is a state of four hosts with two stores each, in which the first group moved its third slot to the
// last store; the group and a backup are of before.
func movedGroup(t *testing.T) (w *world, all []cluster.StoreRef, before PG, backup []byte) {
	w = newWorld(t, 4, 2)
	for _, s := range w.Stores() {
		all = append(all, s.StoreRef)
	}
	w.ok(&EnsurePlacement{Healthy: all[:6], Seed: 1})
	before, backup = w.PGs()[0], w.Snapshot()
	v := before.Current()
	next := slices.Clone(v.Stores)
	next[2] = all[7]
	w.ok(&MoveGroup{PG: before.Number, At: v.Version, Stores: next})
	return w, all, before, backup
}

// Schedule: a slot of a group had moved and the older version was forgotten when the backup was
// taken; shards that were coded under it keep its number, and continue in the oldest version that
// is kept. Were it taken back, it would be a version of the few stores that tell of such shards,
// and once these are lost nobody could say that it is whole: the group would never be.
func TestRestoredStateDoesNotTakeBackForgottenVersions(t *testing.T) {
	w, all, g, _ := movedGroup(t)
	v1, v2 := g.Current(), w.PGs()[0].Current()
	w.ok(&ForgetVersions{PG: g.Number, At: v2.Version})
	r := w.behind(w.Snapshot())
	for i, s := range v2.Stores {
		r.ok(&TellInventory{Store: s, Last: true, Groups: []GroupSighting{{PG: g.Number, Version: v1.Version, K: v1.K, M: v1.M, Index: uint8(i)}},
			Known: []KnownGroup{{PG: g.Number, Version: v1}}}) // and its host slept meanwhile
	}
	r.ok(&FinishRebuild{Without: []id.Store{v1.Stores[2].Store, all[6].Store}})
	if got := r.PGs()[0].Versions; len(got) != 2 || got[0].Version != v2.Version || !slices.Equal(got[1].Stores, v2.Stores) {
		t.Errorf("versions %+v, want %+v, and again", got, v2)
	}
}

// Schedule: after the backup a group began to move; its stores heard the new number from a repair that listed their
// shards, and keep it. Then all hosts lose power before a shard is put under it, and metad is restored: nobody tells of
// the number. Were the group to stay at the older one, its stores would refuse every segment and every deletion.
func TestRestoredStateJumpsOverVersionsThatNobodyTells(t *testing.T) {
	w, all, before, backup := movedGroup(t)
	v, heard := before.Current(), w.PGs()[0].Current().Version
	r := w.behind(backup)
	for i, s := range v.Stores {
		r.ok(&TellInventory{Store: s, Last: true, Groups: []GroupSighting{{PG: before.Number, Version: v.Version, K: v.K, M: v.M, Index: uint8(i)}}})
	}
	r.ok(&FinishRebuild{Without: []id.Store{all[6].Store, all[7].Store}})
	got := r.PGs()[0]
	if c := got.Current(); c.Version <= heard || c.K != v.K || c.M != v.M || !slices.Equal(c.Stores, v.Stores) {
		t.Errorf("new segments would go to %+v; stores have heard of version %d, and %+v is what there is", c, heard, v)
	}
	view := cluster.PG{Versions: got.Versions}
	for slot, want := range v.Stores {
		if h := view.Holders(v.Version, v.K, v.M, uint8(slot)); !slices.Equal(h, []cluster.StoreRef{want}) {
			t.Errorf("slot %d: readers look at %v, the shard is on %s", slot, h, want)
		}
	}
}

// Schedule: after the backup a slot of a group was repaired onto another store, and all
// hosts were restarted: nobody knows the new version, but its shards are there. Were their
// holder not found again, a slot more than the code can spare could be missing.
func TestRestoredStateFindsShardsThatWereRepairedElsewhere(t *testing.T) {
	w := newWorld(t, 4, 2)
	var all []cluster.StoreRef
	for _, s := range w.Stores() {
		all = append(all, s.StoreRef)
	}
	w.ok(&EnsurePlacement{Healthy: all[:6], Seed: 1})
	group := w.PGs()[0]
	v := group.Current()
	r := w.behind(w.Snapshot())
	for i, s := range v.Stores {
		if i == 2 {
			s = all[7] // the old holder is gone
		}
		r.ok(&TellInventory{Store: s, Last: true, Groups: []GroupSighting{{PG: group.Number, Version: v.Version, K: v.K, M: v.M, Index: uint8(i)}}})
	}
	r.ok(&FinishRebuild{Without: []id.Store{v.Stores[2].Store, all[6].Store}})
	got := r.PGs()[0]
	view := cluster.PG{Versions: got.Versions}
	for i := range v.Stores {
		want := v.Stores[i]
		if i == 2 {
			want = all[7]
		}
		if !slices.Contains(view.Holders(v.Version, v.K, v.M, uint8(i)), want) {
			t.Errorf("slot %d: readers look at %v, the shard is on %s", i, view.Holders(v.Version, v.K, v.M, uint8(i)), want)
		}
	}
	if c := got.Current(); c.Version <= v.Version || !slices.Equal(c.Stores, v.Stores) {
		t.Errorf("new segments would go to %+v", c)
	}
}
