package stripe

import (
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// BlockSize is the bytes of one block of a shard.
const BlockSize = 4096

// Profile is how many data and parity shards a segment has.
type Profile struct{ K, M uint8 }

// Code encodes and rebuilds under one profile.
type Code struct{ p Profile }

// For gives the code of a profile, always the same one. Errors are of class errs.ErrInvalid.
func For(p Profile) (*Code, error) { panic("stripe: being written") }

// Profile is the profile of the code.
func (c *Code) Profile() Profile { return c.p }

// Encode computes parity from data: K and M slices, all of one length. With K = 1
// parity is a copy of the data.
func (c *Code) Encode(data, parity [][]byte) { panic("stripe: being written") }

// EncodeSlots computes the parity shards of a segment from its slots, one block
// each in slot order, wherever they lie in memory; nil means zeros. parity has M
// slices of Layout.Blocks blocks.
func (c *Code) EncodeSlots(slots, parity [][]byte) { panic("stripe: being written") }

// Layout is the slot layout of a segment under this code.
func (c *Code) Layout(slots uint16) segment.Layout {
	return segment.Layout{K: c.p.K, Slots: slots}
}

// Piece is the same byte range of one shard of one generation.
type Piece struct {
	Index      uint8 // of the shard
	Generation id.Generation
	Data       []byte
}

// Rebuild computes the byte range of shard want from the same range of K other
// shards (more are ignored, doubles refused). dst and all pieces have one
// length; a single block is enough. It refuses, with an error of class
// errs.ErrInvalid, pieces of more than one generation, too few, or of unequal
// length. It does not allocate.
func (c *Code) Rebuild(dst []byte, want uint8, pieces []Piece) error { panic("stripe: being written") }
