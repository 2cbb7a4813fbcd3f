package record

import (
	"encoding/binary"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// Kind is the kind of a journal record.
type Kind uint8

// The kinds of journal records. Values are part of the format.
const (
	Write Kind = 1 + iota
	Zero
	Trim
	Mark
	Index
	kindEnd
)

func (k Kind) String() string {
	switch k {
	case Write:
		return "write"
	case Zero:
		return "zero"
	case Trim:
		return "trim"
	case Mark:
		return "mark"
	case Index:
		return "index"
	}
	return "unknown"
}

// SnapshotMark names the snapshot that a mark is of, and the group it belongs to; zero for none.
type SnapshotMark struct {
	Snapshot id.Raw
	Group    id.Raw
}

// Placed is an extent whose blocks lie in consecutive slots of a segment already.
type Placed struct {
	Extent    block.Extent
	Segment   id.Segment
	FirstSlot uint16
	Entry     blockmap.Entry // for the segment table
}

// Journal is one journal record.
type Journal struct {
	Kind    Kind
	LSN     id.LSN
	Extent  block.Extent // Write, Zero, Trim, Index
	NoHole  bool         // Zero: the client asked not to punch a hole
	Payload int          // Write: its first block in the batch's payload
	Mark    SnapshotMark // Mark
	Placed  Placed       // Index; its extent is Extent
}

// A record begins with a byte of kind, flag and number of blocks.
const (
	journalVersion = 1

	kindBits   = 3
	kindMask   = 1<<kindBits - 1
	flagBit    = 1 << kindBits
	countShift = kindBits + 1
	countMax   = 1<<(8-countShift) - 1 // more follow as a varint
)

// JournalWriter encodes the records of one batch by appending to the caller's
// slice; it allocates only what append does. The zero value is ready; use a new
// one for each batch. It panics at an extent that is empty or reaches beyond
// block.LBAMax.
type JournalWriter struct {
	next   block.LBA // end of the extent before
	count  uint32
	blocks int
}

// Count is the records written so far.
func (w *JournalWriter) Count() uint32 { return w.count }

// Blocks is the payload blocks of the records written so far.
func (w *JournalWriter) Blocks() int { return w.blocks }

func (w *JournalWriter) begin(dst []byte) []byte {
	if w.count == 0 {
		dst = append(dst, journalVersion)
	}
	w.count++
	return dst
}

func (w *JournalWriter) extent(dst []byte, head uint8, e block.Extent) []byte {
	checkExtent(e)
	dst = w.begin(dst)
	if e.Count <= countMax {
		dst = append(dst, head|uint8(e.Count)<<countShift)
	} else {
		dst = binary.AppendUvarint(append(dst, head), uint64(e.Count))
	}
	dst = appendStart(dst, w.next, e.Start)
	w.next = e.End()
	return dst
}

// Write appends a write; its blocks follow in the batch's payload, in the order of the writes.
func (w *JournalWriter) Write(dst []byte, e block.Extent) []byte {
	w.blocks += int(e.Count)
	return w.extent(dst, uint8(Write), e)
}

// Zero appends a write of zeros.
func (w *JournalWriter) Zero(dst []byte, e block.Extent, noHole bool) []byte {
	head := uint8(Zero)
	if noHole {
		head |= flagBit
	}
	return w.extent(dst, head, e)
}

// Trim appends a trim.
func (w *JournalWriter) Trim(dst []byte, e block.Extent) []byte { return w.extent(dst, uint8(Trim), e) }

// Mark appends the mark of a snapshot.
func (w *JournalWriter) Mark(dst []byte, m SnapshotMark) []byte {
	return appendMark(append(w.begin(dst), uint8(Mark)), &m)
}

// Index appends the index record of a long write.
func (w *JournalWriter) Index(dst []byte, p Placed) []byte {
	return appendPlaced(w.extent(dst, uint8(Index), p.Extent), &p)
}

// JournalReader iterates over the records of a batch. It keeps meta but does not
// change it, and allocates nothing.
type JournalReader struct {
	r             codec.Reader
	next          block.LBA
	lsn           id.LSN
	left          uint32 // records
	payload       int    // blocks so far
	blocks        int    // blocks in all
	started, done bool
}

// ReadJournal reads the Meta bytes of a batch that begins at first and has count
// records and blocks payload blocks; place names the source in errors.
func ReadJournal(place string, meta []byte, first id.LSN, count uint32, blocks int) JournalReader {
	return JournalReader{r: codec.NewReader(place, meta), lsn: first, left: count, blocks: blocks}
}

// Next reads the next record into j (all of it is overwritten); false at the end
// or at an error.
func (r *JournalReader) Next(j *Journal) bool {
	if r.done {
		return false
	}
	if !r.started {
		r.started = true
		if v := r.r.U8(); v != journalVersion {
			r.r.Fail("version of journal records", journalVersion, uint64(v))
		}
	}
	if r.left == 0 {
		if r.payload != r.blocks {
			r.r.Fail("payload blocks of the records", uint64(r.blocks), uint64(r.payload))
		}
		r.r.End()
	}
	if r.left == 0 || r.r.Err() != nil {
		r.done = true
		return false
	}
	*j = Journal{LSN: r.lsn}
	r.lsn++
	r.left--
	r.read(j)
	r.done = r.r.Err() != nil
	return !r.done
}

func (r *JournalReader) read(j *Journal) {
	head := r.r.U8()
	j.Kind = Kind(head & kindMask)
	if head&flagBit != 0 && j.Kind != Zero || j.Kind == Mark && head>>countShift != 0 {
		r.r.Fail("first byte of a record", uint64(j.Kind), uint64(head))
	}
	switch j.Kind {
	case Write, Zero, Trim, Index:
	case Mark:
		j.Mark = readMark(&r.r)
		return
	default:
		r.r.Fail("kind of a record", uint64(kindEnd-1), uint64(j.Kind))
		return
	}
	count := uint64(head >> countShift)
	if count == 0 {
		count = r.r.Uvarint()
	}
	j.Extent = readExtent(&r.r, r.next, count)
	r.next = j.Extent.End()
	switch j.Kind {
	case Write:
		j.Payload = r.payload
		if uint64(j.Extent.Count) > uint64(r.blocks-r.payload) {
			r.r.Fail("payload blocks left", uint64(r.blocks-r.payload), uint64(j.Extent.Count))
			return
		}
		r.payload += int(j.Extent.Count)
	case Zero:
		j.NoHole = head&flagBit != 0
	case Index:
		j.Placed = readPlaced(&r.r, j.Extent)
	}
}

// Err is the first error, once Next has given false. It is nil only if the bytes
// had exactly as many records and payload blocks as the batch said.
func (r *JournalReader) Err() error { return r.r.Err() }
