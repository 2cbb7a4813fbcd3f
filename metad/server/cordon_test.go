package server

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/errs"
)

// A cordon is answered with what is in force, told as an event once, and a host that is not
// there has none.
func TestCordonIsToldOnce(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	g.host("h1", 1)
	g.until("the level that knows cordons", func() bool {
		h, err := ops.CordonHost(g.ctx(), "h1", false)
		return err == nil && h.Cordoned
	})
	if h, err := ops.CordonHost(g.ctx(), "h1", false); err != nil || !h.Cordoned {
		t.Errorf("again: %v %v", h, err)
	}
	if h, err := ops.CordonHost(g.ctx(), "h1", true); err != nil || h.Cordoned {
		t.Errorf("uncordoned: %v %v", h, err)
	}
	if _, err := ops.CordonHost(g.ctx(), "h9", false); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("a host that is not there: %v", err)
	}
	g.untilEvent("host_cordoned", "h1")
	g.untilEvent("host_uncordoned", "h1")
}
