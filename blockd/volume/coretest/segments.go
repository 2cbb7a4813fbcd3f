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

// segments stands for all stores of all placement groups: whole segments by name.
type segments struct {
	w     *World
	at    map[id.Segment]*kept
	tombs map[id.Segment]bool
}

type kept struct {
	entry  blockmap.Entry
	blocks []byte
}

// put makes a segment durable. Its group must still be the one it was made for.
func (s *segments) put(e id.Epoch, name id.Segment, entry blockmap.Entry, j *core.PackJob) error {
	s.w.Puts++
	if g, ok := s.w.Metad.Topology().PG(name.PG()); !ok || g.Current().Version != entry.PGVersion {
		return fmt.Errorf("put into an old version of group %d: %w", name.PG(), errs.ErrStaleEpoch)
	}
	if s.at[name] != nil || s.tombs[name] {
		s.w.Fail(fmt.Errorf("segment %s is put again", name))
	}
	if entry.Generation.Epoch != e {
		s.w.Fail(fmt.Errorf("segment %s of %s is put by %s", name, entry.Generation, e))
	}
	k := &kept{entry: entry, blocks: make([]byte, len(j.Blocks)*block.Size)}
	for i := range j.Blocks {
		to := k.blocks[i*block.Size:][:block.Size]
		if j.Encode != nil {
			j.Encode(i, to)
		} else {
			copy(to, j.Blocks[i].Data)
		}
	}
	s.verify(j)
	s.at[name] = k
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

func (s *segments) read(l id.Location, n int, dst []byte) error {
	k := s.at[l.Segment()]
	if k == nil {
		return fmt.Errorf("read segment %s: %w", l.Segment(), errs.ErrNotFound)
	}
	at := int(l.Slot()) * block.Size
	if len(dst) != n*block.Size || at+len(dst) > len(k.blocks) {
		s.w.Fail(fmt.Errorf("read %d slots at %v of a segment of %d", n, l, len(k.blocks)/block.Size))
		return errs.ErrInvalid
	}
	copy(dst, k.blocks[at:])
	return nil
}

func (s *segments) delete(name id.Segment) {
	delete(s.at, name)
	s.tombs[name] = true
}
