// Package lineage says where the first tree of a volume comes from, when it did not begin
// empty: its origin. A clone begins with the tree of a snapshot of another volume and reads
// the segments of that volume and of that one's ancestors; it never counts, cleans, moves or
// deletes them. Metad keeps the origin with the volume's record, the engine in every
// checkpoint, both in the encoding of this package (FORMAT.md). Pure: it does no I/O and
// decides nothing about liveness.
package lineage

import (
	"encoding/binary"
	"fmt"
	"slices"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// DepthMax bounds the ancestors of a volume. Reads do not get slower with them; records do get larger.
const DepthMax = 256

// Origin is what a clone begins with: the tree of a snapshot of another volume. It never changes.
type Origin struct {
	Volume   id.Volume // whose snapshot it is
	Snapshot id.Snapshot
	Root     blockmap.Root // of the snapshot's map; of no tree if the disk was empty
	// Watermark is the snapshot's: whatever is reached from Root lies in segments at or below
	// it, and no segment of the clone does.
	Watermark id.Sequence
	Blocks    block.LBA // size of the disk when the snapshot was taken, or more
	// Ancestors are those of Volume, the oldest first; their watermarks rise and stay below Watermark.
	Ancestors []Ancestor
}

// Ancestor is a volume whose segments between the watermark before it and its own may be reached.
type Ancestor struct {
	Volume    id.Volume
	Watermark id.Sequence
}

// Chain gives all volumes whose segments may be reached, the oldest first, the snapshot's own last.
func (o *Origin) Chain() []Ancestor {
	if o == nil {
		return nil
	}
	return append(slices.Clone(o.Ancestors), Ancestor{o.Volume, o.Watermark})
}

// Has tells whether a segment is an ancestor's. A volume without an origin has none.
func (o *Origin) Has(s id.Segment) bool { return o != nil && s.Sequence() <= o.Watermark }

// VolumeOf gives the ancestor whose segment s is; false: it is none of theirs.
func (o *Origin) VolumeOf(s id.Segment) (id.Volume, bool) {
	if !o.Has(s) {
		return id.Volume{}, false
	}
	i, _ := slices.BinarySearchFunc(o.Ancestors, s.Sequence(), func(a Ancestor, seq id.Sequence) int {
		if a.Watermark < seq {
			return -1
		}
		return 1
	})
	if i < len(o.Ancestors) {
		return o.Ancestors[i].Volume, true
	}
	return o.Volume, true
}

// Floor is the watermark below which nothing is the volume's own; 0 without an origin.
func (o *Origin) Floor() id.Sequence {
	if o == nil {
		return 0
	}
	return o.Watermark
}

// Clone copies o with everything it points to.
func (o *Origin) Clone() *Origin {
	if o == nil {
		return nil
	}
	c := *o
	c.Ancestors = slices.Clone(o.Ancestors)
	return &c
}

// Equal tells whether two are the same origin.
func (o *Origin) Equal(x *Origin) bool {
	if o == nil || x == nil {
		return o == x
	}
	return o.Volume == x.Volume && o.Snapshot == x.Snapshot && o.Root == x.Root && o.Watermark == x.Watermark && o.Blocks == x.Blocks &&
		slices.Equal(o.Ancestors, x.Ancestors)
}

// check gives what is wrong with o; "" for nothing.
func (o *Origin) check() string {
	var last id.Sequence
	for _, a := range o.Ancestors {
		if a.Volume.IsZero() || a.Watermark <= last {
			return "ancestors of an origin"
		}
		last = a.Watermark
	}
	switch {
	case o.Volume.IsZero():
		return "volume of an origin"
	case o.Snapshot == id.Snapshot{}:
		return "snapshot of an origin"
	case !o.Root.Valid():
		return "root of an origin"
	case o.Watermark <= last || o.Watermark > id.SequenceMax:
		return "watermark of an origin"
	case o.Root.Location.Segment().Sequence() > o.Watermark:
		return "root of an origin above its watermark"
	case o.Blocks == 0 || o.Blocks > block.LBAMax:
		return "size of an origin"
	case len(o.Ancestors) >= DepthMax:
		return "depth of an origin"
	}
	return ""
}

// Validate refuses what no clone can begin with; the error is of class errs.ErrInvalid.
func (o *Origin) Validate() error {
	if what := o.check(); what != "" {
		return fmt.Errorf("wrong %s: %w", what, errs.ErrInvalid)
	}
	return nil
}

// kindSnapshot is the kind of origin that this package knows.
const kindSnapshot = 1

// Append appends o, which must be valid; nil: that there is none.
func Append(dst []byte, o *Origin) []byte {
	if o == nil {
		return append(dst, 0)
	}
	if what := o.check(); what != "" {
		panic("lineage: wrong " + what)
	}
	dst = append(append(append(dst, kindSnapshot), o.Volume[:]...), o.Snapshot[:]...)
	dst = append(binary.LittleEndian.AppendUint64(dst, uint64(o.Root.Location)), o.Root.Height)
	dst = binary.AppendUvarint(dst, uint64(o.Watermark))
	dst = binary.AppendUvarint(dst, uint64(o.Blocks))
	dst = binary.AppendUvarint(dst, uint64(len(o.Ancestors)))
	for _, a := range o.Ancestors {
		dst = binary.AppendUvarint(append(dst, a.Volume[:]...), uint64(a.Watermark))
	}
	return dst
}

// Read reads what Append wrote; nil: there is no origin, or the reader has failed.
func Read(r *codec.Reader) *Origin {
	switch k := r.U8(); {
	case r.Err() != nil || k == 0:
		return nil
	case k != kindSnapshot:
		r.Fail("kind of an origin", kindSnapshot, uint64(k))
		return nil
	}
	o := &Origin{}
	r.Fill(o.Volume[:])
	r.Fill(o.Snapshot[:])
	o.Root = blockmap.Root{Location: id.Location(r.U64()), Height: r.U8()}
	o.Watermark, o.Blocks = id.Sequence(r.Uvarint()), block.LBA(r.Uvarint())
	n := r.Count(DepthMax, 17)
	for range n {
		var a Ancestor
		r.Fill(a.Volume[:])
		a.Watermark = id.Sequence(r.Uvarint())
		o.Ancestors = append(o.Ancestors, a)
	}
	if what := o.check(); r.Err() == nil && what != "" {
		r.Fail(what, 0, 1)
	}
	if r.Err() != nil {
		return nil
	}
	return o
}

// Decode reads an origin that stands alone; empty: there is none.
func Decode(place string, b []byte) (o *Origin, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	err = codec.Decode(place, b, func(r *codec.Reader) { o = Read(r) })
	return o, err
}
