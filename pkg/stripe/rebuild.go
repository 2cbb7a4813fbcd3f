package stripe

import (
	"fmt"
	"maps"
	"math/bits"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Piece is the same byte range of one shard of one generation.
type Piece struct {
	Index      uint8 // of the shard
	Generation id.Generation
	Data       []byte
}

// Rebuild computes the byte range of shard want from the same range of K other
// shards; more than K are ignored. dst and all pieces have one length; a single
// block is enough. It refuses, with an error of class errs.ErrInvalid, pieces of
// more than one generation, the same shard twice, too few, or unequal lengths. It
// does not allocate but for the first time that a set of shards is met.
func (c *Code) Rebuild(dst []byte, want uint8, pieces []Piece) error {
	have, err := c.check(dst, want, pieces)
	if err != nil {
		return err
	}
	pieces = pieces[:c.p.K]
	row, err := c.row(have, want)
	if err != nil {
		return err
	}
	for off := 0; off < len(dst); off += pieceBytes {
		end := min(off+pieceBytes, len(dst))
		for i := range pieces {
			c.add(dst[off:end], row[pieces[i].Index], pieces[i].Data[off:end], i == 0)
		}
	}
	return nil
}

// check gives the set of the first K pieces' indexes.
func (c *Code) check(dst []byte, want uint8, pieces []Piece) (have uint16, err error) {
	n := c.p.K + c.p.M
	if len(pieces) < int(c.p.K) || want >= n {
		return 0, fmt.Errorf("rebuild shard %d of %s from %d shards: %w", want, c.p, len(pieces), errs.ErrInvalid)
	}
	for i := range pieces {
		p := &pieces[i]
		switch {
		case p.Generation != pieces[0].Generation:
			return 0, fmt.Errorf("rebuild shard %d of %s from %s and %s: two generations: %w",
				want, c.p, pieces[0].Generation, p.Generation, errs.ErrInvalid)
		case p.Index >= n || p.Index == want:
			return 0, fmt.Errorf("rebuild shard %d of %s from shard %d: %w", want, c.p, p.Index, errs.ErrInvalid)
		case len(p.Data) != len(dst):
			return 0, fmt.Errorf("rebuild %d bytes of shard %d from %d: %w", len(dst), want, len(p.Data), errs.ErrInvalid)
		}
		if i >= int(c.p.K) {
			continue
		}
		if have&(1<<p.Index) != 0 {
			return 0, fmt.Errorf("rebuild shard %d of %s from shard %d twice: %w", want, c.p, p.Index, errs.ErrInvalid)
		}
		have |= 1 << p.Index
	}
	return have, nil
}

type rowKey struct {
	have uint16
	want uint8
}

// row gives the coefficients, by shard index, with which the shards of have add up
// to shard want. They are found once, by letting the library rebuild from unit
// vectors: so they agree with what it encodes whatever its matrix is.
func (c *Code) row(have uint16, want uint8) (*[shardsMax]byte, error) {
	key := rowKey{have, want}
	if r := (*c.rows.Load())[key]; r != nil {
		return r, nil
	}
	c.rows.Lock()
	defer c.rows.Unlock()
	row := new([shardsMax]byte)
	if c.p.K == 1 { // every shard is the same
		row[bits.TrailingZeros16(have)] = 1
		return row, nil
	}
	k, n := int(c.p.K), int(c.p.K+c.p.M)
	shards := make([][]byte, n)
	required := make([]bool, n)
	required[want] = true
	at := 0
	for i := range n {
		if have&(1<<i) != 0 {
			shards[i] = make([]byte, k)
			shards[i][at] = 1
			at++
		}
	}
	if err := c.enc.ReconstructSome(shards, required); err != nil {
		return nil, fmt.Errorf("rebuild shard %d of %s: %v: %w", want, c.p, err, errs.ErrInvalid)
	}
	at = 0
	for i := range n {
		if have&(1<<i) != 0 {
			row[i] = shards[want][at]
			at++
		}
	}
	more := maps.Clone(*c.rows.Load())
	more[key] = row
	c.rows.Store(&more)
	return row, nil
}
