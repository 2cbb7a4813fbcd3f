// Package extent hands out room for shards: units of 64 KiB in extent files of
// one size. It is bookkeeping in memory only; the truth of what is taken is the
// store's index, from which it is rebuilt at every open with Mark.
//
// An Allocator is safe for concurrent use.
package extent

import (
	"fmt"
	"math/bits"
	"sync"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"

	"encoding/binary"
)

// Unit is the bytes of the smallest piece of room.
const Unit = 64 << 10

// RunsMax bounds the pieces of one shard: room in more pieces is not given.
const RunsMax = 64

// Run is consecutive units of one extent file.
type Run struct {
	File  uint32
	Start uint32 // units from the start of the file
	Units uint32
}

// Place is where a shard lies: its runs, one after another.
type Place []Run

// Units is the number of units in all.
func (p Place) Units() (n int64) {
	for _, r := range p {
		n += int64(r.Units)
	}
	return n
}

// At gives where byte off of the place lies and how many bytes follow in one piece.
func (p Place) At(off int64) (file uint32, at, n int64) {
	for _, r := range p {
		if size := int64(r.Units) * Unit; off >= size {
			off -= size
			continue
		}
		return r.File, int64(r.Start)*Unit + off, int64(r.Units)*Unit - off
	}
	return 0, 0, 0
}

// Append writes p as Decode reads it.
func (p Place) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	for _, r := range p {
		b = binary.AppendUvarint(b, uint64(r.File))
		b = binary.AppendUvarint(b, uint64(r.Start))
		b = binary.AppendUvarint(b, uint64(r.Units))
	}
	return b
}

// Decode reads a place.
func Decode(r *codec.Reader) Place {
	p := make(Place, r.Count(RunsMax, 3))
	for i := range p {
		for _, v := range []*uint32{&p[i].File, &p[i].Start, &p[i].Units} {
			n := r.Uvarint()
			if n > 1<<31 {
				r.Fail("run", 1<<31, n)
			}
			*v = uint32(n)
		}
		if p[i].Units == 0 {
			r.Fail("run units", 1, 0)
		}
	}
	return p
}

// Allocator knows which units are taken.
type Allocator struct {
	units uint32 // per file

	mu struct {
		sync.Mutex
		files []*fileMap // by number; nil where there is no file
		used  int64
		next  int // file to look at first
	}
}

type fileMap struct {
	words []uint64 // a bit is a unit; set is taken
	free  uint32
	hint  uint32 // no unit below is free
}

// NewAllocator makes one for files of unitsPerFile units, a multiple of 64, without files.
func NewAllocator(unitsPerFile uint32) *Allocator {
	if unitsPerFile == 0 || unitsPerFile%64 != 0 {
		panic("extent: units per file must be a multiple of 64")
	}
	return &Allocator{units: unitsPerFile}
}

// AddFile makes the room of a file available.
func (a *Allocator) AddFile(n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.mu.files) <= int(n) {
		a.mu.files = append(a.mu.files, nil)
	}
	if a.mu.files[n] == nil {
		a.mu.files[n] = &fileMap{words: make([]uint64, a.units/64), free: a.units}
	}
}

// RemoveFile takes the room of a wholly free file away; false if it is not free.
func (a *Allocator) RemoveFile(n uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(n) >= len(a.mu.files) || a.mu.files[n] == nil || a.mu.files[n].free != a.units {
		return false
	}
	a.mu.files[n] = nil
	return true
}

// Mark takes the units of a place found in the index. Units that are taken
// already or lie in no file are an error of class errs.ErrCorrupt.
func (a *Allocator) Mark(p Place) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range p {
		if int(r.File) >= len(a.mu.files) || a.mu.files[r.File] == nil || uint64(r.Start)+uint64(r.Units) > uint64(a.units) {
			return &errs.Corrupt{Place: fmt.Sprintf("extent %d", r.File), Offset: int64(r.Start) * Unit, What: "run in an extent file", Want: uint64(a.units), Got: uint64(r.Start) + uint64(r.Units)}
		}
		f := a.mu.files[r.File]
		for u := r.Start; u < r.Start+r.Units; u++ {
			if f.taken(u) {
				return &errs.Corrupt{Place: fmt.Sprintf("extent %d", r.File), Offset: int64(u) * Unit, What: "unit taken twice", Want: 0, Got: 1}
			}
			f.set(u)
		}
		a.mu.used += int64(r.Units)
	}
	return nil
}

// Alloc takes units, in one run if there is one, else in at most RunsMax. False:
// there is not that much room; add a file and ask again.
func (a *Allocator) Alloc(units uint32) (Place, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.mu.files)
	for i := range n {
		at := (a.mu.next + i) % n
		f := a.mu.files[at]
		if f == nil || f.free < units {
			continue
		}
		if start, ok := f.run(units, a.units); ok {
			a.mu.next = at
			return a.take(Place{{File: uint32(at), Start: start, Units: units}}), true
		}
	}
	return nil, false
}

// AllocPieces takes units in up to RunsMax runs: for a store that cannot have
// another file. False: there is not that much room, or it is too scattered.
func (a *Allocator) AllocPieces(units uint32) (Place, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var p Place
	for n, f := range a.mu.files {
		if f == nil || f.free == 0 {
			continue
		}
		for u := f.hint; u < a.units && units > 0; {
			if f.taken(u) {
				u++
				continue
			}
			start := u
			for u < a.units && u-start < units && !f.taken(u) {
				u++
			}
			if len(p) == RunsMax {
				return nil, false
			}
			p = append(p, Run{File: uint32(n), Start: start, Units: u - start})
			units -= u - start
		}
	}
	if units > 0 {
		return nil, false
	}
	return a.take(p), true
}

func (a *Allocator) take(p Place) Place {
	for _, r := range p {
		f := a.mu.files[r.File]
		for u := r.Start; u < r.Start+r.Units; u++ {
			f.set(u)
		}
		a.mu.used += int64(r.Units)
	}
	return p
}

// Free gives the units of a place back. They may be written over at once. It
// tells which of the files are wholly free now.
func (a *Allocator) Free(p Place) (empty []uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range p {
		f := a.mu.files[r.File]
		for u := r.Start; u < r.Start+r.Units; u++ {
			if !f.taken(u) {
				panic("extent: a unit is freed that is not taken")
			}
			f.words[u/64] &^= 1 << (u % 64)
		}
		f.free += r.Units
		f.hint = min(f.hint, r.Start)
		a.mu.used -= int64(r.Units)
		if f.free == a.units {
			empty = append(empty, r.File)
		}
	}
	return empty
}

// Used is the units taken, Files the files there are, both now.
func (a *Allocator) Used() (units int64, files int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.mu.files {
		if f != nil {
			files++
		}
	}
	return a.mu.used, files
}

// NextFile is the lowest number without a file.
func (a *Allocator) NextFile() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, f := range a.mu.files {
		if f == nil {
			return uint32(n)
		}
	}
	return uint32(len(a.mu.files))
}

func (f *fileMap) taken(u uint32) bool { return f.words[u/64]&(1<<(u%64)) != 0 }

func (f *fileMap) set(u uint32) {
	f.words[u/64] |= 1 << (u % 64)
	f.free--
}

// run finds the first run of free units, and raises the hint.
func (f *fileMap) run(units, size uint32) (uint32, bool) {
	u := f.hint
	first := true
	for u < size {
		w := ^f.words[u/64] >> (u % 64) // free units from u on
		if w == 0 {
			u = (u/64 + 1) * 64
			continue
		}
		u += uint32(bits.TrailingZeros64(w))
		if first {
			f.hint, first = u, false
		}
		start := u
		for u < size && u-start < units && !f.taken(u) {
			u++
		}
		if u-start == units {
			return start, true
		}
		u++
	}
	return 0, false
}
