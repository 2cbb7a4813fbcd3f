package coretest

import (
	"fmt"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Room is what the stores of one or more worlds have together, in blocks of segments. It refuses
// segments by bytes, as a store does (blockd/chunk): each kind of put has its mark, and new bytes none
// above theirs until the stores are a hundredth below it again.
type Room struct {
	Marks   [storeproto.Rooms]int
	Refused [storeproto.Rooms]int // segments
	worlds  []*World
	full    bool
}

// Used is what the segments take, those that are dropped and not deleted yet, too.
func (r *Room) Used() (n int) {
	for _, w := range r.worlds {
		n += w.Slots()
	}
	return n
}

// CallsFull tells whether the stores call themselves full.
func (r *Room) CallsFull() bool {
	mark := r.Marks[storeproto.RoomFresh]
	if r.full {
		mark -= mark / 100
	}
	r.full = r.Used() > mark
	return r.full
}

// admit refuses a segment that there is no room for.
func (w *World) admit(j *core.PackJob) error {
	r := w.cfg.Room
	if r == nil {
		return nil
	}
	fresh := j.Room == storeproto.RoomFresh
	if fresh && r.CallsFull() || !fresh && r.Used()+len(j.Blocks) > r.Marks[j.Room] {
		r.Refused[j.Room]++
		return fmt.Errorf("segment of %d blocks, %d used, room for %s: %w", len(j.Blocks), r.Used(), j.Room, errs.ErrNoSpace)
	}
	return nil
}

// fullStores are those that refuse: they fill up alike.
func (w *World) fullStores() (out []id.Store) {
	for _, s := range w.Stores {
		out = append(out, s.ID())
	}
	return out
}

// tellFull lets metad hear how full the stores are.
func (w *World) tellFull() {
	full := w.cfg.Room.CallsFull()
	for _, s := range w.Metad.Topology().Stores {
		if s.State == cluster.StoreUp && s.Full != full {
			w.Metad.MarkFull(s.Store, full)
		}
	}
}
