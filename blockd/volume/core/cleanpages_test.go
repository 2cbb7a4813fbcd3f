package core

import (
	"testing"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Where writes come faster than they are applied, a commit is always half done for want of a page of the map,
// a checkpoint is cut after each and is on its way until the next. Pages are emptied all the same, or nothing of what
// writes spread thin leave behind would ever go; of data nothing is judged by counts that are not true just then.
func TestPagesAreEmptiedBesideCommitsAndCheckpoints(t *testing.T) {
	victim := id.MakeSegment(7, 1)
	busy := func() *Core {
		c := &Core{state: stateServing, table: blockmap.NewTable()}
		c.cfg.Limits = Limits{CleanPercent: 25, PagesPercent: 200, CleanSlack: 1, MergeBelow: 16}
		c.table.Put(victim, blockmap.Entry{Generation: id.Generation{Epoch: 1}, PGVersion: 1, Slots: 4096, Live: 9, K: 4, M: 2, Flags: blockmap.Pages})
		c.apply = []*commitState{{begun: true}}
		c.check.running = &checkpointState{}
		c.usage = usage{known: true, PagesStored: 4096, PagesLive: 9, Slots: 1 << 20, Live: 1, Small: 1 << 10}
		return c
	}
	var fx Effects
	c := busy()
	c.startClean(0, &fx)
	if j := fx.CleanList; j == nil || !j.pages || j.Victims[0].Segment != victim {
		t.Fatalf("no segment of pages is emptied: %+v", j)
	}
	for what, change := range map[string]func(*Core){
		"the next checkpoint empties enough": func(c *Core) { c.clean.renewed = 4080 },
		"nobody has counted since the cut":   func(c *Core) { c.usage.known = false },
		"no more dead than may be":           func(c *Core) { c.usage.PagesLive = 2000 },
	} {
		fx, c = Effects{}, busy()
		change(c)
		if c.startClean(0, &fx); fx.CleanList != nil {
			t.Errorf("where %s, %v is cleaned, of which half is not in the map yet", what, fx.CleanList.Victims[0].Segment)
		}
	}
	fx, c = Effects{}, busy()
	c.apply = nil
	if c.pagesDue() {
		t.Error("pages are renewed for a checkpoint that nothing asks for")
	}
}
