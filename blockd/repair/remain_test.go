package repair

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/stripe"
)

// better gives the group a version of another code, over other stores.
func (b *bench) better(p stripe.Profile) {
	b.change(func(t *cluster.Topology) {
		g := &t.PGs[0]
		v := cluster.PGVersion{Version: g.Current().Version + 1, K: p.K, M: p.M, Stores: b.refs(seq(int(p.K + p.M))...)}
		g.Versions = append(g.Versions, v)
	})
}

func (b *bench) remains() (shards uint64, told int) {
	for _, w := range b.workers {
		for _, r := range w.Remains() {
			if r.Version == b.top.PGs[0].Current().Version {
				shards, told = shards+r.Shards, told+1
			}
		}
	}
	return shards, told
}

// Metad forgets a code when nobody has anything of it: what is counted must be all that there
// can ever be, so a put under the older version is refused by whoever has counted.
func TestNothingIsBornUnderTheOlderCode(t *testing.T) {
	b := newBench(t, stripe.Profile{K: 1, M: 2})
	seg := b.write(1, 50)
	old := b.top.PGs[0].Current()
	b.better(fourTwo)
	if _, told := b.remains(); told != 0 {
		t.Fatal("told before anybody counted")
	}
	b.rounds()
	if shards, told := b.remains(); shards != 3 || told != 6 {
		t.Fatalf("%d shards, %d stores have told", shards, told)
	}
	if r := b.workers[0].Remains(); r[0].Bytes == 0 || len(r[0].Volumes) != 1 || r[0].Volumes[0] != volume {
		t.Fatalf("%+v", r)
	}
	if _, err := b.writeUnder(old, 9, 16); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Fatalf("a put under the older code: %v", err)
	}
	for i := range 3 {
		if err := b.delete(i, seg, b.top.PGs[0].Current().Version); err != nil {
			t.Fatal(err)
		}
	}
	b.clock.Advance(2 * remainEvery)
	b.rounds()
	if shards, told := b.remains(); shards != 0 || told != 6 {
		t.Fatalf("%d shards, %d stores have told", shards, told)
	}
	b.forget()
	b.rounds()
	if _, told := b.remains(); told != 0 {
		t.Fatal("told of a group of one code")
	}
}

// A store that was away while a code was forgotten has shards of it that nobody can ask for: also
// in the slot that it has in the group as it is now.
func TestShardsOfAForgottenCodeAreReaped(t *testing.T) {
	b := newBench(t, stripe.Profile{K: 1, M: 2})
	b.write(1, 50)
	b.better(fourTwo)
	b.rounds()
	if b.shards(0) != 1 {
		t.Fatal("reaped while its version is kept")
	}
	b.forget()
	b.rounds()
	for i := range 3 {
		if n := b.shards(i); n != 0 {
			t.Errorf("store %d has %d shards left", i, n)
		}
	}
}
