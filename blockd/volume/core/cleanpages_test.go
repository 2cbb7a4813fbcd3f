package core

import (
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Where writes come faster than they are applied, a commit is always half done for want of a page of the map,
// a checkpoint is cut after each and is on its way until the next. Pages are emptied all the same, or nothing of what
// writes spread thin leave behind would ever go; of data nothing is judged by counts that are not true just then.
func TestPagesAreEmptiedBesideCommitsAndCheckpoints(t *testing.T) {
	victim := id.MakeSegment(7, 1)
	busy := func() *Core {
		m, err := blockmap.New(blockmap.Options{Blocks: 1 << 20, Budget: blockmap.NewBudget(64)})
		if err != nil {
			t.Fatal(err)
		}
		c := &Core{state: stateServing, table: blockmap.NewTable(), m: m}
		c.cfg.Limits = Limits{CleanPercent: 25, PagesPercent: 200, CleanSlack: 1, MergeBelow: 16, CheckpointDirty: 1}
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
		"the next checkpoint has enough to write": func(c *Core) {
			for leaf := range block.LBA(3) {
				if _, miss := c.m.Insert(leaf<<9, []id.Location{id.MakeLocation(victim, 0)}, nil); !miss.None() {
					t.Fatal(miss)
				}
			}
		},
		"it is the turn of others": func(c *Core) { c.clean.lastPages = true },
	} {
		fx, c = Effects{}, busy()
		change(c)
		if c.startClean(0, &fx); fx.CleanList != nil {
			t.Errorf("where %s, %v is cleaned, of which half is not in the map yet", what, fx.CleanList.Victims[0].Segment)
		}
	}
	c = busy()
	c.apply = nil
	if c.pagesDue() {
		t.Error("pages are renewed for a checkpoint that nothing asks for")
	}
}

// Without this a disk of whose pages nothing can be emptied would look for one in every moment in which data cannot be
// cleaned, and after each such look clean no data for a second either: stores that fill up would stay full.
func TestPagesWithoutAVictimDoNotHoldUpData(t *testing.T) {
	c := &Core{state: stateServing, table: blockmap.NewTable(), m: new(blockmap.Map)}
	c.cfg.Limits = Limits{CleanPercent: 25, CleanSlack: 1, MergeBelow: 512, CheckpointDirty: 1}
	c.table.Put(id.MakeSegment(7, 1), blockmap.Entry{Generation: id.Generation{Epoch: 1}, PGVersion: 1, Slots: 4096, Live: 100, K: 4, M: 2})
	c.usage = usage{known: true, PagesStored: 4096, PagesLive: 9, Slots: 4096, Live: 100}
	c.apply = []*commitState{{begun: true}}
	var fx Effects
	c.startClean(0, &fx)
	if fx.CleanList != nil || c.clean.next != 0 {
		t.Fatalf("inside the commit: %v, next at %v", fx.CleanList, c.clean.next)
	}
	c.apply[0].begun = false
	if c.startClean(0, &fx); fx.CleanList == nil || fx.CleanList.pages {
		t.Errorf("after the commit: %+v", fx.CleanList)
	}
}
