package record

import (
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
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

// JournalWriter encodes the records of one batch by appending to the caller's
// slice; it allocates only what append does. The zero value is ready; use a new
// one for each batch. Extents must be not empty and below block.LBAMax.
type JournalWriter struct {
	next   block.LBA
	count  uint32
	blocks int
}

// Count is the records written so far; Blocks the payload blocks they ask for.
func (w *JournalWriter) Count() uint32 { return w.count }

// Blocks is the payload blocks of the records written so far.
func (w *JournalWriter) Blocks() int { return w.blocks }

// Write appends a write; its blocks follow in the batch's payload, in the order of the writes.
func (w *JournalWriter) Write(dst []byte, e block.Extent) []byte { panic("record: being written") }

// Zero appends a write of zeros.
func (w *JournalWriter) Zero(dst []byte, e block.Extent, noHole bool) []byte {
	panic("record: being written")
}

// Trim appends a trim.
func (w *JournalWriter) Trim(dst []byte, e block.Extent) []byte { panic("record: being written") }

// Mark appends the mark of a snapshot.
func (w *JournalWriter) Mark(dst []byte, m SnapshotMark) []byte { panic("record: being written") }

// Index appends the index record of a long write.
func (w *JournalWriter) Index(dst []byte, p Placed) []byte { panic("record: being written") }

// JournalReader iterates over the records of a batch. It keeps meta but does not change it.
type JournalReader struct{}

// ReadJournal reads the Meta bytes of a batch that begins at first and has count
// records and blocks payload blocks; place names the source in errors.
func ReadJournal(place string, meta []byte, first id.LSN, count uint32, blocks int) JournalReader {
	panic("record: being written")
}

// Next reads the next record into j (all of it is overwritten); false at the end
// or at an error.
func (r *JournalReader) Next(j *Journal) bool { panic("record: being written") }

// Err is the first error. It is nil at the end only if the bytes had exactly as
// many records and payload blocks as the batch said.
func (r *JournalReader) Err() error { panic("record: being written") }
