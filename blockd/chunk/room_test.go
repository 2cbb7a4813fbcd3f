package chunk

import (
	"errors"
	"testing"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

var roomGeneration = id.Generation{Epoch: 3, N: 1}

// roomy opens a store of the capacity, and gives what fills it with shards of one unit, until it refuses.
func roomy(t *testing.T, capacity int64) (*Store, func(storeproto.Room) id.Sequence) {
	t.Helper()
	fs := vfs.NewCrash()
	if _, err := Format("/store", testFormat(fs)); err != nil {
		t.Fatal(err)
	}
	s, err := Open("/store", Options{FS: fs, Clock: clock.NewManual(), CapacityBytes: capacity})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	n := id.Sequence(0)
	return s, func(room storeproto.Room) (took id.Sequence) {
		for {
			n++
			p := storetest.Shard(id.MakeSegment(n, 1), roomGeneration, 0, 16, 1)
			p.Room = room
			if err := storetest.Put(s, p); err != nil {
				if !errors.Is(err, errs.ErrNoSpace) {
					t.Fatalf("put for %s: %v", room, err)
				}
				return took
			}
			took++
		}
	}
}

// Without this what was acknowledged when the last store called itself full would have no room: the journals may
// hold more than is between the two marks of a small store.
func TestWhatJournalsHoldFitsWhenAStoreIsFull(t *testing.T) {
	s, fill := roomy(t, 12<<20)
	_, err := storetest.Next(s, journal, storetest.Batch(3, 1, 1, 1, 0))
	want(t, "append", err, nil)
	s.checkSpace()
	if fill(storeproto.RoomFresh) == 0 || !s.Stats().FullShards || s.Stats().FreeBytes != 0 {
		t.Fatalf("%+v", s.Stats())
	}
	kept := s.journalBytesMax() + extent.Unit // one stream
	if got := int64(fill(storeproto.RoomPack)) * extent.Unit; got < kept-2*extent.Unit || got > kept+extent.Unit {
		t.Errorf("room for %d bytes after the store called itself full, want %d", got, kept)
	}
}

// Without this packing could take what is kept back for what gives space back, and the cluster stay full.
func TestEachKindOfPutHasItsMark(t *testing.T) {
	s, fill := roomy(t, 24<<20)
	for _, room := range []storeproto.Room{storeproto.RoomFresh, storeproto.RoomPack, storeproto.RoomReserve, storeproto.RoomPages} {
		if fill(room) == 0 {
			t.Errorf("nothing is kept back for %s", room)
		}
		if at := s.Stats(); at.UsedBytes > at.CapacityBytes/1000*marks[room] {
			t.Errorf("%s fills the store to %d of %d", room, at.UsedBytes, at.CapacityBytes)
		}
	}
	for room := range storeproto.Room(storeproto.Rooms) {
		if fill(room) != 0 {
			t.Errorf("%s has room when all is taken", room)
		}
	}
	_, err := storetest.Next(s, storetest.Stream(3, 1, storeproto.Meta), storetest.Batch(3, 1, 1, 0, 0))
	want(t, "commit on a full store", err, nil)
}

// Without this the room of a dropped shard would be given away while a crash could bring the shard back.
func TestRoomOfADroppedShardIsTakenUntilItsDeletionIsConfirmed(t *testing.T) {
	s, fill := roomy(t, 12<<20)
	fill(storeproto.RoomPack)
	before := s.used()
	d := storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3, Segments: []storeproto.SegmentGeneration{{Segment: id.MakeSegment(1, 1), Generation: roomGeneration}}}
	s.deleting.Lock() // the deletion cannot end
	done := make(chan error)
	go func() { done <- s.DeleteShards(t.Context(), d) }()
	if s.used() != before || fill(storeproto.RoomPack) != 0 {
		t.Errorf("room is given away before the deletion is confirmed")
	}
	s.deleting.Unlock()
	want(t, "delete", <-done, nil)
	if s.used() != before-extent.Unit || fill(storeproto.RoomPack) != 1 {
		t.Errorf("the room of a deleted shard is not back: %d used, %d before", s.used(), before)
	}
}
