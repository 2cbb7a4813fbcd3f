package history

import (
	"encoding/binary"
	"fmt"
)

// Value is what a write put into cells; zero is zeros, the value of every cell at first.
type Value uint64

// Region is a run of cells of one size on a disk.
type Region struct {
	Offset int64 // bytes, of the first cell
	Size   int   // bytes of a cell, a multiple of 16
	Count  int   // cells
}

// Cell is the place of a cell: the region's number above, the cell's in it below.
type Cell uint64

// CellOf names cell i of region r.
func CellOf(r, i int) Cell { return Cell(uint64(r)<<32 | uint64(i)) }

func (c Cell) String() string { return fmt.Sprintf("%d.%d", c>>32, uint32(c)) }

// At is the offset of cell i in bytes.
func (r Region) At(i int) int64 { return r.Offset + int64(i)*int64(r.Size) }

const wordPair = 16

// Fill makes the bytes of cells that hold v: first is the number of p's first cell, whose
// size is size bytes.
func Fill(p []byte, v Value, first Cell, size int) {
	if v == 0 {
		clear(p)
		return
	}
	for at := 0; at < len(p); at += wordPair {
		cell := first + Cell(at/size)
		binary.LittleEndian.PutUint64(p[at:], uint64(v))
		binary.LittleEndian.PutUint64(p[at+8:], mix(v, cell, at%size))
	}
}

// mix ties a word to its value, cell and place.
func mix(v Value, c Cell, at int) uint64 {
	x := uint64(v)*0x9e3779b97f4a7c15 ^ uint64(c)*0xff51afd7ed558ccd ^ uint64(at)*0xc4ceb9fe1a85ec53
	x ^= x >> 29
	return x * 0xbf58476d1ce4e5b9
}

// Parse tells which value the bytes of cell c hold. A cell of which parts are from
// different writes, or that is from another place, is an error.
func Parse(p []byte, c Cell) (Value, error) {
	v := Value(binary.LittleEndian.Uint64(p))
	for at := 0; at < len(p); at += wordPair {
		got, check := Value(binary.LittleEndian.Uint64(p[at:])), binary.LittleEndian.Uint64(p[at+8:])
		want := uint64(0)
		if got != 0 {
			want = mix(got, c, at)
		}
		switch {
		case got != v:
			return 0, fmt.Errorf("cell %s is torn: value %d at its start, %d at byte %d", c, v, got, at)
		case check != want:
			return 0, fmt.Errorf("cell %s has strange bytes at %d: value %d, %s", c, at, got, whose(got, check, at))
		}
	}
	return v, nil
}

// Bounds of the search for the cell that strange bytes belong to.
const (
	regionsSearched = 4
	cellsSearched   = 1 << 15
)

// whose tells which cell's bytes these are.
func whose(v Value, check uint64, at int) string {
	for r := range regionsSearched {
		for i := range cellsSearched {
			if mix(v, CellOf(r, i), at) == check {
				return fmt.Sprintf("as it was written to cell %s", CellOf(r, i))
			}
		}
	}
	return "as it was never written anywhere"
}
