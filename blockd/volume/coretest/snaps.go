package coretest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snap is a snapshot as its client knows it.
type Snap struct {
	ID           id.Raw
	begun, ended uint64 // its mark lies between; ended 0: the outcome is unknown
	state        snapState
	seen         map[uint64]uint64 // what a cell was read as, once: it never changes
	clones       int               // that may still read it
	model        *Model            // what the disk was when it was taken
}

type snapState uint8

const (
	snapAsked snapState = iota // unknown whether it is there
	snapMade
	snapDropping
	snapGone   // dropped, or never made
	snapHidden // dropped, and clones still need it
)

// Mark takes a snapshot on an engine.
func (w *World) Mark(e *Engine) (*Snap, *Request) {
	s := &Snap{ID: id.Raw{1, 15: byte(len(w.Snaps)), 14: byte(len(w.Snaps) >> 8)}, begun: w.Model.tick(), seen: make(map[uint64]uint64), model: w.Model}
	w.Snaps = append(w.Snaps, s)
	return s, w.markAgain(e, s)
}

func (w *World) markAgain(e *Engine, s *Snap) *Request {
	r := &Request{snap: s, op: core.Op{Kind: core.OpMark, Snapshot: s.ID}}
	w.send(e, r)
	return r
}

// marked: the mark of a snapshot came back.
func (w *World) marked(s *Snap, err error) {
	if err == nil && s.state == snapAsked {
		s.ended, s.state = w.Model.tick(), snapMade
		w.Taken++
	}
}

// ReadSnapshot reads blocks of a snapshot.
func (w *World) ReadSnapshot(e *Engine, s *Snap, off, n uint64) *Request {
	first, end := off/block.Size, (off+n+block.Size-1)/block.Size
	r := &Request{off: first * block.Size, n: (end - first) * block.Size, snap: s}
	r.op = core.Op{Kind: core.OpRead, Snapshot: s.ID, Extent: block.Extent{Start: block.LBA(first), Count: uint32(end - first)}}
	w.send(e, r)
	return r
}

// readSnapshot judges the answer of a read of a snapshot: as a read of the disk at the
// time of its mark would have been, and the same whenever it is read.
func (w *World) readSnapshot(e *Engine, r *Request) {
	s := r.snap
	if err := r.Err; err != nil {
		away := errors.Is(err, errs.ErrStaleEpoch) || errors.Is(err, errs.ErrClosed)
		if !away && s.state == snapMade && e == w.Owner() {
			w.Fail(fmt.Errorf("%s: read of snapshot %x at %d: %w", e.name, s.ID, r.off, err))
		}
		return
	}
	for i := 0; i < len(r.data); i += Cell {
		c := r.off/Cell + uint64(i/Cell)
		tag := binary.LittleEndian.Uint64(r.data[i:])
		for j := 8; j < Cell; j += 8 {
			if t := binary.LittleEndian.Uint64(r.data[i+j:]); t != tag {
				w.Fail(fmt.Errorf("snapshot %x: cell %d is torn: %d and %d", s.ID, c, tag, t))
				return
			}
		}
		if was, ok := s.seen[c]; ok && was != tag {
			w.Fail(fmt.Errorf("%s: snapshot %x: cell %d (block %d) was %d and is %d", e.name, s.ID, c, c/8, was, tag))
			return
		} else if !ok {
			if err := cmp.Or(s.model, w.Model).then(c, tag, s.begun, s.ended); err != nil {
				w.Fail(fmt.Errorf("%s: snapshot %x: %w", e.name, s.ID, err))
				return
			}
		}
		s.seen[c] = tag
	}
}

// then tells whether a cell can have been tag at some time between begun and ended; 0: or until now.
func (m *Model) then(i, tag, begun, ended uint64) error {
	c := m.cell(i)
	if c == nil {
		if tag != 0 {
			return fmt.Errorf("cell %d (block %d) was %d: nobody ever wrote there", i, i/8, tag)
		}
		return nil
	}
	why := errors.New("nobody wrote it here")
	for j := range c.writes {
		switch x := &c.writes[j]; {
		case x.Tag != tag:
		case ended != 0 && x.begun > ended:
			why = errors.New("it was written after the snapshot")
		default:
			if why = c.refuses(x, begun); why == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("cell %d (block %d) was %d: %w", i, i/8, tag, why)
}

// Drop asks for a snapshot to be deleted, until it is: as metad does, not before its last clone is gone.
func (w *World) Drop(s *Snap) {
	if s.state = snapDropping; s.clones > 0 {
		s.state = snapHidden
	}
	w.log("snapshot %x is dropped", s.ID)
}

// askDrops is what a shell does that was told by metad.
func (e *Engine) askDrops() {
	if e != e.w.Owner() {
		return
	}
	for _, s := range e.w.Snaps {
		if s.state == snapDropping {
			e.step(func(now time.Duration, fx *core.Effects) { e.Core.DropSnapshot(now, s.ID, fx) })
		}
	}
}

// gone: nothing is left of a snapshot.
func (w *World) gone(e *Engine, x id.Raw) {
	for _, s := range w.Snaps {
		if s.ID == x && s.state != snapGone {
			if s.state != snapDropping {
				w.Fail(fmt.Errorf("%s deleted snapshot %x, which nobody dropped", e.name, x))
			}
			s.state = snapGone
			w.Dropped++
		}
	}
}

// checkSnaps compares what a new owner has with what was promised.
func (w *World) checkSnaps(e *Engine) {
	have := e.Core.Snapshots()
	for _, s := range w.Snaps {
		there := slices.Contains(have, s.ID)
		switch {
		case (s.state == snapMade || s.state == snapHidden) && !there:
			w.Fail(fmt.Errorf("%s has lost snapshot %x", e.name, s.ID))
		case s.state == snapGone && there:
			w.Fail(fmt.Errorf("%s has snapshot %x, which is deleted", e.name, s.ID))
		case s.state == snapAsked && there:
			w.marked(s, nil)
		}
	}
}

// snapStep does one random thing with snapshots.
func (w *World) snapStep() {
	e := w.Owner()
	var made []*Snap
	for _, s := range w.Snaps {
		if s.state == snapMade || s.state == snapAsked {
			made = append(made, s)
		}
	}
	if e.dead || !e.Opened {
		return
	}
	n := w.rng.IntN(12)
	switch {
	case w.retired != nil && (len(made) == 0 || n == 2):
		return // nobody takes one of a deleted disk
	case len(made) == 0 || n == 0 && len(made) < 8 && w.retired == nil:
		w.Mark(e)
	case n == 1 || len(made) > 8:
		w.Drop(made[w.rng.IntN(len(made))])
	case n == 2:
		if s := made[w.rng.IntN(len(made))]; s.state == snapAsked {
			w.markAgain(e, s)
		}
	default:
		if w.chance(w.cfg.ToZombies) {
			e = w.Engines[w.rng.IntN(len(w.Engines))]
		}
		if off, n := w.extent(); !e.dead && e.Opened && e.opener == nil {
			if s := made[w.rng.IntN(len(made))]; s.state == snapMade {
				w.ReadSnapshot(e, s, off, n)
			}
		}
	}
}

// ReadSnapshots reads all of every snapshot.
func (w *World) ReadSnapshots() error {
	for _, s := range w.Snaps {
		if s.state != snapMade {
			continue
		}
		if err := w.readSnap(s); err != nil {
			return err
		}
	}
	return nil
}
