package segment

import (
	"fmt"

	"ashlar.dev/pkg/block"
)

// Kind says what a slot holds.
type Kind uint8

// The kinds. Values are part of the format.
const (
	Empty     Kind = iota // nothing: padding, or a slot dropped by a later generation
	Data                  // one block of the volume
	MapPage               // a page of the block map
	TablePage             // a page of the segment table
	kinds
)

func (k Kind) String() string {
	switch k {
	case Empty:
		return "empty"
	case Data:
		return "data"
	case MapPage:
		return "map page"
	case TablePage:
		return "table page"
	}
	return "unknown"
}

const (
	kindShift  = 56
	levelShift = 40
	valueBits  = 48
	valueMask  = 1<<valueBits - 1
	indexMask  = 1<<levelShift - 1
)

// LevelMax is the highest level of a page that an entry can name.
const LevelMax = 15

// Entry is a slot header entry: kind in the highest byte, then a reserved zero
// byte, then the LBA (Data), or level and index (pages). The zero Entry is Empty.
type Entry uint64

// MakeData is the entry of the block at l, which must be below block.LBAMax.
func MakeData(l block.LBA) Entry { return Entry(Data)<<kindShift | Entry(l&indexMask) }

// MakePage is the entry of a page; kind is MapPage or TablePage, index below 2^40.
func MakePage(kind Kind, level uint8, index uint64) Entry {
	return Entry(kind)<<kindShift | Entry(level)<<levelShift | Entry(index&indexMask)
}

// Kind is what the slot holds.
func (e Entry) Kind() Kind { return Kind(e >> kindShift) }

// LBA is the block's address; only of a Data entry.
func (e Entry) LBA() block.LBA { return block.LBA(e & indexMask) }

// Level is the page's level; only of a page.
func (e Entry) Level() uint8 { return uint8(e >> levelShift) }

// Index is the page's index on its level; only of a page.
func (e Entry) Index() uint64 { return uint64(e & indexMask) }

// Valid tells whether e could have been made here.
func (e Entry) Valid() bool {
	switch e.Kind() {
	case Empty:
		return e == 0
	case Data:
		return e>>levelShift == Entry(Data)<<(kindShift-levelShift)
	case MapPage, TablePage:
		return e>>valueBits&0xff == 0 && e.Level() <= LevelMax
	}
	return false
}

func (e Entry) String() string {
	switch e.Kind() {
	case Empty:
		return "empty"
	case Data:
		return fmt.Sprintf("block %d", e.LBA())
	}
	return fmt.Sprintf("%s %d.%d", e.Kind(), e.Level(), e.Index())
}
