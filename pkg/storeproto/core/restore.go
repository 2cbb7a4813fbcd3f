package core

import (
	"slices"
	"sort"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// FenceRow is what a shell persists of a fence.
type FenceRow struct {
	Volume id.Volume
	Epoch  id.Epoch
	By     id.Holder
	Naming uint64
}

// Row is what the shell persists of f.
func (f *Fencing) Row() FenceRow {
	return FenceRow{Volume: f.Req.Volume, Epoch: f.Req.Epoch, By: f.Req.By, Naming: f.Naming}
}

// The Restore functions fill a new core with what the shell found on disk, before
// anything else is called: fences, drops, tombstones, PG versions and streams in
// any order, then Restored.

// RestoreFence puts a fence back in force.
func (c *Core) RestoreFence(r FenceRow) {
	vol := c.volume(r.Volume)
	vol.fence, vol.by, vol.naming = r.Epoch, r.By, r.Naming
	c.named = append(c.named, namedEntry{r.Naming, vol})
}

// RestoreDropped keeps a dropped stream from coming back.
func (c *Core) RestoreDropped(name storeproto.Stream, at id.Epoch) {
	vol := c.volume(name.Volume)
	if vol.dropped == nil {
		vol.dropped = make(map[storeproto.Stream]id.Epoch)
	}
	vol.dropped[name] = at
}

// RestoreTombstone puts a tombstone back.
func (c *Core) RestoreTombstone(t Tombstone) {
	vol := c.volume(t.Volume)
	if vol.tombstones == nil {
		vol.tombstones = make(map[id.Segment]tombstone)
	}
	vol.tombNext++
	vol.tombstones[t.Segment] = tombstone{epoch: t.Epoch, generation: t.Generation, number: vol.tombNext}
	vol.tombOrder = append(vol.tombOrder, tombEntry{t.Segment, vol.tombNext})
}

// RestorePG puts a group's version back.
func (c *Core) RestorePG(v PGVersion) { c.pgs[v.PG] = v.Version }

// Recovered is one stream as a shell found it.
type Recovered struct {
	Row Row
	// Tail is the highest LSN that is known to have been durable; zero if nothing is known.
	Tail id.LSN
	// TailLost: synced records may be missing after the last batch found.
	TailLost bool
	// Batches in any order. The same batch may be there twice, at two places; the later one is kept.
	Batches []Batch
}

// RestoreStream puts a stream back and judges what is missing: every LSN above
// Released up to the tail must be in a batch. What is not there was durable once
// and is lost: the stream is marked lossy up to the end of the gap, never cut. It
// tells whether the row changed, and then must be persisted before the store serves.
func (c *Core) RestoreStream(r Recovered) (changed bool) {
	if c.streams[r.Row.Stream] != nil {
		panic("core: a stream is restored twice")
	}
	s := c.addStream(r.Row)
	sort.SliceStable(r.Batches, func(i, j int) bool { return r.Batches[i].First < r.Batches[j].First })
	next := s.tail + 1 // the first LSN that must be there
	before := s.row.LossyTo
	for _, b := range r.Batches {
		if n := len(s.all); n > 0 && s.all[n-1].First == b.First {
			s.all[n-1].Pos = b.Pos
			continue
		}
		if b.Last() < next {
			continue
		}
		if b.First > next {
			s.row.LossyTo = max(s.row.LossyTo, b.First-1)
		}
		s.all = append(s.all, b)
		next = b.Last() + 1
		s.epoch = b.Epoch
		if r.Row.Stream.Kind == storeproto.Journal {
			c.journalBytes += int64(b.Bytes)
		}
	}
	if r.Tail >= next {
		s.row.LossyTo = max(s.row.LossyTo, r.Tail)
	}
	if r.TailLost {
		s.row.LossyTo = LossUnknown
	}
	s.tail, s.durable = next-1, next-1
	return s.row.LossyTo != before
}

// Restored ends the restore.
func (c *Core) Restored() {
	slices.SortFunc(c.named, func(a, b namedEntry) int {
		switch {
		case a.naming < b.naming:
			return -1
		case a.naming > b.naming:
			return 1
		}
		return 0
	})
	for _, vol := range c.volumes {
		for name, at := range vol.dropped {
			if at < vol.fence {
				delete(vol.dropped, name)
			}
		}
		vol.pruneTombstones(vol.fence)
	}
}

// Volumes calls f for every volume with a fence or a stream, in no order.
func (c *Core) Volumes(f func(v VolumeState)) {
	for _, vol := range c.volumes {
		v := VolumeState{Volume: vol.id, Fence: vol.fence, By: vol.by}
		for _, s := range vol.streams {
			v.Streams = append(v.Streams, s.state())
		}
		if v.Fence != 0 || len(v.Streams) > 0 {
			f(v)
		}
	}
}

// VolumeState is what the store has of a volume.
type VolumeState struct {
	Volume  id.Volume
	Fence   id.Epoch
	By      id.Holder
	Streams []storeproto.StreamState
}
