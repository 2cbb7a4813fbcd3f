package blockmap

import (
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/id"
)

// warm gives a map of 1 TiB with every block of its first 4 GiB.
func warm(b *testing.B) (*Map, block.LBA) {
	const n = 1 << 20
	m, err := New(Options{Blocks: 1 << 28})
	if err != nil {
		b.Fatal(err)
	}
	locs := make([]id.Location, n)
	for i := range locs {
		locs[i] = id.Location(1<<24 + i)
	}
	m.Insert(0, locs, nil)
	return m, n
}

func BenchmarkLookup(b *testing.B) {
	m, n := warm(b)
	r := rand.New(rand.NewPCG(1, 2))
	where := make([]block.LBA, 4096)
	for i := range where {
		where[i] = block.LBA(r.Uint64N(uint64(n)))
	}
	var dst [1]id.Location
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Lookup(where[i&4095], dst[:])
		i++
	}
}

func BenchmarkInsert(b *testing.B) {
	m, n := warm(b)
	r := rand.New(rand.NewPCG(1, 2))
	where := make([]block.LBA, 4096)
	for i := range where {
		where[i] = block.LBA(r.Uint64N(uint64(n)))
	}
	var loc [1]id.Location
	count := 0
	displaced := func(block.LBA, id.Location) { count++ }
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		loc[0] = id.Location(1<<25 + i)
		m.Insert(where[i&4095], loc[:], displaced)
		i++
	}
}

func BenchmarkFreezeCommit(b *testing.B) {
	m, _ := warm(b)
	b.ReportAllocs()
	var loc [1]id.Location
	i := 0
	for b.Loop() {
		for l := range 1024 {
			i++
			loc[0] = id.Location(1<<25 + i)
			m.Insert(block.LBA(l*512), loc[:], nil)
		}
		f := m.Freeze()
		for i := range f.Pages() {
			f.Assign(i, id.Location(1<<24+i))
		}
		m.Commit(f, nil)
	}
}

func BenchmarkTableAddLive(b *testing.B) {
	t := NewTable()
	for i := range 1 << 16 {
		t.Put(id.MakeSegment(id.Sequence(i+1), 3), Entry{Generation: id.Generation{Epoch: 1}, Slots: 4096, K: 4, M: 2, Live: 2000})
	}
	r := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		t.AddLive(id.MakeSegment(id.Sequence(r.Uint64N(1<<16)+1), 3), 1-i&1*2)
		i++
	}
}
