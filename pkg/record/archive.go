package record

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// What a volume that was made from an archive writes to the meta stream.

// Archive says what of a volume still lies in an archive: of the segments of one
// manifest, in its order, the i-th has sequence First+i in this volume and group
// PGs[i mod len(PGs)]. That was allotted once, with the volume, and never changes; what
// is Left shrinks, and with the last of it a checkpoint has no archive any more.
type Archive struct {
	Manifest string // key
	First    id.Sequence
	Segments uint32
	PGs      []id.PG
	Left     []ArchiveRun // ascending and apart
}

// ArchiveRun is Count segments of a manifest, from its From-th on.
type ArchiveRun struct{ From, Count uint32 }

// Hydrated says that a segment lies in stores now and no longer in the archive. Slots has
// what the slots of its first generation hold, Entry.Slots of them, zero for those that nothing
// had any more; nothing at all was written of a segment of which that is so of every slot:
// then Entry is zero. What of it lives is judged by the maps when the record is applied.
type Hydrated struct {
	CommitSegment
}

// Limits of an archive.
const (
	// ManifestKeyMax bounds the bytes of a manifest's key.
	ManifestKeyMax = 1024
	// ArchiveSegmentsMax bounds the segments of a manifest: 64 TiB of full ones.
	ArchiveSegmentsMax = 1 << 22
	// ArchiveGroupsMax bounds the groups of an allotment.
	ArchiveGroupsMax = 256
	// ArchiveRunsMax bounds what is left, in runs.
	ArchiveRunsMax = 1024
)

// Segment is the id of the i-th segment of the manifest in this volume.
func (a *Archive) Segment(i uint32) id.Segment {
	return id.MakeSegment(a.First+id.Sequence(i), a.PGs[int(i)%len(a.PGs)])
}

// Index gives the place of a segment in the manifest; false if it is not of it, or no longer left.
func (a *Archive) Index(s id.Segment) (uint32, bool) {
	if a == nil || s.Sequence() < a.First || s.Sequence() >= a.First+id.Sequence(a.Segments) {
		return 0, false
	}
	i := uint32(s.Sequence() - a.First)
	if a.Segment(i) != s {
		return 0, false
	}
	lo, hi := 0, len(a.Left)
	for lo < hi {
		mid := (lo + hi) / 2
		if r := a.Left[mid]; r.From+r.Count <= i {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return i, lo < len(a.Left) && a.Left[lo].From <= i
}

// Remaining is how many segments are left.
func (a *Archive) Remaining() (n uint32) {
	if a == nil {
		return 0
	}
	for _, r := range a.Left {
		n += r.Count
	}
	return n
}

// Check gives what is wrong with the archive; "" for nothing.
func (a *Archive) Check() string {
	switch {
	case len(a.Manifest) == 0 || len(a.Manifest) > ManifestKeyMax:
		return "key of a manifest"
	case a.First == 0 || a.Segments == 0 || a.Segments > ArchiveSegmentsMax || a.First > id.SequenceMax-id.Sequence(a.Segments):
		return "sequences of an archive"
	case len(a.PGs) == 0 || len(a.PGs) > ArchiveGroupsMax:
		return "groups of an archive"
	case len(a.Left) == 0 || len(a.Left) > ArchiveRunsMax:
		return "runs of an archive"
	}
	for _, g := range a.PGs {
		if g > id.PGMax {
			return "group of an archive"
		}
	}
	next := uint32(0)
	for i, r := range a.Left {
		if r.Count == 0 || r.Count > a.Segments || r.From > a.Segments-r.Count || i > 0 && r.From <= next {
			return "run of an archive"
		}
		next = r.From + r.Count
	}
	return ""
}

func appendArchive(b []byte, a *Archive) []byte {
	b = codec.AppendString(b, a.Manifest)
	b = binary.AppendUvarint(b, uint64(a.First))
	b = binary.AppendUvarint(b, uint64(a.Segments))
	b = binary.AppendUvarint(b, uint64(len(a.PGs)))
	for _, g := range a.PGs {
		b = binary.AppendUvarint(b, uint64(g))
	}
	b = binary.AppendUvarint(b, uint64(len(a.Left)))
	for _, r := range a.Left {
		b = binary.AppendUvarint(b, uint64(r.From))
		b = binary.AppendUvarint(b, uint64(r.Count))
	}
	return b
}

func readArchive(r *codec.Reader) *Archive {
	a := &Archive{Manifest: r.String(ManifestKeyMax), First: id.Sequence(r.Uvarint()), Segments: readUint32(r, "segments of an archive")}
	for n := r.Count(ArchiveGroupsMax, 1); n > 0; n-- {
		g := r.Uvarint()
		if g > uint64(id.PGMax) {
			r.Fail("group of an archive", uint64(id.PGMax), g)
		}
		a.PGs = append(a.PGs, id.PG(g))
	}
	for n := r.Count(ArchiveRunsMax, 2); n > 0; n-- {
		a.Left = append(a.Left, ArchiveRun{readUint32(r, "run of an archive"), readUint32(r, "run of an archive")})
	}
	if what := a.Check(); what != "" {
		r.Fail(what, 0, 1)
	}
	return a
}

// check gives what is wrong with h; "" for nothing.
func (h *Hydrated) check() string {
	switch {
	case !h.Segment.Valid() || len(h.Slots) != int(h.Entry.Slots):
		return "slots of a segment from the archive"
	case h.Entry.Slots == 0:
		return ""
	}
	stored := 0
	for _, e := range h.Slots {
		switch e.Kind() {
		case segment.Empty:
			continue
		case segment.Data, segment.MapPage:
			stored++
		default:
			return "slot of a segment from the archive"
		}
	}
	if stored != int(h.Entry.Stored()) {
		return "slots kept of a segment from the archive"
	}
	return ""
}

// AppendHydrated appends the record that a segment has left the archive. It panics if h breaks its rules.
func AppendHydrated(dst []byte, h *Hydrated) []byte {
	if what := h.check(); what != "" {
		panic(fmt.Sprintf("record: wrong %s: %s %+v", what, h.Segment, h.Entry))
	}
	at := len(dst)
	dst = begin(dst, MetaHydrated)
	if h.Entry.Slots == 0 {
		return end(binary.AppendUvarint(append(dst, 0), uint64(h.Segment)), at)
	}
	return end(segment.AppendEntries(appendSegment(append(dst, 1), h.Segment, h.Entry), h.Slots), at)
}

func readHydrated(r *codec.Reader, slots *int) *Hydrated {
	h := new(Hydrated)
	switch written := r.U8(); written {
	case 0:
		h.Segment = id.Segment(r.Uvarint())
	case 1:
		h.Segment, h.Entry = readSegment(r)
		if *slots -= int(h.Entry.Slots); *slots < 0 {
			r.Fail("slots in a batch", SlotsMax, SlotsMax+1)
		}
		if r.Err() != nil {
			return h
		}
		h.Slots = make([]segment.Entry, h.Entry.Slots)
		segment.DecodeEntries(r, h.Slots)
	default:
		r.Fail("segment from the archive", 1, uint64(written))
	}
	if what := h.check(); r.Err() == nil && what != "" {
		r.Fail(what, 0, 1)
	}
	return h
}
