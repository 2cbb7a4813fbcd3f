package coretest

import (
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
)

// The last record of an old ensemble may be that of a checkpoint, which no checkpoint covers
// but a later one: where nothing is written any more the list would keep the ensemble for ever.
func TestOldEnsembleThatEndsWithACheckpointLeavesTheList(t *testing.T) {
	s := play(t, core.Limits{})
	s.acked(0, 8)
	s.seal()
	s.checkpoint()
	victim := s.Metad.Record(s.volume).List[0].Stores[0].Store
	s.body(victim).Crash(1)
	s.Metad.Mark(victim, cluster.StoreDown)
	s.Owner().step(func(now time.Duration, fx *core.Effects) {
		s.Owner().Core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.StoreDown(now, victim, jfx) })
	})
	for i := 0; i < 80 && (i < 3 || len(s.Metad.Record(s.volume).List) > 1); i++ {
		s.Quiesce()
	}
	if l := s.Metad.Record(s.volume).List; len(l) != 1 || l[0].ID.N == 1 {
		t.Fatalf("the list is still %+v", l)
	}
	at := s.stats().Checkpoints
	for range 40 {
		s.Quiesce()
	}
	if n := s.stats().Checkpoints; n != at {
		t.Errorf("%d more checkpoints of an idle disk", n-at)
	}
	s.body(victim).Restart()
	s.good()
	s.crash()
}

// A disk that is handed over serves nobody while it drains. Were a deletion waited for that a
// store which is away has to confirm, every handover would take seconds as long as it is.
func TestDrainWaitsForNoDeletionThatAStoreHoldsUp(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 16, LongBlocksMin: 24, CheckpointDead: 16 * blk})
	s.hold(" delete")
	for i := range uint64(10) {
		s.acked(i*16, 16)
	}
	s.seal()
	r := s.Trim(s.Owner(), 0, 120*blk)
	s.Quiesce()
	if !r.Ended() {
		t.Fatal("the trim hangs")
	}
	s.seal()
	s.checkpoint()
	for _, i := range []int{1, 3} { // one of each group
		s.Metad.Mark(s.Stores[i].ID(), cluster.StoreDown)
	}
	s.pass(0)
	o, began := s.Owner(), s.now()
	o.Drain()
	s.must(s.Until(func() bool { return o.Drained }))
	if d := s.now() - began; d >= time.Second {
		t.Errorf("it took %v", d)
	}
	s.hold()
	s.crash()
}
