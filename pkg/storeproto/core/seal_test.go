package core_test

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/storeproto/storetest"
)

// Schedule: an owner is granted an ensemble and has written nothing in it when metad is lost. The stores
// tell the restored metad what they have, then the owner begins with it: what is acknowledged
// there nobody would ever find.
func TestStoreThatHasToldCreatesNoStreams(t *testing.T) {
	l := newLab(t, core.Config{})
	first := func(e id.Epoch, n uint32) {
		l.append(storetest.Stream(e, n, storeproto.Journal), storetest.Batch(e, 1, 1, 0, 0))
		l.sync(10)
	}
	first(3, 1)
	l.c.Seal(nil)
	if !l.c.Sealed() {
		t.Error("it does not know that it is sealed")
	}
	first(3, 2)
	l.append(journal, batch(2)) // of this stream it has told
	l.sync(10)
	l.expect("append 1: ok", "append 1: unavailable", "append 2: ok")
	l.c.Unseal(map[id.Volume]id.Epoch{storetest.Volume: 9})
	first(3, 2) // granted before, or by nobody
	first(8, 3)
	first(9, 1)
	other := storetest.Stream(1, 1, storeproto.Journal)
	other.Volume = id.Volume{77} // made since
	l.append(other, storetest.Batch(1, 1, 1, 0, 0))
	l.sync(10)
	l.expect("append 1: stale epoch", "append 1: stale epoch", "append 1: ok", "append 1: ok")
	if l.c.Sealed() {
		t.Error("it is sealed still")
	}
}

// Schedule: the stores have told a restored metad what they have, then an owner hears from the lost one of a
// new version of a placement group, packs by it and releases its journal. Nobody knows the places of that version
// once the owner is gone (bench/sim, seed 149 of the worlds in which openings are on record).
func TestStoreThatHasToldTakesNoShardsOfNewerVersions(t *testing.T) {
	l := newLab(t, core.Config{})
	put := func(v uint32, e id.Epoch) error {
		h := *storetest.Shard(id.MakeSegment(5, 9), id.Generation{Epoch: 3, N: 1}, 0, 1, 0).Head
		h.PGVersion = v
		return l.c.AdmitShard(&h, e)
	}
	floors := map[id.Volume]id.Epoch{storetest.Volume: 9}
	for _, c := range []struct {
		when    string
		do      func()
		version uint32
		epoch   id.Epoch
		want    error
	}{
		{"as ever", func() {}, 8, 3, nil},
		{"has told of 7", func() { l.c.Seal(map[id.PG]uint32{9: 7, 4: 8}) }, 7, 3, nil},
		{"has told of 7", func() {}, 8, 3, errs.ErrUnavailable},
		{"has told of 7, a repair", func() {}, 8, storeproto.RepairEpoch, nil},
		{"restored, an owner of before", func() { l.c.Unseal(floors) }, 8, 8, errs.ErrStaleEpoch},
		{"restored, an owner of before", func() {}, 7, 8, nil},
		{"restored", func() {}, 65544, 9, nil},
		{"started", func() { l.c.Seal(nil) }, 1, 9, errs.ErrUnavailable},
		{"started, metad answers", func() { l.c.Unseal(floors) }, 1, 9, nil},
	} {
		c.do()
		if err := put(c.version, c.epoch); !errors.Is(err, c.want) {
			t.Errorf("%s: version %d under epoch %d: %v, want %v", c.when, c.version, c.epoch, err, c.want)
		}
	}
}
