package coretest

import (
	"errors"
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// markHeld takes a snapshot with a hold behind it.
func (s *stage) markHeld(d time.Duration) (*Snap, *Request) {
	s.t.Helper()
	x := &Snap{ID: id.Raw{1, 15: byte(len(s.Snaps))}, begun: s.Model.tick(), seen: make(map[uint64]uint64)}
	s.Snaps = append(s.Snaps, x)
	r := &Request{snap: x, op: core.Op{Kind: core.OpMark, Snapshot: x.ID, Hold: d}}
	s.send(s.Owner(), r)
	return x, r
}

// releaseHold ends a hold.
func (s *stage) releaseHold(x *Snap) (stood bool) {
	e := s.Owner()
	e.step(func(now time.Duration, fx *core.Effects) { _, stood = e.Core.ReleaseHold(now, x.ID, fx) })
	s.Quiesce()
	return stood
}

// What comes after a mark with a hold is neither acknowledged nor read before the release, or another
// disk's snapshot of the same group could have what was written because of it; what came before is.
func TestHoldKeepsWhatComesAfterTheMark(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	s.acked(0, 4)
	s.hold(" append")
	var before *Request
	for range 5 { // more than may be in flight: the last shares a batch with what comes next
		before = s.Write(s.Owner(), 0, blk)
	}
	x, mark := s.markHeld(time.Minute)
	after, trim, flush := s.Write(s.Owner(), 0, 2*blk), s.Trim(s.Owner(), 3*blk, blk), s.Flush(s.Owner())
	partial := s.Write(s.Owner(), 2*blk, Cell)
	s.hold()
	s.Quiesce()
	read := s.Read(s.Owner(), 0, blk)
	s.Quiesce()
	if !before.Ended() || !mark.Ended() || mark.Err != nil {
		t.Fatalf("what came before: %t, the mark: %t %v", before.Ended(), mark.Ended(), mark.Err)
	}
	for i, r := range []*Request{after, trim, flush, partial} {
		if r.Ended() {
			t.Errorf("request %d after the mark ended under the hold", i)
		}
	}
	if !read.Ended() || read.Err != nil { // its bytes are judged by the model: not those of after
		t.Errorf("a read under the hold: %t %v", read.Ended(), read.Err)
	}
	if s.releaseHold(&Snap{ID: id.Raw{9}}) {
		t.Error("the hold of another snapshot was released")
	}
	if !s.releaseHold(x) {
		t.Error("the hold did not stand")
	}
	for i, r := range []*Request{after, trim, flush, partial} {
		if !r.Ended() || r.Err != nil {
			t.Errorf("request %d after the release: %t %v", i, r.Ended(), r.Err)
		}
	}
	if s.releaseHold(x) {
		t.Error("a hold was released twice")
	}
	if s.tagOf(x, 0) != before.write.Tag {
		t.Error("the snapshot has what came after its mark")
	}
	s.good()
}

// A hold is released when the marks of a group have their places, which is before they are durable: what comes after a mark is
// acknowledged after it nevertheless, and is not in its snapshot. Else the group could have what was written because of it.
func TestHoldMayEndBeforeTheMarkIsDurable(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	before := s.write(0, 1)
	s.hold(" append")
	x, mark := s.markHeld(time.Minute)
	after := s.Write(s.Owner(), 0, blk)
	if mark.Ended() || !s.Owner().Core.Holds(x.ID) || s.Owner().Core.Holds(id.Raw{9}) {
		t.Fatalf("the mark ended: %t, and it is not held behind it", mark.Ended())
	}
	if !s.releaseHold(x) {
		t.Error("the hold did not stand")
	}
	if mark.Ended() || after.Ended() {
		t.Errorf("with nothing durable ended the mark: %t, what came after it: %t", mark.Ended(), after.Ended())
	}
	s.hold()
	s.Quiesce()
	if !mark.Ended() || mark.Err != nil || !after.Ended() || after.Err != nil {
		t.Errorf("the mark: %t %v; what came after it: %t %v", mark.Ended(), mark.Err, after.Ended(), after.Err)
	}
	if s.tagOf(x, 0) != before.write.Tag {
		t.Error("the snapshot has what came after its mark")
	}
	s.good()
}

// A hold ends by itself, for writers must not depend on who took the snapshot; and its release says
// that it had ended, or a group would count of which one disk went on.
func TestHoldEndsAtItsDeadline(t *testing.T) {
	s := play(t, core.Limits{SealBlocks: 8})
	x, _ := s.markHeld(20 * time.Second)
	w := s.write(0, 1)
	if w.Ended() {
		t.Fatal("no hold")
	}
	s.pass(time.Minute)
	s.Quiesce()
	if !w.Ended() || w.Err != nil {
		t.Fatalf("after the deadline: %t %v", w.Ended(), w.Err)
	}
	if s.releaseHold(x) {
		t.Error("it is said to have stood")
	}
	y, _ := s.markHeld(time.Minute)
	s.Quiesce()
	if _, r := s.markHeld(time.Minute); true {
		s.Quiesce()
		if !r.Ended() || !errors.Is(r.Err, errs.ErrConflict) {
			t.Errorf("two holds at once: %t %v", r.Ended(), r.Err)
		}
	}
	s.Snaps = s.Snaps[:2]
	z := s.Owner()
	z.step(func(now time.Duration, fx *core.Effects) {
		if _, stood := z.Core.ReleaseHold(now+time.Hour, y.ID, fx); stood {
			t.Error("a hold stood beyond its deadline, for nobody had looked at the clock")
		}
	})
	y, _ = s.markHeld(time.Minute)
	s.Quiesce()
	s.write(1, 1)
	z.step(func(now time.Duration, fx *core.Effects) {
		z.Core.Fence(fx)
		if _, stood := z.Core.ReleaseHold(now, y.ID, fx); stood {
			t.Error("a hold stood though a later epoch is in force")
		}
	})
	s.crash() // the hold dies with its owner, and its release says so
	if s.releaseHold(y) {
		t.Error("a hold of the owner before is said to have stood")
	}
	s.good()
}
