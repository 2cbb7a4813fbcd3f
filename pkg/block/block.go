// Package block has the units of a disk: blocks of 4 KiB, their addresses, byte
// offsets and byte counts, each a type of its own so that they cannot be mixed.
package block

import (
	"errors"
	"fmt"
)

// Size is the bytes in a block; Shift its logarithm.
const (
	Shift = 12
	Size  = 1 << Shift
)

// LBA counts blocks from the start of a volume, never bytes.
type LBA uint64

// LBAMax bounds the address space: 2^40 blocks are 4 PiB.
const LBAMax LBA = 1 << 40

// Offset is a place in a volume in bytes.
type Offset uint64

// Bytes is an amount of bytes.
type Bytes uint64

// Extent is a run of blocks.
type Extent struct {
	Start LBA
	Count uint32
}

// End is the first block after the extent.
func (e Extent) End() LBA { return e.Start + LBA(e.Count) }

// Contains tells whether l lies in the extent.
func (e Extent) Contains(l LBA) bool { return l >= e.Start && l < e.End() }

// Overlaps tells whether the two share a block.
func (e Extent) Overlaps(o Extent) bool { return e.Start < o.End() && o.Start < e.End() }

func (e Extent) String() string { return fmt.Sprintf("[%d,+%d)", e.Start, e.Count) }

// Offset is the first byte of block l.
func (l LBA) Offset() Offset { return Offset(l) << Shift }

// LBA is the block that holds byte o.
func (o Offset) LBA() LBA { return LBA(o >> Shift) }

// Aligned tells whether o is the first byte of a block.
func (o Offset) Aligned() bool { return o&(Size-1) == 0 }

// Aligned tells whether n is a whole number of blocks.
func (n Bytes) Aligned() bool { return n&(Size-1) == 0 }

// ErrRange is a request beyond the end of a volume or of the address space.
var ErrRange = errors.New("beyond the end")

// Cover gives the extent that covers [off, off+n) of a volume of size bytes.
// n must be positive and at most 4 GiB-1.
func Cover(off Offset, n Bytes, size Bytes) (Extent, error) {
	if n == 0 || n > 1<<32-1 || uint64(off) > uint64(size) || uint64(n) > uint64(size)-uint64(off) {
		return Extent{}, fmt.Errorf("%d bytes at %d of a volume of %d bytes: %w", n, off, size, ErrRange)
	}
	first := off.LBA()
	last := (off + Offset(n) - 1).LBA()
	return Extent{Start: first, Count: uint32(last - first + 1)}, nil
}

// Blocks is the number of blocks that hold n bytes, rounded up.
func (n Bytes) Blocks() LBA { return LBA((uint64(n) + Size - 1) >> Shift) }
