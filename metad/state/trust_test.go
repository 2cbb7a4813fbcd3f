package state

import (
	"testing"

	"ashlar.dev/pkg/errs"
)

// Without these steps in this order a CA would sign before everybody trusts it, or be
// dropped while certificates of it are in use.
func TestCAsChangeStepByStep(t *testing.T) {
	w := newWorld(t, 1, 1)
	a, b, c := []byte("ca a"), []byte("ca b"), []byte("ca c")
	trust := func(p TrustPhase, cas ...[]byte) *ChangeTrust {
		return &ChangeTrust{Version: w.Trust().Version, Next: Trust{Phase: p, CAs: cas}}
	}
	w.refused(errs.ErrUnavailable, trust(TrustSpread, a, b)) // of a later level
	w.ok(&SetLevel{Level: LevelEvents})
	w.refused(errs.ErrConflict, trust(TrustSwitched, b, a))
	w.refused(errs.ErrConflict, trust(TrustRest, a))
	w.refused(errs.ErrConflict, trust(TrustSpread, a, a))
	stale := trust(TrustSpread, a, b)
	w.ok(trust(TrustSpread, a, b))
	w.refused(errs.ErrConflict, stale) // another operator was first
	w.refused(errs.ErrConflict, trust(TrustSwitched, a, b))
	w.refused(errs.ErrConflict, trust(TrustSwitched, c, a))
	w.refused(errs.ErrConflict, trust(TrustRest, b)) // the new one signs nothing yet
	w.ok(trust(TrustRest, a))                        // given up
	w.refused(errs.ErrConflict, trust(TrustSpread, b, c))
	w.ok(trust(TrustSpread, a, b))
	w.ok(trust(TrustSwitched, b, a))
	w.refused(errs.ErrConflict, trust(TrustRest, a)) // the way back is another change
	w.refused(errs.ErrConflict, trust(TrustSpread, b, c))
	m, err := Restore(w.Snapshot())
	if err != nil || string(m.Snapshot()) != string(w.Snapshot()) || m.Trust().Phase != TrustSwitched {
		t.Fatal(err, m.Trust())
	}
	w.ok(trust(TrustRest, b))
	if x := w.Trust(); len(x.CAs) != 1 || string(x.CAs[0]) != "ca b" || x.Version != 5 {
		t.Fatalf("trust %+v", x)
	}
}
