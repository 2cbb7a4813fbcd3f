package stripe

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/klauspost/reedsolomon"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// BlockSize is the bytes of one block of a shard.
const BlockSize = 4096

// pieceBytes is the bytes of each shard that are coded at once: all shards' pieces
// together stay in the second-level cache.
const pieceBytes = 64 << 10

// shardsMax bounds K+M of a code; ours have at most six.
const shardsMax = 16

// Profile is how many data and parity shards a segment has.
type Profile struct{ K, M uint8 }

func (p Profile) String() string { return fmt.Sprintf("%d+%d", p.K, p.M) }

// Code encodes and rebuilds under one profile.
type Code struct {
	p   Profile
	enc reedsolomon.Encoder // nil with K = 1 or M = 0
	low reedsolomon.LowLevel

	// parity has the coefficients of the parity shards by data shard, and rows, by
	// what there is and what is wanted, those of a rebuild.
	parity [][shardsMax]byte
	rows   struct {
		sync.Mutex // taken to add one; readers load the map, which never changes
		atomic.Pointer[map[rowKey]*[shardsMax]byte]
	}
	scratch sync.Pool
}

// codes are the codes made so far, by profile.
var codes [shardsMax + 1][shardsMax + 1]atomic.Pointer[Code]

// For gives the code of a profile, always the same one. Errors are of class errs.ErrInvalid.
func For(p Profile) (*Code, error) {
	if p.K == 0 || int(p.K)+int(p.M) > shardsMax {
		return nil, fmt.Errorf("code %s: %w", p, errs.ErrInvalid)
	}
	at := &codes[p.K][p.M]
	if c := at.Load(); c != nil {
		return c, nil
	}
	c := &Code{p: p}
	c.low.WithOptions()
	c.scratch.New = func() any { return new(scratch) }
	if p.K > 1 && p.M > 0 {
		enc, err := reedsolomon.New(int(p.K), int(p.M), reedsolomon.WithMaxGoroutines(1))
		if err != nil {
			return nil, fmt.Errorf("code %s: %v: %w", p, err, errs.ErrInvalid)
		}
		c.enc = enc
	}
	c.rows.Store(&map[rowKey]*[shardsMax]byte{})
	for j := range p.M {
		row, err := c.row(1<<p.K-1, p.K+j)
		if err != nil {
			return nil, err
		}
		c.parity = append(c.parity, *row)
	}
	at.CompareAndSwap(nil, c)
	return at.Load(), nil
}

// Profile is the profile of the code.
func (c *Code) Profile() Profile { return c.p }

// Layout is the slot layout of a segment under this code.
func (c *Code) Layout(slots uint16) segment.Layout {
	return segment.Layout{K: c.p.K, Slots: slots}
}

// scratch has the slice headers that the encoder wants, so that coding allocates nothing.
type scratch struct{ shards [shardsMax][]byte }

// Encode computes parity from data: K and M slices, all of one length. With K = 1
// parity is a copy of the data.
func (c *Code) Encode(data, parity [][]byte) {
	if len(data) != int(c.p.K) || len(parity) != int(c.p.M) {
		panic(fmt.Sprintf("stripe: %d and %d shards for the code %s", len(data), len(parity), c.p))
	}
	s := c.scratch.Get().(*scratch)
	size := len(data[0])
	for off := 0; off < size; off += pieceBytes {
		end := min(off+pieceBytes, size)
		for i, d := range data {
			s.shards[i] = d[off:end:end]
		}
		for i, p := range parity {
			s.shards[len(data)+i] = p[off:end:end]
		}
		c.encode(s.shards[:len(data)+len(parity)])
	}
	clear(s.shards[:])
	c.scratch.Put(s)
}

// encode codes one piece of all shards.
func (c *Code) encode(shards [][]byte) {
	if c.p.M == 0 {
		return
	}
	if c.p.K == 1 {
		for _, p := range shards[1:] {
			copy(p, shards[0])
		}
		return
	}
	if err := c.enc.Encode(shards); err != nil {
		panic("stripe: encode: " + err.Error()) // only for shards of unequal length
	}
}

// zeros stands for the block of a slot that is nil, and what lies past the last slot.
var zeros [BlockSize]byte

// EncodeSlots computes the parity shards of a segment from its slots, one block
// each in slot order, wherever they lie in memory; nil means zeros. parity has M
// slices of Layout.Blocks blocks.
func (c *Code) EncodeSlots(slots, parity [][]byte) {
	l := c.Layout(uint16(len(slots)))
	if len(slots) > id.SlotsMax || !l.Valid() || len(parity) != int(c.p.M) {
		panic(fmt.Sprintf("stripe: %d slots and %d parity shards for the code %s", len(slots), len(parity), c.p))
	}
	for b := range l.Blocks() {
		off := int(b) * BlockSize
		for i := range c.p.K {
			in := zeros[:]
			if slot, ok := l.Slot(i, b); ok && slots[slot] != nil {
				in = slots[slot][:BlockSize]
			}
			for j, p := range parity {
				c.add(p[off:off+BlockSize], c.parity[j][i], in, i == 0)
			}
		}
	}
}

// add adds in, times a coefficient, to dst; the first in place of what dst had.
func (c *Code) add(dst []byte, coefficient byte, in []byte, first bool) {
	switch {
	case !first:
		c.low.GalMulSliceXor(coefficient, in, dst)
	case coefficient == 1:
		copy(dst, in)
	default:
		c.low.GalMulSlice(coefficient, in, dst)
	}
}
