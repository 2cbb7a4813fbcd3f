package server

import (
	"errors"
	"slices"
	"testing"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// Without this a client that comes again at once would bring the disk back to where it was,
// or two hosts would be told to open it.
func TestMovedDiskGoesToItsGoalOnly(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	h1, h2, h3 := g.host("h1", 1), g.host("h2", 1), g.host("h3", 0)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	v := volumeID(t, d.DiskId)
	a, err := h1.Acquire(g.ctx(), v, h1.holder, client.AcquireOpen)
	must(t, err)
	for host, class := range map[string]error{"nobody": errs.ErrNotFound} {
		if _, err := ops.MoveDisk(g.ctx(), "d", host); !errors.Is(err, class) {
			t.Errorf("to %s: %v", host, err)
		}
	}
	_, err = ops.MoveDisk(g.ctx(), "d", "h2")
	must(t, err)
	g.until("the owner to be told", func() bool { return slices.Contains(h1.lastReply().Handoffs, v) })
	if r := h2.lastReply(); len(r.Opens) != 0 {
		t.Errorf("the goal is told to open what is owned: %v", r.Opens)
	}
	must(t, h1.Release(g.ctx(), v, a.Volume.Epoch, h1.holder))
	for _, h := range []*host{h1, h3} { // clients that come again
		got, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
		must(t, err)
		if got.Refused == nil || got.Refused.Owner.Host != "h2" || got.Refused.DataAddress == "" {
			t.Errorf("%s got %+v", h.holder, got)
		}
	}
	g.until("the goal to be told", func() bool { return slices.Contains(h2.lastReply().Opens, v) })
	got, err := h2.Acquire(g.ctx(), v, h2.holder, client.AcquireOpen) // hosts know of no move
	must(t, err)
	if got.Refused != nil {
		t.Fatalf("the goal is refused: %+v", got.Refused)
	}
	open(t, g, h2, got.Volume)
	g.until("the move to be over", func() bool {
		r1, r2 := h1.lastReply(), h2.lastReply()
		return len(r1.Handoffs)+len(r2.Handoffs)+len(r1.Opens)+len(r2.Opens) == 0
	})
	if x, err := ops.Disk(g.ctx(), "d"); err != nil || x.OwnerHost != "h2" {
		t.Errorf("%v %v", x, err)
	}
	g.untilEvent("disk_moved", "d")
}
