package coretest

import (
	"fmt"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// segments stands for all stores of all placement groups: whole generations by name.
type segments struct {
	w     *World
	at    map[id.Segment]map[id.Generation]*kept
	tombs map[id.Segment]id.Generation
	of    map[id.Segment]id.Volume // whose it is
}

type kept struct {
	entry   blockmap.Entry
	entries []uint64 // of all slots; zero: dropped
	blocks  map[uint16][]byte
}

// put makes a generation durable. Its group must still be the one it was made for.
func (s *segments) put(e id.Epoch, name id.Segment, entry blockmap.Entry, j *core.PackJob) error {
	s.w.Puts++
	if g, ok := s.w.Metad.Topology().PG(name.PG()); !ok || g.Current().Version != entry.PGVersion {
		return fmt.Errorf("put into an old version of group %d: %w", name.PG(), errs.ErrStaleEpoch)
	}
	first := entry.Generation.N == 1 && j.Lane != core.LaneHydrate // all others are rewritten
	if t, ok := s.tombs[name]; ok && !t.Less(entry.Generation) {
		if first {
			s.w.Fail(fmt.Errorf("segment %s is put again", name))
		}
		return fmt.Errorf("put segment %s %s, deleted: %w", name, entry.Generation, errs.ErrNotFound)
	}
	if s.at[name][entry.Generation] != nil || first && s.at[name] != nil {
		s.w.Fail(fmt.Errorf("segment %s %s is put again", name, entry.Generation))
	}
	if entry.Generation.Epoch != e {
		s.w.Fail(fmt.Errorf("segment %s of %s is put by %s", name, entry.Generation, e))
	}
	slots := j.Slots
	for i := range j.Blocks {
		if j.Slots == nil {
			slots = append(slots, j.Blocks[i].Entry)
		}
	}
	k := &kept{entry: entry, entries: slots, blocks: make(map[uint16][]byte)}
	i := 0
	for slot, e := range slots {
		if e == 0 {
			continue
		}
		to := make([]byte, block.Size)
		switch {
		case j.Encode != nil:
			j.Encode(i, to)
		default:
			copy(to, j.Blocks[i].Data)
		}
		k.blocks[uint16(slot)] = to
		i++
	}
	if i != len(j.Blocks) || len(slots) != int(entry.Slots) || i != int(entry.Stored()) {
		s.w.Fail(fmt.Errorf("segment %s has %d blocks in %d slots: %+v", name, i, len(slots), entry))
	}
	s.verify(j)
	if s.at[name] == nil {
		s.of[name] = s.w.volume
		s.at[name] = make(map[id.Generation]*kept)
	}
	s.at[name][entry.Generation] = k
	return nil
}

// verify checks that the bytes of a job are still what they were.
func (s *segments) verify(j *core.PackJob) {
	if j.Encode != nil {
		return
	}
	for i := range j.Blocks {
		if b := &j.Blocks[i]; codec.CRC(b.Data) != b.Sum {
			s.w.Fail(fmt.Errorf("slot %d of segment %s changed while a store was reading it", i, j.Segment))
			return
		}
	}
}

// generation finds one that a table names.
func (s *segments) generation(name id.Segment, w core.Where) (*kept, error) {
	if w.Inherited() {
		return s.inherited(name)
	}
	k := s.at[name][w.Generation]
	if k == nil {
		return nil, fmt.Errorf("read segment %s %s: %w", name, w.Generation, errs.ErrNotFound)
	}
	if e := &k.entry; e.Slots != w.Slots || e.Kept != w.Kept || e.K != w.K || e.M != w.M || e.PGVersion != w.PGVersion {
		s.w.Fail(fmt.Errorf("segment %s %s is %+v, the table says %+v", name, w.Generation, k.entry, w))
	}
	return k, nil
}

// read reads n slots of the generation that a lookup found.
func (s *segments) read(l id.Location, n int, w core.Where, dst []byte) error {
	k, err := s.generation(l.Segment(), w)
	if err != nil {
		return err
	}
	if s.of[l.Segment()] != s.w.volume && !w.Inherited() {
		s.w.Fail(fmt.Errorf("segment %s is volume %x's, and read as its own", l.Segment(), s.of[l.Segment()][0]))
	}
	if len(dst) != n*block.Size || int(l.Slot())+n > len(k.entries) {
		s.w.Fail(fmt.Errorf("read %d slots at %v of a segment of %d", n, l, len(k.entries)))
		return errs.ErrInvalid
	}
	for i := range n {
		b := k.blocks[l.Slot()+uint16(i)]
		if b == nil {
			s.w.Fail(fmt.Errorf("read slot %v+%d, which %s has dropped", l, i, w.Generation))
			return errs.ErrInvalid
		}
		copy(dst[i*block.Size:], b)
	}
	return nil
}

// page reads a page at a location, of whatever generation there is.
func (s *segments) page(l id.Location, dst []byte) bool {
	for _, k := range s.at[l.Segment()] {
		if b := k.blocks[l.Slot()]; b != nil {
			copy(dst, b)
			return true
		}
	}
	return false
}

// delete deletes a generation and all before it.
func (s *segments) delete(name id.Segment, upto id.Generation) {
	if v, ok := s.of[name]; ok && v != s.w.volume {
		s.w.Fail(fmt.Errorf("segment %s of volume %x is deleted by another", name, v[0]))
		return
	}
	for g := range s.at[name] {
		if !upto.Less(g) {
			delete(s.at[name], g)
		}
	}
	if len(s.at[name]) == 0 {
		delete(s.at, name)
	}
	if s.tombs[name].Less(upto) {
		s.tombs[name] = upto
	}
}

// slots counts the blocks that all generations of all segments have.
func (s *segments) slots() (n int) {
	for _, gens := range s.at {
		for _, k := range gens {
			n += len(k.blocks)
		}
	}
	return n
}
