package core

import (
	"cmp"
	"slices"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/id"
)

// memtable is what a run of acknowledged journal records made of the volume: a
// block is in blocks (the newest bytes, or a location for a long write), else in
// zeros, else it is as the tables below say. The bytes belong to the batches, each
// held once until the memtable goes and no job reads them any more.
type memtable struct {
	first, last id.LSN // the records in it; last < first: none yet
	blocks      map[block.LBA]entry
	zeros       extentSet
	journalled  int64 // bytes of payload in the journal for it, overwritten ones too
	batches     []*appendBatch
	direct      map[id.Segment]direct // segments of long writes that it mentions
	bufs        []*buf.Buffer         // payload of recovered records

	mark      *mark // of a snapshot: its last record
	recovered bool  // from the journal of an earlier owner

	// Once sealed:
	jobs    []*PackJob // its segments on their way
	unready int        // jobs that are not durable yet
	packing bool
	sent    bool // its commit is in the meta stream
	commit  *commitState
	holds   int  // attempts of jobs that may read the bytes
	retired bool // out of the core
}

// entry is one block of a memtable. buf is nil where loc says the place.
type entry struct {
	buf *buf.Buffer
	off uint32 // bytes into buf
	sum uint32 // CRC-32C of the block
	loc id.Location
}

// direct is a segment of long writes: its table entry, and how many index records of the memtable name it.
type direct struct {
	entry   blockmap.Entry
	records int
}

// newMemtable gives an empty memtable; blocks is an empty map to use, or nil.
func newMemtable(first id.LSN, blocks map[block.LBA]entry) *memtable {
	if blocks == nil {
		blocks = make(map[block.LBA]entry)
	}
	return &memtable{first: first, last: first - 1, blocks: blocks}
}

// hold keeps the payload of b; records of one batch may go into two memtables.
func (m *memtable) hold(b *appendBatch) {
	if n := len(m.batches); n > 0 && m.batches[n-1] == b {
		return
	}
	b.Retain()
	m.batches = append(m.batches, b)
}

// keep keeps the payload of a recovered batch.
func (m *memtable) keep(b *buf.Buffer) {
	if n := len(m.bufs); n == 0 || m.bufs[n-1] != b {
		m.bufs = append(m.bufs, b.Retain())
	}
}

// fits tells whether n more blocks leave the memtable small enough for one segment.
func (m *memtable) fits(n, most int) bool { return m.empty() || len(m.blocks)+n <= most }

// empty tells that nothing needs packing or committing.
func (m *memtable) empty() bool { return m.last < m.first }

// write puts the blocks of a write record: extent e, whose bytes lie in b from off on.
func (m *memtable) write(e block.Extent, b *buf.Buffer, off uint32, sums []uint32) {
	for i := range e.Count {
		m.blocks[e.Start+block.LBA(i)] = entry{buf: b, off: off + i*block.Size, sum: sums[i]}
	}
}

// zero makes an extent read as zeros.
func (m *memtable) zero(e block.Extent) {
	if uint64(e.Count) < uint64(len(m.blocks)) {
		for l := e.Start; l < e.End(); l++ {
			delete(m.blocks, l)
		}
	} else {
		for l := range m.blocks {
			if e.Contains(l) {
				delete(m.blocks, l)
			}
		}
	}
	m.zeros.add(e.Start, e.End())
}

// place puts the blocks of a long write: their slots run from first on.
func (m *memtable) place(e block.Extent, s id.Segment, where blockmap.Entry, first uint16) {
	for i := range e.Count {
		m.blocks[e.Start+block.LBA(i)] = entry{loc: id.MakeLocation(s, first+uint16(i))}
	}
	if m.direct == nil {
		m.direct = make(map[id.Segment]direct)
	}
	d := m.direct[s]
	m.direct[s] = direct{entry: where, records: d.records + 1}
}

// find gives the block's entry; zero tells that it reads as zeros; neither: ask below.
func (m *memtable) find(l block.LBA) (e entry, found, zero bool) {
	if e, found = m.blocks[l]; found {
		return e, true, false
	}
	return entry{}, false, len(m.zeros.runs) > 0 && m.zeros.contains(l)
}

// sorted gives the blocks whose bytes are in memory, and those of long writes, by LBA.
func (m *memtable) sorted() (data, placed []block.LBA) {
	data = make([]block.LBA, 0, len(m.blocks))
	for l, e := range m.blocks {
		if e.buf != nil {
			data = append(data, l)
		} else {
			placed = append(placed, l)
		}
	}
	slices.SortFunc(data, cmp.Compare)
	slices.SortFunc(placed, cmp.Compare)
	return data, placed
}

// retire takes the memtable out of use: its bytes go as soon as no job reads
// them. The map is the caller's to use again.
func (m *memtable) retire() map[block.LBA]entry {
	blocks := m.blocks
	m.retired, m.blocks = true, nil
	m.letGo()
	return blocks
}

// letGo releases the bytes if nobody needs them.
func (m *memtable) letGo() {
	if !m.retired || m.holds > 0 {
		return
	}
	for i, b := range m.batches {
		b.Release()
		m.batches[i] = nil
	}
	for _, b := range m.bufs {
		b.Release()
	}
	m.batches, m.bufs = nil, nil
}
