package coretest

import (
	"errors"
	"testing"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// The tests of this file are about stores that refuse segments by bytes.

// marksAt are the marks of fresh, pack, reserve and pages.
func marksAt(fresh, pack, reserve, pages int) *Room {
	return &Room{Marks: [storeproto.Rooms]int{storeproto.RoomFresh: fresh, storeproto.RoomPack: pack, storeproto.RoomReserve: reserve, storeproto.RoomPages: pages}}
}

// crowded opens a volume on stores with so much room.
func crowded(t *testing.T, r *Room) *stage {
	s := stageWith(t, Config{Limits: core.Limits{SealBlocks: 64, CheckpointDead: 8 * blk, CheckpointTrifle: 1, CheckpointIdle: time.Second}, Room: r})
	s.MayFail = true
	return s
}

// Without this writers would go on until metad had heard from the stores, and what they were told is
// safe would have no room: whoever packs hears it from the store itself.
func TestStoreThatRefusesEndsWritesAtOnce(t *testing.T) {
	s := crowded(t, marksAt(100, 300, 300, 400))
	s.acked(0, 101)
	s.seal() // full now, and nobody was told
	s.acked(200, 48)
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 || at.Memtables != 1 {
		t.Fatalf("what was acknowledged is not packed: %+v", at)
	}
	s.acked(400, 48) // the refusal is over, and metad has said nothing
	s.pass(2 * time.Hour)
	for s.happen() {
	}
	if r := s.write(300, 1); !errors.Is(r.Err, errs.ErrNoSpace) {
		t.Fatalf("a write after the refusal: %v", r.Err)
	}
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 {
		t.Fatalf("what was acknowledged is not packed: %+v", at)
	}
	s.Trim(s.Owner(), 0, 512*blk)
	s.seal()
	s.seal()
	s.acked(300, 1)
	s.good()
}

// Without this writers would get ENOSPC for minutes though there is room again: who was refused waits for metad to
// hear of it, and no longer.
func TestRoomThatMetadHeardOfEndsTheRefusal(t *testing.T) {
	r := marksAt(100, 300, 300, 400)
	s := crowded(t, r)
	soon := func() {
		s.pass(100 * time.Millisecond) // far less than a refusal lasts
		for s.happen() {
		}
	}
	s.acked(0, 101)
	s.seal()
	s.acked(200, 48)
	s.pass(2 * time.Hour)
	soon() // refused
	s.tellFull()
	soon()
	if w := s.Write(s.Owner(), 300*blk, blk); !errors.Is(w.Err, errs.ErrNoSpace) {
		t.Fatalf("a write while stores are full: %v", w.Err)
	}
	r.Marks[storeproto.RoomFresh] = 300
	s.tellFull()
	soon()
	w := s.Write(s.Owner(), 300*blk, blk)
	if soon(); !w.Ended() || w.Err != nil {
		t.Fatalf("a write when metad knows that there is room: ended %t, %v", w.Ended(), w.Err)
	}
	s.seal()
	s.good()
}

// Without this a disk whose older memtable has no room could not be emptied: commits are in order, so
// its trims would wait for that memtable for ever. There is no reserve here at all.
func TestTrimmedBlocksNeedNoRoom(t *testing.T) {
	r := marksAt(100, 100, 100, 400)
	s := crowded(t, r)
	s.acked(0, 101)
	s.seal()
	s.hold(" pack")
	s.acked(200, 64)
	s.acked(600, 64)
	s.hold()
	s.seal()
	if at := s.stats(); at.Memtables != 3 || at.UnpackedBytes != 128*blk {
		t.Fatalf("two memtables should have no room: %+v", at)
	}
	s.Trim(s.Owner(), 0, 512*blk)
	s.Trim(s.Owner(), 600*blk, 64*blk)
	s.seal()
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 || at.LiveBytes != 0 || r.CallsFull() {
		t.Fatalf("%d used: %+v", r.Used(), at)
	}
	s.acked(300, 1)
	s.crash()
}

// Without this what a client did not trim would keep its trims from giving anything back.
func TestMemtableInFrontOfTrimsDrawsOnTheReserve(t *testing.T) {
	r := marksAt(400, 400, 500, 600)
	s := crowded(t, r)
	s.acked(0, 401)
	s.seal()
	s.acked(1000, 64)
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 64*blk {
		t.Fatalf("there is room: %+v", at)
	}
	s.Trim(s.Owner(), 0, 300*blk)
	s.seal()
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 {
		t.Fatalf("the trims are not committed, %d used: %+v", r.Used(), at)
	}
	s.crash()
}

// Without this a volume that was recovered on a full cluster would keep its journal for ever.
func TestRecoveredRunDrawsOnTheReserve(t *testing.T) {
	s := crowded(t, marksAt(100, 100, 300, 400))
	s.acked(0, 101)
	s.seal()
	s.acked(1000, 64)
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 64*blk {
		t.Fatalf("there is room: %+v", at)
	}
	s.crash()
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 0 {
		t.Fatalf("the recovered run is not packed: %+v", at)
	}
	s.good()
}

// Without this a snapshot would lose what was trimmed after it.
func TestWhatASnapshotHasIsPackedThoughTrimmed(t *testing.T) {
	r := marksAt(100, 100, 100, 400)
	s := crowded(t, r)
	s.acked(0, 101)
	s.seal()
	s.acked(200, 64)
	s.Mark(s.Owner())
	s.Trim(s.Owner(), 200*blk, 64*blk)
	s.seal()
	if at := s.stats(); at.UnpackedBytes != 64*blk {
		t.Fatalf("what the snapshot has is gone or packed: %+v", at)
	}
	for i := range r.Marks {
		r.Marks[i] = 1000
	}
	s.seal()
	s.crash()
}

// Without this a dropped segment's room would be promised to somebody else before it is free.
func TestDroppedSegmentIsChargedUntilStoresConfirm(t *testing.T) {
	r := marksAt(100, 300, 300, 400)
	s := crowded(t, r)
	s.acked(0, 101)
	s.seal()
	used := r.Used()
	s.hold(" delete")
	s.Trim(s.Owner(), 0, 512*blk)
	s.seal()
	s.seal()
	if r.Used() < used || !r.CallsFull() {
		t.Fatalf("%d used, %d before: nothing is deleted yet", r.Used(), used)
	}
	s.acked(200, 8)
	s.pass(2 * time.Hour)
	for s.happen() {
	}
	if w := s.write(300, 1); !errors.Is(w.Err, errs.ErrNoSpace) {
		t.Fatalf("a write into room that is not free: %v", w.Err)
	}
	s.hold()
	s.seal()
	s.seal()
	s.acked(300, 1)
	s.good()
}

// Whatever several disks do until stores are full, and whoever dies: all that was acknowledged is packed,
// and trims bring writes back, with no restart and no more room than was kept. Where that is not there, for
// stores were lost, trims bring it back all the same, with no reserve at all.
func TestFullClusterInEveryOrderOfEvents(t *testing.T) {
	from, to := seeds(t, 4)
	for seed := from; seed < to; seed++ {
		fillAndEmpty(t, seed)
	}
}

func fillAndEmpty(t *testing.T, seed uint64) {
	t.Helper()
	const disks = 3
	cfg := small(seed)
	cfg.Blocks, cfg.TakesOver, cfg.PackFails = 1<<11, 0.001, 0.05
	cfg.Limits.SealIdle, cfg.CheckEvery = 500*time.Millisecond, 200
	unpacked := int(cfg.Limits.UnpackedBytesMax / blk) // what journals may hold, of each disk
	cfg.Room = marksAt(1200, 1200+disks*unpacked, 1200+disks*(unpacked+64), 1e6)
	enough := seed%2 == 1
	if !enough { // as when stores are lost
		cfg.Room = marksAt(1200, 1210, 1210, 1e6)
	}
	var worlds []*World
	must := func(w *World, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d, %d used: %v: %+v", seed, cfg.Room.Used(), err, w.Owner().Core.Stats())
		}
	}
	for i := range disks {
		c := cfg
		c.Seed = seed*100 + uint64(i)
		w := New(c)
		w.MayFail = true
		worlds = append(worlds, w)
	}
	hears := seed&2 != 0 // else metad hears nothing
	for range 150 {
		for _, w := range worlds {
			must(w, w.Run(20))
			if hears && w.chance(0.1) {
				w.tellFull()
			}
		}
	}
	if enough {
		for _, w := range worlds {
			must(w, w.Until(w.packed))
		}
		if n := cfg.Room.Refused; n[storeproto.RoomFresh] == 0 || n[storeproto.RoomPack]+n[storeproto.RoomReserve] > 0 {
			t.Fatalf("seed %d: refused %v, of pack, fresh, reserve, pages", seed, n)
		}
	}
	for _, w := range worlds {
		must(w, w.Settle())
		r := w.trimAll(w.Owner())
		must(w, w.Until(func() bool { return r.Ended() && w.packed() && w.Slots() < 32 })) // some pages
		must(w, r.Err)
	}
	for _, w := range worlds {
		if hears {
			w.tellFull()
		}
		w.pass(refusalMax) // where metad says nothing it may take as long
		w.Quiesce()
		r := w.Write(w.Owner(), 0, blk)
		must(w, w.Until(r.Ended))
		must(w, r.Err)
		must(w, w.ReadAll())
		w.Check()
		must(w, w.Err())
	}
}

// packed tells that nothing is under way and nothing unpacked.
func (w *World) packed() bool {
	o := w.Owner()
	return w.requests == 0 && o.Opened && !o.Ended && o.Core.Stats().UnpackedBytes == 0
}

// refusalMax is the longest that a volume believes a refusal.
const refusalMax = 5 * time.Minute
