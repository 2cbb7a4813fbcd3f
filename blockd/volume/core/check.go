package core

import (
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/id"
)

// Inspector is what Check needs to know of the world around the core.
type Inspector struct {
	// Page gives the bytes at a location of a page.
	Page func(id.Location) ([]byte, bool)
	// Exists tells whether a generation of a segment is there, Has whether it has a slot.
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
	live := make(map[id.Segment]int)
	if err := c.countMap(in, live); err != nil {
		return err
	}
	if c.check.running == nil {
		if err := CountTree(c.check.root, in, live); err != nil {
			return fmt.Errorf("tree of the last checkpoint: %w", err)
		}
	}
	return c.checkLive(in, live)
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

// countMap counts the locations of every segment in the map, filling in what is missing.
func (c *Core) countMap(in Inspector, live map[id.Segment]int) error {
	for at := block.LBA(0); at < c.blocks; {
		e := block.Extent{Start: at, Count: uint32(min(c.blocks-at, 1<<30))}
		var lost error
		next, miss := c.m.Walk(e, func(b block.LBA, l id.Location) bool {
			live[l.Segment()]++
			if e, ok := c.table.Get(l.Segment()); !ok || !in.Has(l, e.Generation) {
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
	if root.Location == 0 {
		return nil
	}
	live[root.Location.Segment()]++
	b, ok := in.Page(root.Location)
	if !ok {
		return fmt.Errorf("page at %v of level %d is gone", root.Location, root.Height-1)
	}
	if root.Height == 1 {
		return nil
	}
	for i := range blockmap.Fanout {
		loc := id.Location(0)
		for k := 7; k >= 0; k-- {
			loc = loc<<8 | id.Location(b[i*8+k])
		}
		if loc == 0 {
			continue
		}
		if err := CountTree(blockmap.Root{Location: loc, Height: root.Height - 1}, in, live); err != nil {
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
