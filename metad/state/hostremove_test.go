package state

import (
	"fmt"
	"testing"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Without this a host is forgotten while data, disks or policies still lead to it: reads find
// no address, a disk's owner is nobody that anybody knows.
func TestHostIsRemovedOnlyWhenNothingLeadsToIt(t *testing.T) {
	w := newWorld(t, 3, 1)
	gone := &RemoveHost{Host: "h9", Number: 7, AtMS: 1000}
	w.refused(errs.ErrUnavailable, gone) // of a later level
	w.ok(&SetLevel{Level: LevelNewest})
	w.refused(errs.ErrNotFound, gone)
	x := id.Holder{Host: "h9", Number: 7}
	s := storeRef(9, 1)
	w.ok(&RegisterHost{Holder: x, DataAddress: "10.0.0.9:1", Exports: true, Stores: []RegisterStore{{StoreRef: s, Capacity: 1 << 40}}})
	w.refused(errs.ErrConflict, gone) // its store
	w.ok(&LoseStore{Store: s})
	w.refused(errs.ErrConflict, gone) // what it had may be needed yet
	w.ok(&RemoveStore{Store: s})
	v := id.Volume{77}
	w.ok(&CreateVolume{ID: v, Name: "held", Size: 1 << 20})
	epoch := w.ok(&Acquire{Volume: v, By: x}).Volume.Epoch
	w.refused(errs.ErrConflict, gone) // its disk
	w.ok(&Release{Volume: v, By: x, Epoch: epoch})
	w.ok(&SetPolicy{ID: id.Raw{1}, Name: "p", Rules: policy.Rules{At: []uint16{120}, Days: policy.EveryDay, Keep: 1}, New: true})
	w.ok(&ApplyPolicy{Name: "p", Volumes: []id.Volume{v}})
	hook := &SetPolicyHook{Policy: "p", Hook: PolicyHook{Volume: v, Host: "h9", Hook: "db", Timeout: HookTimeoutMin}}
	w.ok(hook)
	w.refused(errs.ErrConflict, gone) // its application
	hook.Off = true
	w.ok(hook)
	w.refused(errs.ErrConflict, &RemoveHost{Host: "h9", Number: 6, AtMS: 1000}) // an earlier life
	w.ok(&CordonHost{Host: "h9", On: true})
	w.ok(gone)
	w.refused(errs.ErrNotFound, gone)
	if w.Cordoned("h9") || w.RemovedAt("h9") != 1000 {
		t.Errorf("cordoned: %v, removed at %d", w.Cordoned("h9"), w.RemovedAt("h9"))
	}
	w.ok(&RegisterHost{Holder: id.Holder{Host: "h9", Number: 1}, DataAddress: "10.0.0.9:1"}) // another machine of that name
	if w.RemovedAt("h9") != 1000 {
		t.Error("the certificates of before are good again")
	}
}

// Without this the list grows for ever, or forgets the newest.
func TestHostsRemovedFirstAreForgottenFirst(t *testing.T) {
	w := newWorld(t, 3, 1)
	w.ok(&SetLevel{Level: LevelNewest})
	for i := range RemovedMax {
		w.removed[id.Host(fmt.Sprint("gone", i))] = int64(i + 10)
	}
	w.ok(&RegisterHost{Holder: id.Holder{Host: "last", Number: 1}, DataAddress: "10.0.0.9:1"})
	w.ok(&RemoveHost{Host: "last", Number: 1, AtMS: 9_000_000})
	if len(w.removed) != RemovedMax || w.RemovedAt("gone0") != 0 || w.RemovedAt("gone1") == 0 || w.RemovedAt("last") == 0 {
		t.Errorf("%d are remembered; the first %d, the last %d", len(w.removed), w.RemovedAt("gone0"), w.RemovedAt("last"))
	}
}

// goldenRemoved is the part of removed hosts.
func goldenRemoved() []Command {
	return []Command{
		&RegisterHost{Holder: id.Holder{Host: "h-gone", Number: 3}, DataAddress: "10.0.0.8:7001"},
		&RemoveHost{Host: "h-gone", Number: 3, AtMS: 1_700_000_000_000},
	}
}
