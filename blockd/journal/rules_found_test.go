package journal

import (
	"testing"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// found is an ensemble that a rebuilt metad found on stores.
func found(e Ensemble) Ensemble {
	e.Found = true
	return e
}

// Schedule: a backup has ensemble 1.1. Store 3 is away while epoch 2 opens without it and goes
// on under other names; then metad is restored. Where the batches of what epoch 2 discarded begin
// elsewhere than its own, store 3 could not lend the record that follows these, and the opening
// failed for ever (bench/sim, seed 2).
func TestTailThatAnOpeningDiscardedIsNotMissed(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), found(ens(2, 1, 4, 5, 6))
	d := openAt(t, 9, List{Version: 2, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(3, e1, [3]uint64{1, 1, 8}, [3]uint64{1, 9, 4}, [3]uint64{1, 13, 4})
	d.put(4, e2, [3]uint64{1, 1, 8}, [3]uint64{2, 9, 2})
	d.put(5, e2, [3]uint64{1, 1, 8}, [3]uint64{2, 9, 2})
	d.fenced(3, 1, 4, 5, 6)
	d.read(0)
	d.wantRun([3]uint64{1, 1, 8}, [3]uint64{2, 9, 2})
}

// The same where epoch 2 has packed and released all that it wrote: only its meta stream tells
// of it. Taken up again, what it discarded would lie over bytes that were acknowledged later.
func TestDiscardedTailDoesNotComeBackBehindWhatIsReleased(t *testing.T) {
	e1, e2 := ens(1, 1, 1, 2, 3), found(ens(2, 1, 4, 5, 6))
	d := openAt(t, 9, List{Version: 2, Ensembles: []Ensemble{e1, e2}}, nil)
	d.put(3, e1, [3]uint64{1, 1, 8}, [3]uint64{1, 9, 2}, [3]uint64{1, 11, 6})
	for _, s := range []byte{4, 5} {
		d.put(s, e2)
		d.putMeta(s, e2, [3]uint64{2, 1, 1}) // the commit of records 9 and 10 of epoch 2
	}
	d.fenced(3, 1, 4, 5, 6)
	d.read(10)
	d.wantRun()
}

// Schedule (bench/sim, seed 209): an ensemble of three has its records 9 to 16 on store 4 and on a third one that told a restored
// metad nothing of it: it was lost, or had no stream yet. Two are named, as of an ensemble of two, of which one
// answer would be enough: that of store 5, and what was acknowledged would be gone. The owner of before could acknowledge
// more, too, by store 4 and the third.
func TestFoundEnsembleNeedsAllWhoToldOfIt(t *testing.T) {
	e := found(ens(5, 1, 4, 5))
	d := openAt(t, 9, List{Version: 2, Ensembles: []Ensemble{e}}, nil)
	d.put(5, e, [3]uint64{5, 1, 8})
	d.fenced(5)
	d.read(0)
	if len(d.fx.Fetches) > 0 || d.fx.Opened != nil {
		t.Fatal("an opening goes on with one answer of two that it knows of")
	}
	d.put(4, e, [3]uint64{5, 1, 8}, [3]uint64{5, 9, 8})
	d.fenced(4)
	d.read(0)
	d.wantRun([3]uint64{5, 1, 8}, [3]uint64{5, 9, 8})
}

// putMeta is put for the meta stream.
func (d *openDesk) putMeta(store byte, e Ensemble, batches ...[3]uint64) {
	n := storeproto.Stream{Volume: id.Volume{1}, Ensemble: e.ID, Kind: storeproto.Meta}
	r := d.says[store]
	last := batches[len(batches)-1]
	r.Streams = append(r.Streams, storeproto.StreamState{Stream: n, Base: id.LSN(batches[0][1]), Tail: id.LSN(last[1] + last[2] - 1)})
	d.says[store] = r
	d.hold(n, store, batches)
}

// hold lets a store give batches of a stream.
func (d *openDesk) hold(n storeproto.Stream, store byte, batches [][3]uint64) {
	for _, x := range batches {
		b := &storeproto.Batch{Epoch: id.Epoch(x[0]), First: id.LSN(x[1]), Count: uint32(x[2]), Meta: []byte{byte(x[0])}}
		b.Seal()
		if d.has[n] == nil {
			d.has[n] = make(map[byte][]*storeproto.Batch)
		}
		d.has[n][store] = append(d.has[n][store], b)
	}
}
