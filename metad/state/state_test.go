package state

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// world drives a machine by hand. Every command takes the road through the log: it is
// encoded and decoded, and the state goes through a snapshot, before it counts.
type world struct {
	t testing.TB
	*Machine
	next uint64
}

func newWorld(t testing.TB, hosts, storesEach int) *world {
	w := &world{t: t, Machine: New()}
	w.ok(&Init{ClusterID: [16]byte{1}, Settings: DefaultSettings})
	for h := range hosts {
		w.register(h+1, 1, storesEach)
	}
	return w
}

func (w *world) do(c Command) Result {
	w.t.Helper()
	decoded, err := Decode(Encode(c))
	if err != nil {
		w.t.Fatalf("%T does not survive its encoding: %v", c, err)
	}
	if got := Encode(decoded); !bytes.Equal(got, Encode(c)) {
		w.t.Fatalf("%T has two encodings", c)
	}
	w.next++
	r := w.Apply(w.next, decoded)
	again, err := Restore(w.Snapshot())
	if err != nil {
		w.t.Fatalf("after %T the snapshot does not restore: %v", c, err)
	}
	if !bytes.Equal(again.Snapshot(), w.Snapshot()) {
		w.t.Fatalf("after %T the snapshot restores to another state", c)
	}
	w.Machine = again
	return r
}

func (w *world) ok(c Command) Result {
	w.t.Helper()
	r := w.do(c)
	if r.Err != nil {
		w.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

func (w *world) refused(class error, c Command) Result {
	w.t.Helper()
	before := w.stateBytes()
	r := w.do(c)
	if !errors.Is(r.Err, class) {
		w.t.Fatalf("%T: want %v, got %v", c, class, r.Err)
	}
	if !bytes.Equal(before, w.stateBytes()) {
		w.t.Fatalf("%T was refused and changed the state", c)
	}
	return r
}

// stateBytes are the snapshot without the index.
func (w *world) stateBytes() []byte {
	m := *w.Machine
	m.index = 0
	return m.Snapshot()
}

func hostName(h int) id.Host { return id.Host(fmt.Sprintf("h%d", h)) }

func storeRef(h, s int) (r cluster.StoreRef) {
	r.Store[0], r.Store[1], r.Incarnation[0] = byte(h), byte(s), 1
	return r
}

func holder(h int, life uint64) id.Holder { return id.Holder{Host: hostName(h), Number: life} }

func (w *world) register(h int, life uint64, stores int) Result {
	w.t.Helper()
	c := &RegisterHost{Holder: holder(h, life), DataAddress: "a:1", Exports: true}
	for s := range stores {
		c.Stores = append(c.Stores, RegisterStore{StoreRef: storeRef(h, s+1), Capacity: 1 << 30})
	}
	return w.ok(c)
}

func (w *world) create(name string) id.Volume {
	w.t.Helper()
	return w.ok(&CreateVolume{Name: name, Size: 1 << 30, NowMS: 5}).Volume.ID
}

func (w *world) acquire(v id.Volume, by id.Holder) *Volume {
	w.t.Helper()
	r := w.ok(&Acquire{Volume: v, By: by})
	if r.Owner != (id.Holder{}) {
		w.t.Fatalf("%s could not take %s: owned by %s", by, v, r.Owner)
	}
	return r.Volume
}

func (w *world) at(v id.Volume) At {
	x, _ := w.Volume(v)
	return At{Volume: v, Epoch: x.Epoch, Version: x.ListVersion}
}

func (w *world) all() (out []EnsembleCandidate) {
	for _, s := range w.Stores() {
		if !s.Lost {
			out = append(out, EnsembleCandidate{StoreRef: s.StoreRef})
		}
	}
	return out
}

func (w *world) addEnsemble(v id.Volume) cluster.Ensemble {
	w.t.Helper()
	r := w.ok(&AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 3, Fallback: 2})
	e, _ := r.Volume.Newest()
	return e
}

// open completes an open with one fresh ensemble.
func (w *world) open(v id.Volume, by id.Holder) *Volume {
	w.t.Helper()
	w.acquire(v, by)
	e := w.addEnsemble(v)
	return w.ok(&ReplaceList{At: w.at(v), Keep: e.ID}).Volume
}

// A disk's name is unique, and so that a lost answer does no harm the same request
// finds what it made.
func TestCreateIsUniqueAndRepeatable(t *testing.T) {
	w := newWorld(t, 1, 1)
	first := w.ok(&CreateVolume{Name: "disk", Size: 1 << 30, RequestID: "r1"})
	again := w.ok(&CreateVolume{Name: "disk", Size: 1 << 30, RequestID: "r1"})
	if first.Volume.ID != again.Volume.ID {
		t.Fatal("the same request made two disks")
	}
	w.refused(errs.ErrExists, &CreateVolume{Name: "disk", Size: 1 << 30, RequestID: "r2"})
	w.refused(errs.ErrExists, &CreateVolume{Name: "disk", Size: 1 << 30})
}

// Names and sizes that would be mistaken, or that the engine cannot serve.
func TestCreateChecksNameAndSize(t *testing.T) {
	w := newWorld(t, 1, 1)
	for _, name := range []string{"", "-x", ".x", "a b", "a/b", strings.Repeat("x", NameMax+1), "ä", id.Volume{1}.String()} {
		if len(name) <= NameMax { // a longer one does not even decode
			w.refused(errs.ErrInvalid, &CreateVolume{Name: name, Size: 1 << 30})
		} else if CheckDiskName(name) == nil {
			t.Errorf("name of %d bytes passes", len(name))
		}
	}
	for _, size := range []uint64{0, 1, 4096, DiskSizeMin - 4096, DiskSizeMin + 1, DiskSizeMax + 4096, 1<<64 - 4096} {
		w.refused(errs.ErrInvalid, &CreateVolume{Name: "x", Size: size})
	}
	w.ok(&CreateVolume{Name: "min", Size: DiskSizeMin})
	w.ok(&CreateVolume{Name: "max", Size: DiskSizeMax})
}

// A volume's id never recurs, whatever the proposer's clock says; a fence for it may
// stand on some store for ever.
func TestVolumeIDsNeverRecur(t *testing.T) {
	w := newWorld(t, 0, 0)
	seen := make(map[id.Volume]bool)
	for i, proposal := range []id.Volume{{9}, {5}, {9}, {}, {9, 255}, {9}} {
		v := w.ok(&CreateVolume{ID: proposal, Name: fmt.Sprintf("x%d", i), Size: 1 << 30}).Volume.ID
		if seen[v] {
			t.Fatalf("id %s was given twice", v)
		}
		seen[v] = true
		w.ok(&DeleteVolume{Volume: v, Forced: true})
	}
}

// Without this a typing error would cut off the end of a disk.
func TestShrinkingIsRefused(t *testing.T) {
	w := newWorld(t, 1, 1)
	v := w.create("disk")
	w.refused(errs.ErrInvalid, &ResizeVolume{Volume: v, Size: 1<<30 - 4096})
	w.ok(&ResizeVolume{Volume: v, Size: 1 << 30})
	w.ok(&ResizeVolume{Volume: v, Size: 2 << 30})
	w.refused(errs.ErrInvalid, &ResizeVolume{Volume: v, Size: 1 << 30})
	w.refused(errs.ErrNotFound, &ResizeVolume{Volume: id.Volume{7}, Size: 1 << 30})
}

// What is not named stays, a limit that goes takes its burst along, and nonsense is
// committed nowhere: it would reach the owner's buckets.
func TestLimitsOfADisk(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetLevel{Level: LevelEvents})
	n := func(v uint64) *uint64 { return &v }
	v := w.ok(&CreateVolume{Name: "disk", Size: 1 << 30, QoS: cluster.QoS{IOPS: 1000, IOPSBurst: 5000}}).Volume.ID
	set := func(c cluster.QoSChange) cluster.QoS { return w.ok(&SetQoS{Volume: v, Change: c}).Volume.QoS }
	if got, want := set(cluster.QoSChange{Bytes: n(8 << 20)}), (cluster.QoS{IOPS: 1000, IOPSBurst: 5000, Bytes: 8 << 20}); got != want {
		t.Errorf("limits are %+v, want %+v", got, want)
	}
	if got, want := set(cluster.QoSChange{IOPS: n(0)}), (cluster.QoS{Bytes: 8 << 20}); got != want {
		t.Errorf("limits are %+v, want %+v", got, want)
	}
	for _, c := range []cluster.QoSChange{{IOPS: n(cluster.IOPSMin - 1)}, {IOPSBurst: n(5)}, {Bytes: n(cluster.BytesMax + 1)}, {BytesBurst: n(1 << 60)}} {
		w.refused(errs.ErrInvalid, &SetQoS{Volume: v, Change: c})
	}
	w.refused(errs.ErrInvalid, &CreateVolume{Name: "x", Size: 1 << 30, QoS: cluster.QoS{IOPS: 1}})
	w.refused(errs.ErrNotFound, &SetQoS{Volume: id.Volume{7}, Change: cluster.QoSChange{IOPS: n(500)}})
	if got, want := set(cluster.QoSChange{}), (cluster.QoS{Bytes: 8 << 20}); got != want {
		t.Errorf("limits are %+v, want %+v", got, want)
	}
}

// Without limits a disk is made by the command that every version knows.
func TestCreateOfAnOlderLog(t *testing.T) {
	c := &CreateVolume{ID: id.Volume{1}, Name: "disk", Size: 1 << 30, RequestID: "r", NowMS: 5}
	b := Encode(c)
	if want := 2 + 16 + 5 + 8 + 2 + 8; len(b) != want {
		t.Errorf("%d bytes, the first version wrote %d", len(b), want)
	}
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("read %+v, %v", got, err)
	}
}

// Without this a cluster could not be updated: what an older metad wrote has no limits, no
// level and no events.
func TestSnapshotOfVersionTwoIsRead(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.create("disk")
	b := w.Snapshot()
	m, err := Restore(b)
	if err != nil || b[len(snapshotMagic)] != 2 {
		t.Fatal(b[len(snapshotMagic)], err)
	}
	if string(m.Snapshot()) != string(b) {
		t.Fatal("a state of version 2 restores to another")
	}
}

// Each grant is a new epoch, also for the same holder: an owner that lost the answer
// asks again, and both its lives on the wire must not share a fencing number.
func TestEveryGrantRaisesTheEpoch(t *testing.T) {
	w := newWorld(t, 2, 1)
	v := w.create("disk")
	for want := id.Epoch(1); want < 5; want++ {
		if got := w.acquire(v, holder(1, 1)).Epoch; got != want {
			t.Fatalf("epoch %s, want %s", got, want)
		}
	}
}

// Without this two hosts could own a disk, or a dead one keep it.
func TestWhoMayTakeAVolume(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*world, id.Volume)
		by      id.Holder
		silent  id.Holder
		granted bool
	}{
		{"nobody owns it", func(w *world, v id.Volume) { w.ok(&Release{Volume: v, Epoch: 1, By: holder(1, 1)}) }, holder(2, 1), id.Holder{}, true},
		{"the owner lives", func(*world, id.Volume) {}, holder(2, 1), id.Holder{}, false},
		{"the owner asks again", func(*world, id.Volume) {}, holder(1, 1), id.Holder{}, true},
		{"the owner's next life asks", func(w *world, v id.Volume) { w.register(1, 2, 1) }, holder(1, 2), id.Holder{}, true},
		{"the owner's life is over", func(w *world, v id.Volume) { w.register(1, 2, 1) }, holder(2, 1), id.Holder{}, true},
		{"the owner is silent", func(*world, id.Volume) {}, holder(2, 1), holder(1, 1), true},
		{"an earlier owner was silent", func(w *world, v id.Volume) { w.register(1, 2, 1); w.acquire(v, holder(1, 2)) }, holder(2, 1), holder(1, 1), false},
	} {
		w := newWorld(t, 2, 1)
		v := w.create("disk")
		w.acquire(v, holder(1, 1))
		c.prepare(w, v)
		before, _ := w.Volume(v)
		r := w.ok(&Acquire{Volume: v, By: c.by, Gone: c.silent})
		if granted := r.Owner == (id.Holder{}); granted != c.granted {
			t.Errorf("%s: granted %v", c.name, granted)
		} else if !granted && (r.Volume.Epoch != before.Epoch || r.Owner != before.Owner) {
			t.Errorf("%s: a refusal changed the record", c.name)
		}
	}
}

// A life that was replaced takes nothing any more: it is dead or will soon know.
func TestOldLivesTakeNothing(t *testing.T) {
	w := newWorld(t, 1, 1)
	v := w.create("disk")
	w.register(1, 3, 1)
	w.refused(errs.ErrStaleEpoch, &Acquire{Volume: v, By: holder(1, 2)})
	w.refused(errs.ErrConflict, &Acquire{Volume: v, By: holder(1, 4)})
	w.refused(errs.ErrConflict, &Acquire{Volume: v, By: holder(9, 1)})
	w.refused(errs.ErrStaleEpoch, &RegisterHost{Holder: holder(1, 2)})
}

// Prior hosts are what a fence waits for: an owner that completed its open and did not
// release may still serve; one that never completed cannot have served.
func TestPriorHostsAreThoseThatMayServe(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	x := w.ok(&Acquire{Volume: v, By: holder(2, 1), Gone: holder(1, 1)}).Volume
	if fmt.Sprint(x.Prior) != "[h1]" {
		t.Fatalf("after h1 served: %v", x.Prior)
	}
	// h2 never completes; h3 takes over: h1 may still serve, h2 cannot.
	x = w.ok(&Acquire{Volume: v, By: holder(3, 1), Gone: holder(2, 1)}).Volume
	if fmt.Sprint(x.Prior) != "[h1]" {
		t.Fatalf("after h2 only tried: %v", x.Prior)
	}
	e := w.addEnsemble(v)
	x = w.ok(&ReplaceList{At: w.at(v), Keep: e.ID}).Volume
	if len(x.Prior) != 0 || !x.OpenComplete {
		t.Fatalf("after the open is complete: %+v", x)
	}
	w.ok(&Release{Volume: v, Epoch: x.Epoch, By: holder(3, 1)})
	if x = w.acquire(v, holder(1, 1)); len(x.Prior) != 0 {
		t.Fatalf("after a release: %v", x.Prior)
	}
	// The same host's next epoch names the host: its own grants are its own to give up.
	w.open(v, holder(1, 1))
	if x = w.acquire(v, holder(1, 1)); fmt.Sprint(x.Prior) != "[h1]" {
		t.Fatalf("after the same host served: %v", x.Prior)
	}
}

// Schedule: e1 sends a change of its list, is taken for dead, e2 is granted, e1's change
// arrives. Were it taken, e2 would recover from a list that e1 goes on changing.
func TestListChangesOfAFencedEpochAreRefused(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	e := w.addEnsemble(v)
	at := w.at(v)
	w.ok(&Acquire{Volume: v, By: holder(2, 1), Gone: holder(1, 1)})
	for _, c := range []Command{
		&AddEnsemble{At: at, Candidates: w.all(), Want: 3, Fallback: 2},
		&CloseEnsemble{At: at, Ensemble: id.Ensemble{Epoch: 1, N: 1}, From: 1, MetaFrom: 1, Holders: e.Stores[:2]},
		&RemoveEnsembles{At: at, Ensembles: []id.Ensemble{{Epoch: 1, N: 1}}, Released: 100},
		&ReplaceList{At: at, Keep: e.ID},
		&AllocRange{Volume: v, Epoch: 1},
		&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 1}},
		&ForgetSpans{Volume: v, Epoch: 1, Below: 1},
		&Release{Volume: v, Epoch: 1, By: holder(1, 1)},
	} {
		if r := w.refused(errs.ErrStaleEpoch, c); r.Volume == nil || r.Volume.Epoch != 2 {
			t.Errorf("%T: the refusal does not carry the record in force", c)
		}
	}
}

// Schedule: an answer is lost, the engine asks again. Without the version two successors
// would be added, and the engine would know of one.
func TestListChangesCompareTheVersion(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	at := w.at(v)
	w.ok(&AddEnsemble{At: at, Candidates: w.all(), Want: 3, Fallback: 2})
	r := w.refused(errs.ErrConflict, &AddEnsemble{At: at, Candidates: w.all(), Want: 3, Fallback: 2})
	if r.Volume == nil || len(r.Volume.List) != 2 {
		t.Fatal("the refusal does not show the list in force")
	}
}

// Nothing is changed under an epoch that was released: its engine is gone.
func TestReleasedEpochChangesNothing(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	x := w.open(v, holder(1, 1))
	w.ok(&Release{Volume: v, Epoch: x.Epoch, By: holder(1, 1)})
	w.ok(&Release{Volume: v, Epoch: x.Epoch, By: holder(1, 1)}) // a repeated release is fine
	w.refused(errs.ErrStaleEpoch, &AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 3, Fallback: 2})
	w.refused(errs.ErrStaleEpoch, &AllocRange{Volume: v, Epoch: x.Epoch})
	w.acquire(v, holder(2, 1))
	w.refused(errs.ErrStaleEpoch, &Release{Volume: v, Epoch: x.Epoch, By: holder(1, 1)})
	w.refused(errs.ErrConflict, &Release{Volume: v, Epoch: x.Epoch + 1, By: holder(1, 1)})
}

// Ensemble ids name streams on stores for ever; one used twice would mix two journals.
func TestEnsembleIDsNeverRecur(t *testing.T) {
	w := newWorld(t, 3, 2)
	v := w.create("disk")
	w.acquire(v, holder(1, 1))
	first := w.addEnsemble(v)
	second := w.addEnsemble(v)
	w.ok(&ReplaceList{At: w.at(v), Keep: first.ID}) // the higher one is gone from the list
	third := w.addEnsemble(v)
	if third.ID == second.ID || third.ID.N != 3 {
		t.Fatalf("after %s came %s", second.ID, third.ID)
	}
	w.acquire(v, holder(1, 1))
	if e := w.addEnsemble(v); e.ID != (id.Ensemble{Epoch: 2, N: 1}) {
		t.Fatalf("in the next epoch came %s", e.ID)
	}
}

// Only a fresh, open ensemble of the owner's own epoch may become the whole list: an
// older one takes no appends of this epoch.
func TestReplaceKeepsOnlyAFreshEnsemble(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	old := w.open(v, holder(1, 1)).List[0]
	w.acquire(v, holder(1, 1))
	fresh := w.addEnsemble(v)
	w.refused(errs.ErrConflict, &ReplaceList{At: w.at(v), Keep: old.ID})
	w.refused(errs.ErrConflict, &ReplaceList{At: w.at(v), Keep: id.Ensemble{Epoch: 2, N: 9}})
	x := w.ok(&ReplaceList{At: w.at(v), Keep: fresh.ID}).Volume
	if len(x.List) != 1 || x.List[0].ID != fresh.ID {
		t.Fatalf("the list is %v", x.List)
	}
}

// A crash anywhere before the replace leaves the old list in force, for the next to
// recover from, and nothing of the trial.
func TestHalfDoneRecoveryKeepsTheOldList(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	old := w.open(v, holder(1, 1)).List[0]
	w.ok(&Acquire{Volume: v, By: holder(2, 1), Gone: holder(1, 1)})
	version := w.at(v).Version
	w.addEnsemble(v)
	x := w.ok(&Acquire{Volume: v, By: holder(3, 1), Gone: holder(2, 1)}).Volume
	if len(x.List) != 1 || x.List[0].ID != old.ID || x.OpenComplete || x.ListVersion <= version+1 {
		t.Fatalf("the next owner sees %+v", x)
	}
}

// Each opening that breaks off, because its host dies or a store does, leaves a target. As
// long as they stayed in the list, so many of them made a disk that nobody could open any
// more: bench/sim found it, seed 12.
func TestOpeningsThatBreakOffDoNotFillTheList(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	old := w.open(v, holder(1, 1)).List[0]
	for range EnsemblesMax {
		w.acquire(v, holder(1, 1))
		w.addEnsemble(v)
		w.addEnsemble(v)
	}
	if e := w.at(v); e.Epoch != EnsemblesMax+1 {
		t.Fatalf("at %s", e.Epoch)
	}
	if x, _ := w.Volume(v); len(x.List) != 3 || x.List[0].ID != old.ID {
		t.Fatalf("the list is %v", x.List)
	}
}

// Without this an ensemble could be closed by stores that are gone, and its end be known to nobody.
func TestCloseNamesTwoStoresThatStand(t *testing.T) {
	w := newWorld(t, 4, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	e1 := w.volumeOf(v).List[0]
	good := CloseEnsemble{Ensemble: e1.ID, From: 1, To: 10, MetaFrom: 1, MetaTo: 3, Holders: e1.Stores[:2]}
	closing := func(change func(*CloseEnsemble)) *CloseEnsemble {
		c := good
		c.At = w.at(v)
		change(&c)
		return &c
	}
	w.refused(errs.ErrConflict, closing(func(*CloseEnsemble) {})) // it has no successor yet
	e2 := w.addEnsemble(v)
	outside := storeRef(9, 9)
	w.refused(errs.ErrInvalid, closing(func(c *CloseEnsemble) { c.Holders = e1.Stores[:1] }))
	w.refused(errs.ErrInvalid, closing(func(c *CloseEnsemble) { c.Holders = []cluster.StoreRef{e1.Stores[0], e1.Stores[0]} }))
	w.refused(errs.ErrConflict, closing(func(c *CloseEnsemble) { c.Holders = []cluster.StoreRef{e1.Stores[0], outside} }))
	w.refused(errs.ErrInvalid, closing(func(c *CloseEnsemble) { c.From, c.To = 10, 8 }))
	w.refused(errs.ErrInvalid, closing(func(c *CloseEnsemble) { c.MetaFrom = 0 }))
	w.refused(errs.ErrNotFound, closing(func(c *CloseEnsemble) { c.Ensemble.N = 77 }))
	w.refused(errs.ErrConflict, closing(func(c *CloseEnsemble) { c.Ensemble = e2.ID }))
	w.ok(&LoseStore{Store: e1.Stores[0]})
	w.refused(errs.ErrConflict, closing(func(*CloseEnsemble) {})) // one of its holders is gone
	x := w.ok(closing(func(c *CloseEnsemble) { c.Holders = []cluster.StoreRef{e1.Stores[1], e2.Stores[0]} })).Volume
	if e := x.List[0]; !e.Closed || e.To != 10 || e.MetaTo != 3 || len(e.Holders) != 2 {
		t.Fatalf("closed as %+v", e)
	}
	w.refused(errs.ErrConflict, closing(func(c *CloseEnsemble) { c.Holders = e1.Stores[1:] }))
}

func (w *world) volumeOf(v id.Volume) *Volume { x, _ := w.Volume(v); return x }

// An ensemble leaves only when its records are released and a committed checkpoint
// covers its meta stream: else recovery would miss commits whose segments it needs.
func TestRemoveNeedsReleaseAndCheckpoint(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	e1 := w.open(v, holder(1, 1)).List[0]
	w.addEnsemble(v)
	remove := func(released id.LSN) *RemoveEnsembles {
		return &RemoveEnsembles{At: w.at(v), Ensembles: []id.Ensemble{e1.ID}, Released: released}
	}
	w.refused(errs.ErrConflict, remove(100)) // open
	w.ok(&CloseEnsemble{At: w.at(v), Ensemble: e1.ID, From: 1, To: 10, MetaFrom: 1, MetaTo: 5, Holders: e1.Stores[:2]})
	w.refused(errs.ErrConflict, remove(100)) // no checkpoint
	w.ok(&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 4}})
	w.refused(errs.ErrConflict, remove(100)) // it ends at 4, the stream at 5
	w.ok(&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 5}})
	w.refused(errs.ErrConflict, remove(9)) // 10 is not released
	if x := w.ok(remove(10)).Volume; len(x.List) != 1 {
		t.Fatalf("the list is %v", x.List)
	}
	w.refused(errs.ErrNotFound, remove(10))
}

// An ensemble that got nothing is closed empty and needs no cover.
func TestEmptyEnsembleLeavesWithoutCover(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	e1 := w.open(v, holder(1, 1)).List[0]
	w.addEnsemble(v)
	w.ok(&CloseEnsemble{At: w.at(v), Ensemble: e1.ID, From: 7, To: 6, MetaFrom: 3, MetaTo: 2, Holders: e1.Stores[:2]})
	w.ok(&RemoveEnsembles{At: w.at(v), Ensembles: []id.Ensemble{e1.ID}})
}

// Without this a late owner could set a disk back to what it was.
func TestCheckpointsOnlyRise(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	commit := func(epoch, cpEpoch id.Epoch, meta id.LSN, opaque string) *CommitCheckpoint {
		return &CommitCheckpoint{Volume: v, Epoch: epoch, Checkpoint: cluster.Checkpoint{Epoch: cpEpoch, Meta: meta, Opaque: []byte(opaque)}}
	}
	w.acquire(v, holder(1, 1))
	// What stands in the meta stream of a volume that is being opened may stand on one store alone.
	w.refused(errs.ErrConflict, commit(1, 1, 1, "a"))
	e := w.addEnsemble(v)
	w.ok(&ReplaceList{At: w.at(v), Keep: e.ID})
	w.ok(commit(1, 1, 5, "a"))
	w.ok(commit(1, 1, 5, "a")) // a retry
	w.refused(errs.ErrConflict, commit(1, 1, 5, "b"))
	w.refused(errs.ErrConflict, commit(1, 1, 4, "c"))
	w.refused(errs.ErrInvalid, commit(1, 2, 9, "d"))
	w.refused(errs.ErrInvalid, commit(1, 0, 9, "d"))
	w.open(v, holder(1, 1))
	w.refused(errs.ErrStaleEpoch, commit(1, 1, 6, "late"))
	w.ok(commit(2, 1, 6, "found in the stream"))
	w.ok(commit(2, 2, 1, "own"))
	if got := w.volumeOf(v).Checkpoint; string(got.Opaque) != "own" {
		t.Fatalf("the checkpoint is %+v", got)
	}
}

// One counter for all: two volumes never share a segment id, nor do two epochs.
func TestSequencesAreNeverGivenTwice(t *testing.T) {
	w := newWorld(t, 2, 1)
	a, b := w.create("a"), w.create("b")
	w.open(a, holder(1, 1))
	w.open(b, holder(2, 1))
	var end id.Sequence = 1
	take := func(v id.Volume, e id.Epoch) {
		r := w.ok(&AllocRange{Volume: v, Epoch: e})
		if r.First != end || r.Count != DefaultSettings.RangeCount {
			t.Fatalf("range %d+%d, want it at %d", r.First, r.Count, end)
		}
		end += id.Sequence(r.Count)
	}
	take(a, 1)
	take(b, 1)
	take(a, 1)
	w.open(a, holder(1, 1))
	take(a, 2)
	spans := w.volumeOf(a).Spans
	if len(spans) != 2 || spans[0] != (cluster.Span{Epoch: 1, First: 1, End: 1 + 3*4096}) || spans[1].First != 1+3*4096 {
		t.Fatalf("spans are %v", spans)
	}
	w.refused(errs.ErrConflict, &ForgetSpans{Volume: a, Epoch: 2, Below: 3})
	w.ok(&ForgetSpans{Volume: a, Epoch: 2, Below: 2})
	if spans := w.volumeOf(a).Spans; len(spans) != 1 || spans[0].Epoch != 2 {
		t.Fatalf("spans are %v", spans)
	}
	w.nextSequence = id.SequenceMax - 10
	w.refused(errs.ErrNoSpace, &AllocRange{Volume: a, Epoch: 2})
}

// Deletion: the name is free at once, the epoch is raised, and the record goes only
// when every memory that may hold something has forgotten it.
func TestDeletionWaitsForAllStores(t *testing.T) {
	w := newWorld(t, 2, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	w.refused(errs.ErrConflict, &DeleteVolume{Volume: v, Epoch: 0})
	x := w.ok(&DeleteVolume{Volume: v, Epoch: 1}).Volume
	if x.Epoch != 2 || !x.Deleted || len(x.Purging()) != 2 {
		t.Fatalf("deleted as %+v", x)
	}
	w.refused(errs.ErrNotFound, &DeleteVolume{Volume: v, Forced: true})
	w.refused(errs.ErrNotFound, &Acquire{Volume: v, By: holder(1, 1)})
	w.refused(errs.ErrStaleEpoch, &AllocRange{Volume: v, Epoch: 1})
	w.refused(errs.ErrStaleEpoch, &AllocRange{Volume: v, Epoch: 2})
	other := w.create("disk")
	w.refused(errs.ErrConflict, &ConfirmPurge{Store: storeRef(1, 1), Volume: other})
	w.ok(&ConfirmPurge{Store: storeRef(1, 1), Volume: v})
	w.ok(&ConfirmPurge{Store: storeRef(1, 1), Volume: v})
	if _, ok := w.Volume(v); !ok {
		t.Fatal("the record went before the second store confirmed")
	}
	w.ok(&ConfirmPurge{Store: storeRef(2, 1), Volume: v})
	if _, ok := w.Volume(v); ok {
		t.Fatal("the record stayed")
	}
	w.ok(&ConfirmPurge{Store: storeRef(2, 1), Volume: v}) // a late repeat
}

// A lost store holds nothing; one that registers during the deletion may get writes of
// an owner that does not know yet.
func TestDeletionFollowsTheStores(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	w.ok(&DeleteVolume{Volume: v, Forced: true})
	w.ok(&LoseStore{Store: storeRef(1, 1)})
	replaced := storeRef(2, 1)
	replaced.Incarnation[0] = 2
	w.ok(&RegisterHost{Holder: holder(2, 1), Stores: []RegisterStore{{StoreRef: replaced}}})
	w.register(4, 1, 1)
	if got := len(w.volumeOf(v).Purging()); got != 3 { // 2's new memory, 3, 4
		t.Fatalf("%d stores are waited for: %v", got, w.volumeOf(v).Purging())
	}
	for _, s := range []cluster.StoreRef{replaced, storeRef(3, 1), storeRef(4, 1)} {
		w.ok(&ConfirmPurge{Store: s, Volume: v})
	}
	if len(w.Deleted()) != 0 {
		t.Fatal("the record stayed")
	}
}

// The same store with another incarnation is another memory: the old one is lost, and
// it does not come back.
func TestAnotherIncarnationIsAnotherMemory(t *testing.T) {
	w := newWorld(t, 2, 1)
	old, fresh := storeRef(1, 1), storeRef(1, 1)
	fresh.Incarnation[0] = 2
	w.ok(&RegisterHost{Holder: holder(1, 2), Stores: []RegisterStore{{StoreRef: fresh}}})
	if w.Alive(old) || !w.Alive(fresh) {
		t.Fatal("the old memory counts")
	}
	r := w.ok(&RegisterHost{Holder: holder(1, 3), Stores: []RegisterStore{{StoreRef: old}}})
	if r.Refused[old.Store] == "" || !w.Alive(fresh) {
		t.Fatalf("the old memory came back: %v", r.Refused)
	}
}

// Two hosts that show the same store: a disk that was moved, or a copy. The one in
// service wins.
func TestStoreMovesOnlyFromASilentHost(t *testing.T) {
	w := newWorld(t, 2, 1)
	s := RegisterStore{StoreRef: storeRef(1, 1)}
	if r := w.ok(&RegisterHost{Holder: holder(2, 1), Stores: []RegisterStore{s}}); r.Refused[s.Store] == "" {
		t.Fatal("a store in service was taken")
	}
	s.MayMove = true
	if r := w.ok(&RegisterHost{Holder: holder(2, 1), Stores: []RegisterStore{s}}); r.Refused[s.Store] != "" {
		t.Fatal(r.Refused)
	}
	if x, _ := w.Store(s.Store); x.Host != hostName(2) {
		t.Fatalf("the store is on %s", x.Host)
	}
}

// Without this a store that was given up could come back with data of long ago.
func TestLostStoreStaysLost(t *testing.T) {
	w := newWorld(t, 1, 1)
	s := storeRef(1, 1)
	other := s
	other.Incarnation[0] = 9
	w.refused(errs.ErrConflict, &LoseStore{Store: other})
	w.refused(errs.ErrNotFound, &LoseStore{Store: storeRef(7, 7)})
	w.ok(&LoseStore{Store: s})
	w.ok(&LoseStore{Store: s})
	if r := w.register(1, 2, 1); r.Refused[s.Store] == "" {
		t.Fatal("a lost store was taken back")
	}
}

// A loss is accepted only where recovery cannot get its answers any more, and it leaves
// its mark.
func TestLossIsAcceptedOnlyWhenReal(t *testing.T) {
	w := newWorld(t, 4, 1)
	v := w.create("disk")
	e := w.open(v, holder(1, 1)).List[0]
	accept := &AcceptLoss{Volume: v, Ensemble: e.ID, By: "ann", NowMS: 77}
	w.refused(errs.ErrConflict, accept)
	w.ok(&LoseStore{Store: e.Stores[0]})
	w.refused(errs.ErrConflict, accept)
	w.ok(&LoseStore{Store: e.Stores[1]})
	w.refused(errs.ErrNotFound, &AcceptLoss{Volume: v, Ensemble: id.Ensemble{Epoch: 9, N: 9}})
	x := w.ok(accept).Volume
	if !x.List[0].LossAccepted || len(x.Losses) != 1 || x.Losses[0].By != "ann" || len(x.Losses[0].Lost) != 2 {
		t.Fatalf("accepted as %+v", x)
	}
	if y := w.ok(accept).Volume; len(y.Losses) != 1 {
		t.Fatal("accepting twice marks twice")
	}
}

// With two stores both acknowledge, so one of them is enough to recover from.
func TestTwoStoreEnsembleIsLostWithBoth(t *testing.T) {
	w := newWorld(t, 2, 1)
	v := w.create("disk")
	e := w.open(v, holder(1, 1)).List[0]
	if len(e.Stores) != 2 {
		t.Fatalf("the ensemble has %d stores", len(e.Stores))
	}
	w.ok(&LoseStore{Store: e.Stores[0]})
	w.refused(errs.ErrConflict, &AcceptLoss{Volume: v, Ensemble: e.ID})
	w.ok(&LoseStore{Store: e.Stores[1]})
	w.ok(&AcceptLoss{Volume: v, Ensemble: e.ID})
}

// Without this a journal could be kept on stores that do not exist, or on too few.
func TestEnsembleNeedsStores(t *testing.T) {
	w := newWorld(t, 1, 1)
	v := w.create("disk")
	w.acquire(v, holder(1, 1))
	w.refused(errs.ErrUnavailable, &AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 3, Fallback: 2})
	// A candidate that is not a present memory is none, whatever the leader believes.
	strange := []EnsembleCandidate{{StoreRef: storeRef(8, 1)}, {StoreRef: storeRef(8, 2)}, {StoreRef: storeRef(1, 1)}, {StoreRef: storeRef(1, 1)}}
	w.refused(errs.ErrUnavailable, &AddEnsemble{At: w.at(v), Candidates: strange, Want: 3, Fallback: 2})
	w.refused(errs.ErrInvalid, &AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 4, Fallback: 2})
	w.refused(errs.ErrInvalid, &AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 2, Fallback: 3})
}

// Two answers from one host are lost with it: with two hosts an ensemble has one store of
// each, and it is followed by another when a third host is there, not before.
func TestEnsembleTakesOneStoreOfEachHost(t *testing.T) {
	w := newWorld(t, 3, 2)
	v := w.create("disk")
	w.acquire(v, holder(1, 1))
	var two []EnsembleCandidate
	for _, c := range w.all() {
		if s, _ := w.Store(c.Store); s.Host != holder(3, 1).Host {
			two = append(two, c)
		}
	}
	add := func(from []EnsembleCandidate, better bool) *AddEnsemble {
		return &AddEnsemble{At: w.at(v), Candidates: from, Want: 3, Fallback: 2, Better: better}
	}
	hosts := func(r Result) int {
		set := make(map[id.Host]bool)
		for _, ref := range r.Volume.List[len(r.Volume.List)-1].Stores {
			s, _ := w.Store(ref.Store)
			set[s.Host] = true
		}
		if n := len(r.Volume.List[len(r.Volume.List)-1].Stores); n != len(set) {
			t.Fatalf("%d stores on %d hosts", n, len(set))
		}
		return len(set)
	}
	early := w.ok(add(two, false)).Volume.List
	if n := len(early[0].Stores); n != 3 {
		t.Fatalf("members that do not know the rule would have 3 stores, this one has %d", n)
	}
	w.ok(&ReplaceList{At: w.at(v), Keep: early[0].ID})
	w.ok(&SetLevel{Level: LevelEvents})
	if n := hosts(w.ok(add(two, false))); n != 2 {
		t.Fatalf("with two hosts up: %d", n)
	}
	if w.WorthAdding(add(two, true)) {
		t.Error("another on two hosts is worth it")
	}
	w.refused(errs.ErrUnavailable, add(two, true))
	if n := hosts(w.ok(add(w.all(), true))); n != 3 {
		t.Fatalf("with three hosts up: %d", n)
	}
	w.refused(errs.ErrUnavailable, add(w.all(), true))
}

// A list that is never tidied is bounded: the engine has to close and remove.
func TestListIsBounded(t *testing.T) {
	w := newWorld(t, 3, 1)
	v := w.create("disk")
	w.open(v, holder(1, 1))
	for range EnsemblesMax - 1 {
		w.addEnsemble(v)
	}
	w.refused(errs.ErrNoSpace, &AddEnsemble{At: w.at(v), Candidates: w.all(), Want: 3, Fallback: 2})
}

// Without this a cluster could change its name, and hosts of another be let in.
func TestClusterIsNamedOnce(t *testing.T) {
	w := &world{t: t, Machine: New()}
	w.refused(errs.ErrUnavailable, &CreateVolume{Name: "early", Size: 1 << 30})
	w.refused(errs.ErrInvalid, &Init{Settings: DefaultSettings})
	w.ok(&Init{ClusterID: [16]byte{1}, Settings: DefaultSettings})
	w.refused(errs.ErrExists, &Init{ClusterID: [16]byte{2}, Settings: DefaultSettings})
	if w.ClusterID() != [16]byte{1} {
		t.Fatal("the cluster was renamed")
	}
}

// Groups are permanent, and formed once for the same stores.
func TestPlacementIsFormedOnce(t *testing.T) {
	w := newWorld(t, 3, 2)
	var all []cluster.StoreRef
	for _, s := range w.Stores() {
		all = append(all, s.StoreRef)
	}
	if !w.PlacementNeeded(all) {
		t.Fatal("no groups and none needed")
	}
	r := w.ok(&EnsurePlacement{Healthy: all, Seed: 3})
	if r.Added == 0 || w.PlacementNeeded(all) {
		t.Fatalf("%d groups were added", r.Added)
	}
	if again := w.ok(&EnsurePlacement{Healthy: all, Seed: 4}); again.Added != 0 {
		t.Fatalf("again %d groups were added", again.Added)
	}
	w.refused(errs.ErrUnavailable, &EnsurePlacement{Healthy: all[:1]})
}

// When the 12 bits are used up, groups that are not healthy get new versions, and their
// old ones stay for what was coded under them.
func TestGroupNumbersRunOut(t *testing.T) {
	w := newWorld(t, 2, 1)
	gone := cluster.PGVersion{Version: 1, K: 1, M: 1, Stores: []cluster.StoreRef{storeRef(7, 1), storeRef(7, 2)}}
	for n := id.PG(1); n <= id.PGMax; n++ {
		w.pgs = append(w.pgs, PG{Number: n, Versions: []cluster.PGVersion{gone}})
	}
	r := w.ok(&EnsurePlacement{Healthy: []cluster.StoreRef{storeRef(1, 1), storeRef(2, 1)}})
	if r.Added == 0 || len(w.PGs()) != int(id.PGMax) {
		t.Fatalf("added %d, now %d groups", r.Added, len(w.PGs()))
	}
	p := w.PGs()[0]
	if len(p.Versions) != 2 || p.Current().Version != 2 || p.Versions[0].Stores[0] != gone.Stores[0] {
		t.Fatalf("group 1 is %+v", p)
	}
}
