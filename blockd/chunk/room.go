package chunk

import (
	"fmt"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// Marks of a filling disk, in parts of a thousand of the capacity or of the file system, whichever is
// tighter. Above fullMark, or where less than kept is left below packMark, the store calls itself full:
// engines take no new bytes for it. It does so until it is a hundredth below: what a cleaner frees and
// packs again must not turn it to and fro. What was acknowledged is packed below packMark, what gives
// space back below reserveMark, pages of checkpoints below pagesMark. Above metaMark no meta append is
// taken: what is left is the index's own, so that it can delete.
const (
	fullMark    = 930
	packMark    = 950
	reserveMark = 970
	pagesMark   = 980
	metaMark    = 990
	calmMark    = 10
)

// marks says how far each kind of put may go.
var marks = [storeproto.Rooms]int64{
	storeproto.RoomPack: packMark, storeproto.RoomFresh: packMark, storeproto.RoomReserve: reserveMark, storeproto.RoomPages: pagesMark,
}

// kept is the room below packMark for what was acknowledged and is not packed yet. Such bytes are in the
// journals of two stores at least, mostly three, and in shards take no more than that; so what is in all
// journals fits into as much room as all journals may hold. Of each disk the last segment may be small,
// so a unit is kept for each of its streams, too. Of a store whose log leaves little beside it a
// quarter of that is kept, which may be less; DESIGN.md, Full disk, says which.
func (s *Store) kept() int64 {
	beside := s.capacity()/1000*packMark - int64(s.ident.LogFilesMax)*s.ident.LogFileBytes
	return max(min(s.journalBytesMax()+s.count.streams.Load()*extent.Unit, beside/4), 0)
}

// left is the room below a mark, less some; perhaps negative.
func (s *Store) left(mark, less int64) int64 {
	left := int64(1) << 62
	if c := s.capacity(); c > 0 {
		left = c/1000*mark - s.used()
	}
	if total := s.count.fsTotal.Load(); total > 0 {
		left = min(left, s.count.fsAvailable.Load()-total/1000*(1000-mark))
	}
	return left - less
}

// over tells whether a mark is passed.
func (s *Store) over(mark int64) bool { return s.left(mark, 0) < 0 }

// fresh is the room until the store calls itself full, or is no longer full when lower is calmMark.
func (s *Store) fresh(lower int64) int64 {
	return min(s.left(fullMark-lower, 0), s.left(packMark-lower, s.kept()))
}

// free is what is left until the store calls itself full.
func (s *Store) free() int64 { return max(s.fresh(0), 0) }

// callsFull tells whether the store calls itself full.
func (s *Store) callsFull() bool {
	lower := int64(0)
	if s.count.callsFull.Load() {
		lower = calmMark
	}
	full := s.fresh(lower) < 0
	s.count.callsFull.Store(full)
	return full
}

// admitRoom refuses a put that the store is too full for, before its bytes are written.
func (s *Store) admitRoom(req *storeproto.PutShard) error {
	if req.Room == storeproto.RoomFresh && s.callsFull() || req.Room >= storeproto.Rooms || s.over(marks[req.Room]) {
		return fmt.Errorf("put shard of %s, room for %s: %w", req.Head.Segment, req.Room, errs.ErrNoSpace)
	}
	return nil
}

// allocate gives a shard its place, below the mark of its kind of put.
func (s *Store) allocate(bytes int64, kind storeproto.Room) (extent.Place, error) {
	bytes = (bytes + extent.Unit - 1) / extent.Unit * extent.Unit
	room := int64(1) << 40 / s.ext.bytes
	if c := s.capacity(); c > 0 {
		left := c/1000*marks[kind] - s.used()
		if left < bytes {
			return nil, fmt.Errorf("room for %d bytes, %d of %d used: %w", bytes, s.used(), c, errs.ErrNoSpace)
		}
		units, _ := s.ext.alloc.Used()
		// Enough files for all that may be used, and one to spare for the fragments.
		room = (left+units*extent.Unit+s.ext.bytes-1)/s.ext.bytes + 1
	}
	return s.ext.allocate(bytes, room)
}
