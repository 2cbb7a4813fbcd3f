package coretest

import (
	"bytes"
	"fmt"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
)

// Changes asks an engine what differs from a snapshot since: of the disk, or of the snapshot of if it is
// not nil. It gives the runs of n blocks from at on; fewer if the engine says no more.
func (w *World) Changes(e *Engine, since, of *Snap, at, n block.LBA) *Request {
	r := &Request{begun: w.Model.Reading(), op: core.Op{Kind: core.OpStatus, Since: since.ID, Extent: block.Extent{Start: at, Count: uint32(n)}}}
	if of != nil {
		r.op.Snapshot = of.ID
	}
	w.send(e, r)
	return r
}

// ChangesAll asks for all that differs between any snapshot and what came after it, and compares with
// what they read as: what is not named is the same byte for byte, and what is named may have been written meanwhile.
func (w *World) ChangesAll() error {
	var made []*Snap
	for _, s := range w.Snaps {
		if s.state == snapMade {
			made = append(made, s)
		}
	}
	for i, since := range made {
		for _, of := range append([]*Snap{nil}, made[i:]...) {
			if err := w.changesBetween(since, of); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *World) changesBetween(since, of *Snap) error {
	for at := block.LBA(0); at < w.cfg.Blocks; {
		r := w.Changes(w.Owner(), since, of, at, w.cfg.Blocks-at)
		if err := w.Until(func() bool { return r.ended }); err != nil {
			return err
		}
		if r.Err != nil || len(r.op.Runs) == 0 {
			return fmt.Errorf("changes since %x at %d: %d runs, %w", since.ID, at, len(r.op.Runs), r.Err)
		}
		for _, run := range r.op.Runs {
			for l := at; l < at+block.LBA(run.Count); l++ {
				if err := w.changed(since, of, l, run); err != nil {
					return err
				}
			}
			at += block.LBA(run.Count)
		}
	}
	return nil
}

// changed judges what was said of one block.
func (w *World) changed(since, of *Snap, l block.LBA, run core.Run) error {
	b := w.Model.blocks[uint64(l)]
	switch {
	case b == nil && run.Changed:
		return fmt.Errorf("block %d changed since %x, and nobody ever wrote there", l, since.ID)
	case b == nil:
		return nil
	case run.Changed && !writtenAfter(b, since.begun):
		return fmt.Errorf("block %d changed since %x, and nobody wrote there since", l, since.ID)
	case run.Changed && !run.Hole:
		return nil
	}
	then, err := w.blockOf(since, l)
	if err != nil {
		return err
	}
	now, err := w.blockOf(of, l)
	if err != nil {
		return err
	}
	if run.Changed && !bytes.Equal(now, make([]byte, block.Size)) || !run.Changed && !bytes.Equal(then, now) {
		return fmt.Errorf("block %d, changed %t since %x, hole %t, was %x and is %x", l, run.Changed, since.ID, run.Hole, then[:8], now[:8])
	}
	return nil
}

// writtenAfter tells whether a write of a block may have happened after a time.
func writtenAfter(b *[8]cell, at uint64) bool {
	for i := range b {
		for _, x := range b[i].writes {
			if !x.definite || x.done > at {
				return true
			}
		}
	}
	return false
}

// blockOf reads a block of a snapshot, or of the disk.
func (w *World) blockOf(s *Snap, l block.LBA) ([]byte, error) {
	read := func() *Request {
		if s == nil {
			return w.Read(w.Owner(), uint64(l.Offset()), block.Size)
		}
		return w.ReadSnapshot(w.Owner(), s, uint64(l.Offset()), block.Size)
	}
	r := read()
	if err := w.Until(func() bool { return r.ended }); err != nil {
		return nil, err
	}
	if r.Err != nil {
		return nil, fmt.Errorf("read block %d: %w", l, r.Err)
	}
	return r.data, nil
}
