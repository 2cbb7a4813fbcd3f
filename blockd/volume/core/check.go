package core

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Inspector is what Check needs to know of the world around the core.
type Inspector struct {
	// Page gives the bytes at a location of a page.
	Page func(id.Location) ([]byte, bool)
	// Exists tells whether a generation of a segment is there, Has whether it has a slot; of
	// generation zero: whether any has.
	Exists func(id.Segment, id.Generation) bool
	Has    func(id.Location, id.Generation) bool
	// Packs and Longs are the jobs on their way, LaneLong apart.
	Packs, Longs int
}

// Check counts everything again, from the trees and the operations, and compares
// it with what the core keeps: for the simulator, after any step. It reads pages
// of the map into memory that are not there, and is slow.
func (c *Core) Check(in Inspector) error {
	if c.state == stateFenced || c.state == stateLoading || c.m == nil {
		return nil
	}
	if err := c.checkMemory(in); err != nil {
		return err
	}
	if err := c.checkKnown(); err != nil {
		return err
	}
	held := make(map[id.Location]bool)
	if err := c.countMap(in, held); err != nil {
		return err
	}
	if c.check.running == nil {
		err := walkTree(c.check.root, 0, in, func(l id.Location, _ block.LBA, page bool) {
			if page {
				held[l] = true
			}
		})
		if err != nil {
			return fmt.Errorf("tree of the last checkpoint: %w", err)
		}
	}
	if err := c.countSnapshots(in, held); err != nil {
		return err
	}
	live := make(map[id.Segment]int)
	for l := range held {
		if c.origin.Has(l.Segment()) || c.foreign(l.Segment()) {
			continue // nothing of an ancestor's is counted, nor of what lies in an archive
		}
		live[l.Segment()]++
	}
	return c.checkLive(in, live)
}

// countSnapshots counts what snapshots have, pages too: each location once, whoever else has it.
func (c *Core) countSnapshots(in Inspector, held map[id.Location]bool) error {
	var last id.Sequence
	for i, s := range c.snaps.list {
		var lost error
		err := walkTree(s.Root, 0, in, func(l id.Location, b block.LBA, _ bool) {
			if c.origin.Has(l.Segment()) {
				if !in.Has(l, id.Generation{}) {
					lost = fmt.Errorf("snapshot %d: block %d lies at %v, which no ancestor has", i, b, l)
				}
				return
			}
			held[l] = true
			e, ok := c.table.Get(l.Segment())
			switch {
			case c.foreign(l.Segment()):
			case !ok || !in.Has(l, e.Generation):
				lost = fmt.Errorf("snapshot %d: block %d lies at %v, which %s (%t) has not", i, b, l, e.Generation, ok)
			case l.Segment().Sequence() > s.Watermark:
				lost = fmt.Errorf("snapshot %d: block %d lies at %v, above the watermark %x", i, b, l, s.Watermark)
			}
		})
		if err == nil {
			err = lost
		}
		if err != nil {
			return err
		}
		if s.Watermark <= last || s.Watermark > c.snaps.newest {
			return fmt.Errorf("snapshot %d: watermark %x after %x, the newest is %x", i, s.Watermark, last, c.snaps.newest)
		}
		last = s.Watermark
	}
	return nil
}

// checkMemory compares what is charged with what is held.
func (c *Core) checkMemory(in Inspector) error {
	var sum int64
	seen := make(map[*Op]bool)
	count := func(op *Op) {
		if !seen[op] {
			seen[op] = true
			sum += op.bytes
		}
		if op.ended {
			panic("volume: an operation that has ended is still held")
		}
	}
	for _, ops := range [][]*Op{c.locks.held, c.locks.waiting, c.barriers} {
		for _, op := range ops {
			count(op)
		}
	}
	for _, b := range append(append([]*appendBatch{c.open}, c.queue...), c.inflight...) {
		for op := (*Op)(nil); b != nil; b = nil {
			for op = b.head; op != nil; op = op.next {
				count(op)
			}
		}
	}
	for _, m := range append([]*memtable{c.active}, c.sealed...) {
		sum += m.journalled
	}
	cleaning := 0
	if j := c.clean.job; j != nil && j.phase == cleanPacking {
		cleaning = 1
	}
	for _, j := range c.archive.jobs {
		if j.phase == hydratePacking {
			cleaning++
		}
	}
	for _, j := range c.flatten.jobs {
		if j.phase == flattenPacking {
			cleaning++
		}
	}
	switch {
	case sum != c.unpacked:
		return fmt.Errorf("%d bytes are charged, %d held", c.unpacked, sum)
	case c.packs+cleaning != in.Packs+len(c.retry):
		return fmt.Errorf("%d jobs counted, %d of cleaning, %d on their way, %d to be tried again", c.packs, cleaning, in.Packs, len(c.retry))
	case c.long.running != in.Longs:
		return fmt.Errorf("%d long jobs counted, %d on their way", c.long.running, in.Longs)
	}
	return nil
}

// checkKnown compares the references to segments of long writes with the index records.
func (c *Core) checkKnown() error {
	refs := make(map[id.Segment]int)
	for _, m := range append([]*memtable{c.active}, c.sealed...) {
		for s, d := range m.direct {
			refs[s] += d.records
		}
	}
	for _, b := range append(append([]*appendBatch{c.open}, c.queue...), c.inflight...) {
		if b == nil {
			continue
		}
		for op := b.head; op != nil; op = op.next {
			if op.long != nil {
				refs[op.long.job.Segment]++
			}
		}
	}
	for s, k := range c.long.known {
		if refs[s] != k.refs {
			return fmt.Errorf("segment %s is named by %d index records, counted %d", s, refs[s], k.refs)
		}
		delete(refs, s)
	}
	if len(refs) > 0 {
		return fmt.Errorf("segments %v are named by index records and not known", refs)
	}
	return nil
}

// countMap gathers the locations in the map, filling in what is missing.
func (c *Core) countMap(in Inspector, held map[id.Location]bool) error {
	for at := block.LBA(0); at < c.blocks; {
		e := block.Extent{Start: at, Count: uint32(min(c.blocks-at, 1<<30))}
		var lost error
		next, miss := c.m.Walk(e, func(b block.LBA, l id.Location) bool {
			if c.origin.Has(l.Segment()) {
				if !in.Has(l, id.Generation{}) {
					lost = fmt.Errorf("block %d lies at %v, which no ancestor has", b, l)
				}
				return lost == nil
			}
			held[l] = true
			if e, ok := c.table.Get(l.Segment()); !c.foreign(l.Segment()) && (!ok || !in.Has(l, e.Generation)) {
				lost = fmt.Errorf("block %d lies at %v, which %s (%t) has not", b, l, e.Generation, ok)
			}
			return lost == nil
		})
		if lost != nil {
			return lost
		}
		at = next
		if miss.None() {
			continue
		}
		b, ok := in.Page(miss.Location)
		if !ok {
			return fmt.Errorf("map page %d.%d at %v is gone", miss.Level, miss.Index, miss.Location)
		}
		if err := c.m.Fill(miss, b); err != nil {
			return err
		}
	}
	return nil
}

// CountTree counts the pages of every segment in the committed tree at root.
func CountTree(root blockmap.Root, in Inspector, live map[id.Segment]int) error {
	return walkTree(root, 0, in, func(l id.Location, _ block.LBA, page bool) {
		if page {
			live[l.Segment()]++
		}
	})
}

// EachBlock calls fn for every block in the committed tree at root, in order.
func EachBlock(root blockmap.Root, in Inspector, fn func(block.LBA, id.Location)) error {
	return walkTree(root, 0, in, func(l id.Location, b block.LBA, page bool) {
		if !page {
			fn(b, l)
		}
	})
}

// walkTree tells fn of every page and block of the committed tree at root; first is its first block.
func walkTree(root blockmap.Root, first block.LBA, in Inspector, fn func(l id.Location, b block.LBA, page bool)) error {
	if root.Location == 0 {
		return nil
	}
	fn(root.Location, first, true)
	b, ok := in.Page(root.Location)
	if !ok {
		return fmt.Errorf("page at %v of level %d is gone", root.Location, root.Height-1)
	}
	for i := range blockmap.Fanout {
		loc := id.Location(binary.LittleEndian.Uint64(b[i*8:]))
		at := first + block.LBA(i)<<(9*(root.Height-1))
		if loc == 0 {
			continue
		}
		if root.Height == 1 {
			fn(loc, at, false)
			continue
		}
		if err := walkTree(blockmap.Root{Location: loc, Height: root.Height - 1}, at, in, fn); err != nil {
			return err
		}
	}
	return nil
}

// checkLive compares the table with what was counted.
func (c *Core) checkLive(in Inspector, live map[id.Segment]int) error {
	var err error
	c.table.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		switch {
		case e.Flags&blockmap.Pages != 0 && c.check.running != nil:
		case live[s] != int(e.Live):
			err = fmt.Errorf("segment %s (%+v) has %d live slots", s, e, live[s])
		case live[s] > 0 && !in.Exists(s, e.Generation):
			err = fmt.Errorf("segment %s with %d live slots is gone", s, live[s])
		case live[s] > 0 && c.deletes[s]:
			err = fmt.Errorf("segment %s with %d live slots is being deleted", s, live[s])
		case c.long.known[s] != nil && (c.deletes[s] || !in.Exists(s, e.Generation)):
			err = fmt.Errorf("segment %s, which an index record names, is gone", s)
		}
		delete(live, s)
		return err == nil
	})
	if err != nil {
		return err
	}
	for s, n := range live {
		return fmt.Errorf("segment %s with %d live slots is not in the table", s, n)
	}
	for s, k := range c.long.known {
		if !in.Exists(s, k.entry.Generation) {
			return fmt.Errorf("segment %s, which an index record names, is gone", s)
		}
	}
	return nil
}
