package id

import (
	"fmt"
	"strconv"
	"strings"

	"ashlar.dev/pkg/errs"
)

// Epoch is the fencing number of one volume, issued by metad; it only rises, and
// zero is never valid. Every write carries it; stores refuse a lower one.
type Epoch uint64

func (e Epoch) String() string { return fmt.Sprintf("e%d", uint64(e)) }

// LSN is a position in one of a volume's two streams. The first is 1; 0 means none.
// A record's name is {epoch, LSN}.
type LSN uint64

// Ensemble names one ensemble of a volume: the epoch that asked for it and a number
// within that epoch. Never reused.
type Ensemble struct {
	Epoch Epoch
	N     uint32
}

func (e Ensemble) String() string { return fmt.Sprintf("%s.%d", e.Epoch, e.N) }

// ParseEnsemble reads what String writes, such as e17.2.
func ParseEnsemble(s string) (Ensemble, error) {
	epoch, n, _ := strings.Cut(strings.TrimPrefix(s, "e"), ".")
	a, err1 := strconv.ParseUint(epoch, 10, 64)
	b, err2 := strconv.ParseUint(n, 10, 32)
	e := Ensemble{Epoch: Epoch(a), N: uint32(b)}
	if err1 != nil || err2 != nil || e.String() != s {
		return Ensemble{}, fmt.Errorf("ensemble %q: write it like e17.2, as ashlar status names it: %w", s, errs.ErrInvalid)
	}
	return e, nil
}

// Less orders ensembles by age.
func (e Ensemble) Less(o Ensemble) bool {
	return e.Epoch < o.Epoch || e.Epoch == o.Epoch && e.N < o.N
}

// Generation names one writing of a segment. Never reused for the segment.
type Generation struct {
	Epoch Epoch
	N     uint32
}

func (g Generation) String() string { return fmt.Sprintf("g%d.%d", uint64(g.Epoch), g.N) }

// Less orders generations by age.
func (g Generation) Less(o Generation) bool {
	return g.Epoch < o.Epoch || g.Epoch == o.Epoch && g.N < o.N
}

// PG is a placement group's permanent number, 12 bits.
type PG uint16

// PGMax is the highest placement group.
const PGMax PG = 1<<12 - 1

// Sequence is the upper 40 bits of a segment id: order and watermarks compare it.
// Zero is never issued.
type Sequence uint64

// SequenceMax is the highest sequence.
const SequenceMax Sequence = 1<<40 - 1

// Segment is a segment's id: 52 bits, the sequence above, the placement group below.
type Segment uint64

// MakeSegment puts the two parts together. Both must be in range.
func MakeSegment(s Sequence, pg PG) Segment { return Segment(s)<<12 | Segment(pg&PGMax) }

// Sequence is the upper part.
func (s Segment) Sequence() Sequence { return Sequence(s >> 12) }

// PG is the lower part.
func (s Segment) PG() PG { return PG(s) & PGMax }

// Valid tells whether s fits in 52 bits and has a sequence.
func (s Segment) Valid() bool { return s>>52 == 0 && s>>12 != 0 }

func (s Segment) String() string { return fmt.Sprintf("s%x.%d", uint64(s.Sequence()), s.PG()) }

// SlotsMax is the most slots a segment has.
const SlotsMax = 4096

// Location is where a block lies: segment and slot. Zero: never written, reads as zeros.
type Location uint64

// MakeLocation puts segment and slot together.
func MakeLocation(s Segment, slot uint16) Location {
	return Location(s)<<12 | Location(slot&(SlotsMax-1))
}

// Segment is the segment of the location.
func (l Location) Segment() Segment { return Segment(l >> 12) }

// Slot is the slot within it.
func (l Location) Slot() uint16 { return uint16(l & (SlotsMax - 1)) }

func (l Location) String() string {
	if l == 0 {
		return "hole"
	}
	return fmt.Sprintf("%s/%d", l.Segment(), l.Slot())
}
