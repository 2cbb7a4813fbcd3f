package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
)

// mapResult is what the map of a large disk costs that was written here and there everywhere.
type mapResult struct {
	DiskGiB  uint64   `json:"disk_gib"`
	CacheMiB int      `json:"map_cache_mib"`
	Run      uint64   `json:"run_blocks"` // of a write of the filling
	Fill     mapPhase `json:"fill"`
	Update   mapPhase `json:"update"` // single blocks
	Verified int      `json:"verified_blocks"`
	// Slack is what the engine may hold beside the cache before the mark is missed.
	SlackMiB int `json:"slack_mib"`
}

// mapPhase is a time of writing.
type mapPhase struct {
	Writes   uint64             `json:"writes"`
	Blocks   uint64             `json:"blocks"`
	Seconds  float64            `json:"s"`
	CPU      float64            `json:"cpu_us_per_write"`
	StoreCPU float64            `json:"store_us_per_write"` // of that, reading and writing the pages' file
	Resident float64            `json:"resident_mib"`       // at most, since the program began
	Facts    coretest.FillFacts `json:"facts"`
}

// mapCommitMiB are the pages that a commit may make dirty, above the cache where that is full of dirty ones: a segment of
// blocks that lie under a page each.
const mapCommitMiB = 16

// mapSlackMiB is that, the segment table, which is in memory whole (65,536 segments of a full TiB and those of pages),
// what a checkpoint and a memtable in flight need, and what the program needs itself.
const mapSlackMiB = 64

// memoryFile is a file that lies in memory and is not counted as this process's.
type memoryFile struct {
	*os.File
	spent time.Duration
}

func (f *memoryFile) ReadAt(p []byte, at int64) (int, error) {
	began := time.Now()
	defer func() { f.spent += time.Since(began) }()
	return f.File.ReadAt(p, at)
}

func (f *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	began := time.Now()
	defer func() { f.spent += time.Since(began) }()
	return f.File.WriteAt(p, at)
}

func newMemoryFile(name string) (*memoryFile, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return &memoryFile{File: os.NewFile(uintptr(fd), name)}, nil
}

// bigMap fills the map of a disk of 1 TiB at random, over a store that keeps the map's
// pages in memory and of data only which block a slot is of.
func (b *bench) bigMap(ctx context.Context) error {
	gib, err := fromEnvironment("MAP_GIB", uint64(b.plan.DiskMiB)/1024)
	if err != nil {
		return err
	}
	run, err := fromEnvironment("MAP_RUN", 32)
	if err != nil {
		return err
	}
	b.plan.MapMiB = max(1, int(uint64(b.plan.MapMiB)*gib/1024))
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	r := &mapResult{DiskGiB: gib, CacheMiB: b.plan.MapMiB, Run: run, SlackMiB: mapSlackMiB}
	b.report.Map = r
	pages, err := newMemoryFile("pages")
	if err != nil {
		return err
	}
	owners, err := newMemoryFile("owners")
	if err != nil {
		return err
	}
	b.files = append(b.files, pages.File, owners.File)
	blocks := gib << 30 / block.Size
	f, err := coretest.NewFiller(coretest.FillConfig{
		Blocks: block.LBA(blocks), CachePages: r.CacheMiB << 20 / blockmap.PageSize, Pages: pages, Owners: owners,
	})
	if err != nil {
		return err
	}
	say("map: a disk of %d GiB with %d MiB for the map is filled at random, %d blocks at a time", gib, r.CacheMiB, run)
	w := writer{f: f, files: []*memoryFile{pages, owners}}
	if r.Fill, err = w.write(ctx, run, blocks/run, shuffled(blocks/run)); err != nil {
		return err
	}
	say("  and then written at random, a block at a time")
	rng := rand.New(rand.NewPCG(2, 2))
	if r.Update, err = w.write(ctx, 1, min(blocks/8, 1<<21), func(uint64) uint64 { return rng.Uint64N(blocks) }); err != nil {
		return err
	}
	for ; r.Verified < 1<<14; r.Verified++ {
		if err := f.Verify(block.Extent{Start: block.LBA(rng.Uint64N(blocks)), Count: 1}); err != nil {
			return err
		}
	}
	runtime.KeepAlive(f)
	return nil
}

// writer measures times of writing.
type writer struct {
	f     *coretest.Filler
	files []*memoryFile
}

func (w *writer) write(ctx context.Context, run, count uint64, order func(uint64) uint64) (mapPhase, error) {
	before, spent, cpu, began := w.f.Facts(), w.spent(), cpuOf(os.Getpid()), time.Now()
	p, step := mapPhase{}, max(1, count/16)
	for at := uint64(0); at < count; at += step {
		if err := ctx.Err(); err != nil {
			return p, err
		}
		if err := w.f.Fill(run, at, min(step, count-at), order); err != nil {
			return p, err
		}
		x := w.f.Facts()
		say("  %3.0f %%: %.0f MiB of pages in memory, %.0f MiB of heap in use, %.0f MiB of it live, %.0f MiB resident", 100*float64(min(count, at+step))/float64(count),
			mib(x.CachedPages*blockmap.PageSize), mib(x.HeapInUse), mib(x.HeapLive), residentMiB(os.Getpid()))
		p.Resident = max(p.Resident, residentMiB(os.Getpid()))
	}
	if err := w.f.Settle(); err != nil {
		return p, err
	}
	p.Seconds = time.Since(began).Seconds()
	p.CPU = (cpuOf(os.Getpid()) - cpu) / float64(count) * 1e6
	p.StoreCPU = (w.spent() - spent).Seconds() / float64(count) * 1e6
	p.Facts = w.f.Facts()
	p.Writes, p.Blocks = p.Facts.Writes-before.Writes, p.Facts.Blocks-before.Blocks
	p.Facts.PagesRead -= before.PagesRead
	p.Facts.MapPages -= before.MapPages
	p.Facts.TablePages -= before.TablePages
	p.Facts.Checkpoints -= before.Checkpoints
	p.Facts.SegmentsDeleted -= before.SegmentsDeleted
	return p, nil
}

func (w *writer) spent() (d time.Duration) {
	for _, f := range w.files {
		d += f.spent
	}
	return d
}

func mib[N int | uint64](bytes N) float64 { return float64(bytes) / (1 << 20) }

// shuffled is a permutation of the numbers below n, a power of two, that needs no memory.
func shuffled(n uint64) func(uint64) uint64 {
	mask, bits := n-1, 0
	for n>>bits > 1 {
		bits++
	}
	return func(i uint64) uint64 {
		for range 3 { // each step can be taken back: an odd factor, and bits that change those below
			i = (i*0x9e3779b97f4a7c15 + 0x7f4a7c15) & mask
			i ^= i >> (bits/2 + 1)
		}
		return i
	}
}

func fromEnvironment(name string, otherwise uint64) (uint64, error) {
	text := os.Getenv(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 || n&(n-1) != 0 {
		return 0, fmt.Errorf("%s=%s: want a power of two", name, text)
	}
	return n, nil
}

func (r *report) mapMarkdown() string {
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	x, m := r.Map, r.Machine
	p("\n## map\n")
	p("`make bench BENCH=map` on %s, commit %s, %.0f s. %d cores of %s, %s, kernel %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, r.Took, m.Cores, m.CPU, m.Memory, m.Kernel)
	p("The core of a disk of %d GiB with %d MiB for its map (%d MiB of map when all is written), over a store in memory that is not counted here: it keeps pages, and of data only which block a slot is of.", x.DiskGiB, x.CacheMiB, x.DiskGiB*2)
	p("Every block is written once, %d blocks at a time in random order; then single blocks at random. CPU is the core's, collections of garbage included and the store's file not; no data is copied, sent or encoded.\n", x.Run)
	p("| | writes | pages in memory, at most | heap live | heap in use, at most | resident, at most | pages read | pages written, of the table | checkpoints | bytes of pages for each of data | CPU for a write |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	row := func(what string, y *mapPhase) {
		k := &y.Facts
		p("| %s | %d | %.0f MiB | %.0f MiB | %.0f MiB | %.0f MiB | %d | %d, %d | %d | %.2f | %.1f µs |", what, y.Writes, mib(k.CachedPages*blockmap.PageSize), mib(k.HeapLive), mib(k.HeapInUse), y.Resident,
			k.PagesRead, k.MapPages, k.TablePages, k.Checkpoints, float64(k.MapPages+k.TablePages)/float64(y.Blocks), y.CPU-y.StoreCPU)
	}
	row("filling", &x.Fill)
	row("single blocks", &x.Update)
	live := max(mib(x.Fill.Facts.HeapLive), mib(x.Update.Facts.HeapLive))
	cached := max(x.Fill.Facts.CachedPages, x.Update.Facts.CachedPages)
	verdict := "met"
	if live > float64(x.CacheMiB+x.SlackMiB) || mib(cached*blockmap.PageSize) > float64(x.CacheMiB+mapCommitMiB) {
		verdict = "**missed**"
	}
	p("\nPages in memory ≤ the cache of %d MiB and %d MiB that a commit may make dirty, and all that lives in the heap ≤ the cache and %d MiB: %s. Go lets garbage grow to as much as lives before it collects, so what is in use is more.", x.CacheMiB, mapCommitMiB, x.SlackMiB, verdict)
	p("The stores hold %.2f GiB of page segments at the end, with the pages in them that no tree has any more. %d blocks were looked up again: each lies in the slot that was written for it.", mib(x.Update.Facts.PageSegmentBytes)/1024, x.Verified)
	return w.String() + "\n"
}
