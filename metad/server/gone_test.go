package server

import (
	"slices"
	"testing"

	"ashlar.dev/pkg/cluster"
)

// Without this a store that was emptied would be held open until its blockd is started anew, or
// one that metad has not heard of yet would be closed.
func TestHostHearsWhichStoresAreRemoved(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	hosts := []*host{g.host("h1", 1), g.host("h2", 1), g.host("h3", 1), g.host("h4", 2)}
	h, ops := hosts[3], g.operator()
	drained := h.stores[0]
	h.silence()
	h.stores = append(h.stores, newRef()) // never registered
	h.speak()
	g.until("the drain to be taken", func() bool { _, err := ops.DrainStore(g.ctx(), drained.Store.String(), false); return err == nil })
	g.until("its removal to be told", func() bool { return len(h.lastReply().Gone) > 0 })
	if got := h.lastReply().Gone; !slices.Equal(got, []cluster.StoreRef{drained}) {
		t.Errorf("gone: %v, not %v alone", got, drained)
	}
}
