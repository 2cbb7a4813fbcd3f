package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// usage is what the segment table adds up to, looked at now and then.
type usage struct {
	at        time.Duration
	known     bool
	Segments  int    // of data, with something live in them
	Slots     uint64 // kept in these
	Small     int    // of these segments, with little alive
	Live      uint64 // of these
	Dead      int    // segments of data or pages with nothing live
	DeadSlots uint64 // kept in these
	Pages     uint64 // slots of segments of pages that have something live
	// PagesStored and PagesLive are the same of segments that no snapshot has anything in.
	PagesStored uint64
	PagesLive   uint64
	newest      id.Sequence
}

// measureEvery is the pause between two looks at the table, for each measureSegments
// segments in it: some 5 ns each.
const (
	measureEvery    = time.Second
	measureSegments = 1 << 18
)

// measure adds the table up anew if that was long ago.
func (c *Core) measure(now time.Duration) {
	pause := measureEvery * time.Duration(1+c.table.Len()/measureSegments)
	if c.usage.known && now-c.usage.at < pause {
		return
	}
	u := usage{at: now, known: true}
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		u.newest = s.Sequence()
		switch {
		case e.Live == 0:
			u.Dead++
			u.DeadSlots += uint64(e.Stored())
		case e.Flags&blockmap.Pages != 0:
			u.Pages += uint64(e.Stored())
			if !c.shared(s) {
				u.PagesStored += uint64(e.Stored())
				u.PagesLive += uint64(e.Live)
			}
		default:
			u.Segments++
			u.Slots += uint64(e.Stored())
			u.Live += uint64(e.Live)
			if int(e.Live) < c.cfg.Limits.MergeBelow && !c.shared(s) {
				u.Small++
			}
		}
		return true
	})
	c.usage = u
}

// liveBytes is what lives in segments of data.
func (u *usage) liveBytes() int64 { return int64(u.Live) * block.Size }
