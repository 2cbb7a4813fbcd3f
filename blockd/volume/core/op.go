package core

import (
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/id"
)

// OpKind is what an operation asks of the volume.
type OpKind uint8

// The operations. Trim and Zero both make the blocks read as zeros; Find tells which
// blocks lie in some segments.
const (
	OpRead OpKind = iota
	OpWrite
	OpZero
	OpTrim
	OpFlush
	OpStatus
	OpMark // a snapshot: what was taken before is in it, what is taken after is not
	OpFind
)

// Op is one operation of a client. Its sender owns the struct and may pool it; it
// belongs to the core from Submit until it comes back in Effects.Done (or, for a
// read, in Effects.Reads, after which the shell fills Data from Pieces).
//
// Extent is in whole blocks. A write that does not start or end on a block sets
// Head and Tail, the bytes of the first and last block that it leaves alone; the
// core then reads those blocks first.
type Op struct {
	Kind   OpKind
	Extent block.Extent
	Head   uint32 // bytes of the first block before the write
	Tail   uint32 // bytes of the last block after it

	// Buf holds the payload of a write from BufOff on; the core keeps a reference
	// of its own. Sums are the CRC-32C of its blocks, for writes of whole blocks.
	Buf    *buf.Buffer
	BufOff uint32
	Sums   []uint32

	// Snapshot is what a read or status is of, zero for the disk itself, and what a mark makes.
	Snapshot id.Raw
	// Hold keeps back what comes after a mark, for that long at most; see hold.go.
	Hold time.Duration
	// Since makes a status tell what differs from a snapshot; see changes.go.
	Since id.Raw

	// Pieces is the answer of a read, and Runs that of a status, in order, covering Extent.
	Pieces []Piece
	Runs   []Run
	Find   *Find // of an OpFind; it stays with the sender

	Err  error
	User any

	next       *Op // of the same journal batch
	bytes      int64
	hold       bool     // wants its range held once the lock table admits it
	long       *longRun // a long write whose segment is durable
	slot       uint16   // its first slot there
	journalled bool     // a long write that must go through the journal
	barrier    id.LSN   // a sub-block write waits until this is acknowledged
	edges      *rmw
	mark       *mark
	parent     *Op // of an inner read: the sub-block write it serves
	retries    int
	failedAt   time.Duration // when a read first found too few shards; 0: it has not
	ended      bool          // it is in Effects.Done
}

// partial tells a write that does not cover its blocks.
func (op *Op) partial() bool { return op.Head != 0 || op.Tail != 0 }

// Reset makes a pooled Op ready for its next use; its slices keep their memory.
func (op *Op) Reset() {
	*op = Op{Sums: op.Sums[:0], Pieces: op.Pieces[:0], Runs: op.Runs[:0]}
}

// PieceKind tells where the bytes of a piece are.
type PieceKind uint8

// A piece is zeros, bytes in memory, or slots of a segment.
const (
	PieceZero PieceKind = iota
	PieceMemory
	PieceSlots
)

// Piece is a run of blocks of a read's answer: Count blocks from block At of its extent.
type Piece struct {
	Kind  PieceKind
	At    uint32
	Count uint32
	// Memory: the bytes are in Buf from Off on. The piece holds a reference, which
	// the shell releases.
	Buf *buf.Buffer
	Off uint32
	// Slots: consecutive slots from Location on of a segment kept as Where says.
	Location id.Location
	Where    Where
}

// Run is a run of blocks of a status: written, or a hole that reads as zeros. Where the status tells
// what differs, those that do are Changed, and the others are not told apart by Hole.
type Run struct {
	Count   uint32
	Hole    bool
	Changed bool
}

// Where says how a segment is kept: what a reader needs to find its shards.
type Where struct {
	Generation id.Generation
	PGVersion  uint32
	K, M       uint8
	Slots      uint16
	Kept       uint16 // slots that the generation has blocks of; 0: all
	Foreign    bool   // in the archive; then nothing else is set
}

func (w Where) stored() uint16 {
	if w.Kept > 0 {
		return w.Kept
	}
	return w.Slots
}
