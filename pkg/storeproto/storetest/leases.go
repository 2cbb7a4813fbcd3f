package storetest

import (
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// fenceOver fences Volume at 4 for B, where A may have served it.
func fenceOver(t *testing.T, h *Harness) chan Fenced {
	return Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: HolderB, Prior: []id.Host{HolderA.Host}})
}

func mustWait(t *testing.T, done chan Fenced) {
	t.Helper()
	select {
	case r := <-done:
		t.Fatalf("the fence was answered while a grant stands: %+v", r)
	default:
	}
}

func grant(t *testing.T, h *Harness, holder id.Holder, acked uint64) *storeproto.Lease {
	t.Helper()
	l := <-Lease(h.Store, holder, acked, 0)
	if ok(t, "lease", l.Err); l.Term != h.LeaseTerm {
		t.Fatalf("term %s, want %s", l.Term, h.LeaseTerm)
	}
	return l
}

func fenceWaitsForGrants(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	done := fenceOver(t, h)
	mustWait(t, done)
	// A grant given after the fence's arrival names the volume and is not waited for.
	h.Advance(h.LeaseTerm / 2)
	l := grant(t, h, HolderA, 0)
	if len(l.Named) != 1 || l.Named[0] != (storeproto.NamedFence{Volume: Volume, Epoch: 4}) {
		t.Errorf("named %+v", l.Named)
	}
	mustWait(t, done)
	h.Advance(h.LeaseTerm / 2)
	ok(t, "fence", (<-done).Err)
}

func ackEndsWait(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	done := fenceOver(t, h)
	l := grant(t, h, HolderA, 0)
	mustWait(t, done)
	if l = grant(t, h, HolderA, l.Naming); len(l.Named) != 0 {
		t.Errorf("named again: %+v", l.Named)
	}
	ok(t, "fence", (<-done).Err)
}

func releaseEndsWait(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	ok(t, "release", h.Store.Release(t.Context(), storeproto.Release{Volume: Volume, Epoch: 3, By: HolderA}))
	ok(t, "fence", (<-fenceOver(t, h)).Err)
	// And a release that comes while the fence waits.
	f := storeproto.Fence{Volume: id.Volume{9}, Epoch: 4, By: HolderB, Prior: []id.Host{HolderA.Host}}
	done := Fence(t, h.Store, f)
	mustWait(t, done)
	ok(t, "release", h.Store.Release(t.Context(), storeproto.Release{Volume: f.Volume, Epoch: 3, By: HolderA}))
	ok(t, "fence", (<-done).Err)
}

func oldReleaseWaits(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	ok(t, "release", h.Store.Release(t.Context(), storeproto.Release{Volume: Volume, Epoch: 1, By: HolderA}))
	done := fenceOver(t, h) // at 4: A may have owned it at 3, which this store did not see
	mustWait(t, done)
	ok(t, "release", h.Store.Release(t.Context(), storeproto.Release{Volume: Volume, Epoch: 2, By: HolderA}))
	mustWait(t, done)
	h.Advance(h.LeaseTerm)
	ok(t, "fence", (<-done).Err)
}

func higherNumber(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	done := fenceOver(t, h)
	mustWait(t, done)
	next := id.Holder{Host: HolderA.Host, Number: HolderA.Number + 1}
	grant(t, h, next, 0)
	ok(t, "fence", (<-done).Err)
	l := <-Lease(h.Store, HolderA, 0, 0)
	want(t, "lease of a dead life", l.Err, errs.ErrStaleEpoch)
	_, err := h.Store.Fence(t.Context(), storeproto.Fence{Volume: Volume, Epoch: 5, By: HolderA})
	want(t, "fence of a dead life", err, errs.ErrStaleEpoch)
}

func heldLease(t *testing.T, h *Harness) {
	first := grant(t, h, HolderA, 0)
	held := Lease(h.Store, HolderA, first.Naming, time.Hour)
	done := fenceOver(t, h)
	l := <-held
	if ok(t, "held lease", l.Err); len(l.Named) != 1 || l.Named[0].Volume != Volume {
		t.Fatalf("named %+v", l.Named)
	}
	mustWait(t, done)
	held = Lease(h.Store, HolderA, l.Naming, h.LeaseTerm/4)
	ok(t, "fence", (<-done).Err)
	h.Advance(h.LeaseTerm / 4)
	if l := <-held; l.Err != nil || len(l.Named) != 0 || l.Term != h.LeaseTerm {
		t.Errorf("lease held to its end: %+v", l)
	}
}

func ownHost(t *testing.T, h *Harness) {
	grant(t, h, HolderA, 0)
	next := id.Holder{Host: HolderA.Host, Number: HolderA.Number + 1}
	r := <-Fence(t, h.Store, storeproto.Fence{Volume: Volume, Epoch: 4, By: next, Prior: []id.Host{HolderA.Host}})
	ok(t, "fence by the next life", r.Err)
}
