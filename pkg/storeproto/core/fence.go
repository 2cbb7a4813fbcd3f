package core

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Fencing is one Fence on its way. The sender sets Req and Done.
type Fencing struct {
	Req    storeproto.Fence
	Naming uint64 // under which leases name it

	Err   error
	Reply storeproto.FenceReply
	Done  func(*Fencing)

	durable bool
	// waits are the hosts that may still count a grant, and until when by the
	// store's clock.
	waits map[id.Host]time.Duration
}

// Control is any other request that passes through the queue. The sender sets
// Done and, where it has none of its own, what the shell needs to write.
type Control struct {
	Shard any // of OpShard: the shell's own
	Data  any // the sender's own

	Dropped    []Row       // of OpDrop
	DropEpoch  id.Epoch    // of OpDrop
	Tombstones []Tombstone // of OpTombstones
	Pruned     []Tombstone // of OpTombstones: to be forgotten
	PGs        []PGVersion // of OpPG

	Err  error
	Done func(*Control)

	gone []*Stream
}

// Fence admits a fence: from here on lower epochs are refused, every lease
// answered to another host names the volume, and held ones are answered now. The
// answer comes when the fence is durable and no host of Prior can count a grant
// for the volume any more (see waitsFor).
func (c *Core) Fence(now time.Duration, f *Fencing) {
	op := c.newOp()
	op.Fence = f
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	r := &f.Req
	vol := c.volume(r.Volume)
	op.vol = vol
	switch known := c.knownHolder(r.By); {
	case r.Epoch == 0 || len(r.By.Host) > id.HostMax:
		op.Err = fmt.Errorf("fence at %s by %q: %w", r.Epoch, r.By, errs.ErrInvalid)
	case r.Epoch < vol.fence:
		op.Err = fmt.Errorf("fence at %s, fenced at %s: %w", r.Epoch, vol.fence, errs.ErrStaleEpoch)
	case known > r.By.Number:
		op.Err = fmt.Errorf("fence by %s, a later life has number %d: %w", r.By, known, errs.ErrStaleEpoch)
	case r.Epoch == vol.fence && r.By != vol.by:
		op.Err = fmt.Errorf("fence at %s, which belongs to %s: %w", r.Epoch, vol.by, errs.ErrConflict)
	}
	if op.Err != nil {
		c.enqueue(op)
		return
	}
	c.noteHolder(r.By)
	if r.Epoch > vol.fence {
		c.naming++
		vol.fence, vol.by, vol.naming = r.Epoch, r.By, c.naming
		c.nameVolume(vol)
		c.answerHeld(now, r.By.Host)
	}
	f.Naming = vol.naming
	f.waits = c.waitsFor(now, vol, r)
	c.fences = append(c.fences, f)
	c.timerChanged = true
	op.Kind = OpFence
	c.enqueue(op)
}

// waitsFor gives the hosts of Prior that may still count a grant for the volume.
// By's own host cannot: its earlier lives are proven dead. A host that released
// the volume under the epoch right before this one, or a later one, cannot; an
// earlier release says nothing of a term as owner that this store never heard of.
// Any other may, until the last grant that this store gave it has run out, or,
// since the store does not know what it granted before its own start, until one
// term after that.
func (c *Core) waitsFor(now time.Duration, vol *volume, r *storeproto.Fence) map[id.Host]time.Duration {
	var waits map[id.Host]time.Duration
	for _, host := range r.Prior {
		if host == r.By.Host {
			continue
		}
		if at, ok := vol.released[host]; ok && at+1 >= r.Epoch {
			continue
		}
		until := c.cfg.Started + c.cfg.LeaseTerm
		if h := c.holders[host]; h != nil {
			if h.acked >= vol.naming {
				continue
			}
			if h.young {
				until = 0
			}
			until = max(until, h.expiry)
		}
		if until > now {
			if waits == nil {
				waits = make(map[id.Host]time.Duration)
			}
			waits[host] = until
		}
	}
	return waits
}

// fenced tells that f is durable.
func (c *Core) fenced(f *Fencing) {
	f.durable = true
	vol := c.volume(f.Req.Volume)
	for s, at := range vol.dropped {
		if at < f.Req.Epoch {
			delete(vol.dropped, s)
		}
	}
	vol.pruneTombstones(f.Req.Epoch)
	c.answerFences()
}

// answerFences answers every fence that waits for nothing any more.
func (c *Core) answerFences() {
	c.fences = slices.DeleteFunc(c.fences, func(f *Fencing) bool {
		if !f.durable || len(f.waits) > 0 {
			return false
		}
		c.answerFence(f)
		return true
	})
}

func (c *Core) answerFence(f *Fencing) {
	vol := c.volume(f.Req.Volume)
	if vol.fence > f.Req.Epoch {
		f.Err = fmt.Errorf("fence at %s, fenced at %s meanwhile: %w", f.Req.Epoch, vol.fence, errs.ErrStaleEpoch)
		c.replies = append(c.replies, Reply{Fence: f})
		return
	}
	f.Reply = storeproto.FenceReply{Store: c.cfg.Store, Incarnation: c.cfg.Incarnation}
	for _, s := range vol.streams {
		st := s.state()
		f.Reply.Streams = append(f.Reply.Streams, st)
		f.Reply.Lossy = f.Reply.Lossy || st.Lossy
	}
	slices.SortFunc(f.Reply.Streams, func(a, b storeproto.StreamState) int {
		switch {
		case a.Stream.Ensemble.Less(b.Stream.Ensemble):
			return -1
		case b.Stream.Ensemble.Less(a.Stream.Ensemble):
			return 1
		}
		return int(a.Stream.Kind) - int(b.Stream.Kind)
	})
	c.replies = append(c.replies, Reply{Fence: f})
}

// Confirm decides at once: nil unless a fence above the epoch was admitted.
func (c *Core) Confirm(v id.Volume, e id.Epoch) error {
	if c.dead != nil {
		return c.dead
	}
	if vol := c.volumes[v]; vol != nil && vol.fence > e {
		return fmt.Errorf("confirm %s, fenced at %s: %w", e, vol.fence, errs.ErrStaleEpoch)
	}
	return nil
}

// Release records that r.By serves the volume no more under epochs up to
// r.Epoch, and answers in turn.
func (c *Core) Release(r storeproto.Release, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	// A word from a life that is followed by another says nothing about the later one.
	if known := c.knownHolder(r.By); r.By.Number >= known && r.Epoch != 0 && len(r.By.Host) <= id.HostMax {
		c.noteHolder(r.By)
		vol := c.volume(r.Volume)
		if vol.released == nil {
			vol.released = make(map[id.Host]id.Epoch)
		}
		vol.released[r.By.Host] = max(vol.released[r.By.Host], r.Epoch)
		for _, f := range c.fences {
			if f.Req.Volume == r.Volume && r.Epoch+1 >= f.Req.Epoch {
				delete(f.waits, r.By.Host)
			}
		}
		c.answerFences()
	}
	op.vol = c.volumes[r.Volume]
	c.enqueue(op)
}

// Drop forgets streams, see storeproto.Drop. A drop below the fence is ErrStaleEpoch.
func (c *Core) Drop(d storeproto.Drop, ctl *Control) {
	if vol := c.volumes[d.Volume]; c.dead == nil && vol != nil && d.Epoch < vol.fence {
		op := c.newOp()
		op.vol = vol
		op.Control, op.Err = ctl, fmt.Errorf("drop under %s, fenced at %s: %w", d.Epoch, vol.fence, errs.ErrStaleEpoch)
		c.enqueue(op)
		return
	}
	c.Forget(d, ctl)
}

// Forget is Drop without regard for the fence: for volumes that are deleted, by
// the word of metad.
func (c *Core) Forget(d storeproto.Drop, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	vol := c.volumes[d.Volume]
	op.vol = vol
	if vol == nil || d.Epoch == 0 {
		c.enqueue(op)
		return
	}
	ctl.DropEpoch = d.Epoch
	vol.streams = slices.DeleteFunc(vol.streams, func(s *Stream) bool {
		ens := s.row.Stream.Ensemble
		if ens.Epoch > d.Epoch || slices.Contains(d.Keep, ens) || newerThanKept(d.Keep, ens) {
			return false
		}
		s.dropped = true
		delete(c.streams, s.row.Stream)
		if vol.dropped == nil {
			vol.dropped = make(map[storeproto.Stream]id.Epoch)
		}
		vol.dropped[s.row.Stream] = d.Epoch
		ctl.Dropped = append(ctl.Dropped, s.row)
		ctl.gone = append(ctl.gone, s)
		return true
	})
	if len(ctl.gone) > 0 {
		op.Kind = OpDrop
	}
	c.enqueue(op)
}

// newerThanKept: an ensemble that came after those of a drop's list is not the
// drop's to take, or a late one would destroy what it never knew.
func newerThanKept(keep []id.Ensemble, ens id.Ensemble) bool {
	for _, k := range keep {
		if !k.Less(ens) {
			return false
		}
	}
	return len(keep) > 0
}

func (c *Core) droppedDurable(ctl *Control) {
	for _, s := range ctl.gone {
		c.forget(s, len(s.batches()))
	}
	ctl.gone = nil
}
