package coretest

import (
	"io"
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
)

// memoryFile is a File of memory that grows.
type memoryFile struct{ b []byte }

func (m *memoryFile) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > int64(len(m.b)) {
		return 0, io.EOF
	}
	return copy(p, m.b[at:]), nil
}

func (m *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	if end := at + int64(len(p)); end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[at:], p), nil
}

// Without this a disk written here and there everywhere, the usual end of every disk,
// would take as much memory as its map is long: pages that are never evicted, or dirty
// ones that no checkpoint takes away. A 16 GiB disk has here the share of the map cache that a disk of
// 1 TiB has by default; make bench BENCH=map does the same to all of that.
func TestRandomlyFilledMapStaysWithinItsCache(t *testing.T) {
	const (
		blocks = 16 << 30 / block.Size
		cache  = blocks / (1 << 28 / (256 << 20 / blockmap.PageSize))
		run    = 128
	)
	f, err := NewFiller(FillConfig{Blocks: blocks, CachePages: cache, Pages: &memoryFile{}, Owners: &memoryFile{}})
	if err != nil {
		t.Fatal(err)
	}
	order := rand.New(rand.NewPCG(1, 1)).Perm(blocks / run)
	if err := f.Fill(run, 0, blocks/run, func(i uint64) uint64 { return uint64(order[i]) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Settle(); err != nil {
		t.Fatal(err)
	}
	x := f.Facts()
	t.Logf("%+v", x)
	if x.Blocks != blocks {
		t.Errorf("%d blocks written of %d", x.Blocks, blocks)
	}
	if most := cache + run + 64; x.CachedPages > most { // what a commit makes dirty, and the inner pages above
		t.Errorf("%d pages of the map in memory, with a cache of %d: at most %d", x.CachedPages, cache, most)
	}
	if x.PagesRead < blocks/blockmap.Fanout {
		t.Errorf("%d pages read back: the cache was never too small", x.PagesRead)
	}
	for i := range uint64(1000) {
		e := block.Extent{Start: block.LBA(order[i] * run), Count: run}
		if err := f.Verify(e); err != nil {
			t.Fatal(err)
		}
	}
}
