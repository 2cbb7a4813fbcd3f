package coretest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// FillConfig says what a Filler is to fill.
type FillConfig struct {
	Blocks block.LBA // a power of two
	// CachePages is the budget of the map, as blockd's memory.map_cache gives it.
	CachePages int
	// Pages keeps the pages of the map, Owners which block each slot of a segment was
	// written for. What they hold in memory is not the engine's: files are best.
	Pages, Owners File
}

// File is what a Filler keeps pages and owners in. What was never written reads as zeros or io.EOF.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// FillFacts are what a Filler has seen so far.
type FillFacts struct {
	Writes, Blocks         uint64 // acknowledged
	PagesRead              uint64 // of the map, from the stores
	MapPages, TablePages   uint64 // written by checkpoints
	SegmentsDeleted        uint64
	CachedPages            int    // in memory at most, as the budget counts
	DirtyPages             int    // of these not to be evicted, at most
	HeapLive, HeapInUse    uint64 // bytes: after a collection, and at the worst moment of those that were looked at
	Checkpoints            uint64
	Segments, DeadSegments int
	PageSegmentBytes       uint64 // of segments that hold pages of the map, the dead ones in them too
}

// Filler drives one real core whose stores answer at once: of data they keep nothing but
// whose it was, of the map's pages the newest two versions (no snapshot, so nobody asks
// for an older one). So disks fit that are larger than this machine. Not safe for
// concurrent use.
type Filler struct {
	cfg    FillConfig
	budget *blockmap.Budget
	e      *Engine
	now    time.Duration
	fx     core.Effects
	facts  FillFacts
	looks  int
	err    error
	levels []uint64 // the first page of each level in cfg.Pages
	page   [pageRecord]byte

	sends []*journal.Send
	jobs  []*core.PackJob
	reads []core.PageRead
	del   []core.Delete
	ended []*core.Op
}

// pageRecord is a page and, before it, where it lies.
const pageRecord = 8 + blockmap.PageSize

// NewFiller gives a volume of zeros. The cleaner is off, for data and for pages: a store that keeps
// no data has nothing to clean, and time stands still.
func NewFiller(cfg FillConfig) (*Filler, error) {
	budget := blockmap.NewBudget(cfg.CachePages)
	w := New(Config{Seed: 1, Stores: 3, Blocks: cfg.Blocks, Budget: budget, Limits: core.Limits{LongBlocksMin: -1, CleanPercent: -1, PagesPercent: -1}})
	e := w.open()
	if err := w.Settle(); err != nil {
		return nil, err
	}
	w.Quiesce()
	e.lend()
	f := &Filler{cfg: cfg, budget: budget, e: e, now: w.now()}
	first := uint64(0)
	for n := uint64(cfg.Blocks); n > 1; {
		n = (n + blockmap.Fanout - 1) / blockmap.Fanout
		f.levels = append(f.levels, first)
		first += n
	}
	return f, nil
}

// lend gets the engine its grants, which last as long as the clock stands still.
func (e *Engine) lend() {
	e.w.cfg.Leases = true
	for range 20 {
		e.w.pass(20 * time.Millisecond)
		for e.w.happen() {
		}
	}
}

// Fill writes runs of blocks, from the first on, as order says where; each is a write of
// its own, up to 32 of them at once. A run's place is order's answer times its length.
func (f *Filler) Fill(run, first, count uint64, order func(uint64) uint64) error {
	payload := buf.Get(int(run * block.Size))
	defer payload.Release()
	sum := codec.CRC(payload.Bytes()[:block.Size])
	ops := make([]core.Op, 32)
	for i := first; i < first+count && f.err == nil; {
		f.e.Core.Cork()
		for j := 0; j < len(ops) && i < first+count; j++ {
			op := &ops[j]
			op.Reset()
			op.Kind, op.Extent = core.OpWrite, block.Extent{Start: block.LBA(order(i) * run), Count: uint32(run)}
			op.Buf = payload
			for range run {
				op.Sums = append(op.Sums, sum)
			}
			f.e.Core.Submit(f.now, op, &f.fx)
			i++
		}
		f.e.Core.Uncork(f.now, &f.fx)
		f.carry()
	}
	return f.err
}

// Settle packs what is not packed and writes a last checkpoint.
func (f *Filler) Settle() error {
	f.now += time.Hour
	f.e.Core.Tick(f.now, &f.fx) // the memtable is idle
	f.carry()
	f.e.Core.Force()
	f.e.Core.Tick(f.now, &f.fx)
	f.carry()
	f.now -= time.Hour
	if s := f.e.Core.Stats(); f.err == nil && (s.UnpackedBytes > 0 || s.MapDirty > 0) {
		f.err = fmt.Errorf("%d bytes not packed and %d pages not written after all has settled", s.UnpackedBytes, s.MapDirty)
	}
	return f.err
}

// Verify reads blocks and checks that each lies in a slot that was written for it.
func (f *Filler) Verify(e block.Extent) error {
	op := &core.Op{Kind: core.OpRead, Extent: e}
	f.e.Core.Submit(f.e.w.now(), op, &f.fx)
	for range 16 {
		if len(f.fx.Reads) > 0 || f.err != nil {
			break
		}
		f.carry()
	}
	if f.err != nil {
		return f.err
	}
	if len(f.fx.Reads) != 1 || op.Err != nil {
		return fmt.Errorf("read of %v does not end: %w", e, op.Err)
	}
	f.fx.Reset()
	var owner [4]byte
	for _, p := range op.Pieces {
		if p.Kind == core.PieceMemory {
			p.Buf.Release()
			continue
		}
		if p.Kind != core.PieceSlots {
			return fmt.Errorf("block %d was written and is a hole", uint64(e.Start)+uint64(p.At))
		}
		for i := range p.Count {
			at := (uint64(p.Location.Segment().Sequence())<<12 | uint64(p.Location.Slot()) + uint64(i)) * 4
			if _, err := f.cfg.Owners.ReadAt(owner[:], int64(at)); err != nil {
				return fmt.Errorf("owner of %v: %w", p.Location, err)
			}
			if got, want := uint64(binary.LittleEndian.Uint32(owner[:])), uint64(e.Start)+uint64(p.At+i); got != want {
				return fmt.Errorf("block %d is looked for at %v, which was written for block %d", want, p.Location, got)
			}
		}
	}
	return nil
}

// Facts are what was seen so far. It collects garbage, to know what is in use.
func (f *Filler) Facts() FillFacts {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	s, x := f.e.Core.Stats(), f.facts
	x.HeapLive, x.HeapInUse = m.HeapAlloc, max(x.HeapInUse, m.HeapInuse)
	x.Checkpoints, x.Segments, x.DeadSegments, x.PageSegmentBytes = s.Checkpoints, s.Segments, s.DeadSegments, s.PageBytes
	return x
}

// carry answers everything that a step asked for, until nothing but reads is left.
func (f *Filler) carry() {
	c := f.e.Core
	for f.err == nil {
		f.look()
		fx := &f.fx
		f.sends, f.jobs = append(f.sends[:0], fx.Journal.Appends...), append(f.jobs[:0], fx.Packs...)
		f.reads, f.del = append(f.reads[:0], fx.Pages...), append(f.del[:0], fx.Deletes...)
		f.ended = append(f.ended[:0], fx.Reads...)
		again, check, rng := fx.Again, fx.Checkpoint, fx.Range
		idle := len(f.sends)+len(f.jobs)+len(f.reads)+len(f.del) == 0 && !again && !rng && check == nil
		f.written(fx)
		fx.Reset()
		fx.Reads = append(fx.Reads, f.ended...)
		if idle {
			return
		}
		for _, s := range f.sends {
			s.Append.Err = nil
			c.AppendDone(f.now, s, fx)
		}
		for _, p := range f.reads {
			b, err := f.readPage(p)
			c.PageDone(f.now, p, b, err, fx)
		}
		for _, j := range f.jobs {
			f.put(j)
			c.PackDone(f.now, j, core.PackResult{}, fx)
		}
		for _, d := range f.del {
			f.facts.SegmentsDeleted++
			c.DeleteDone(f.now, d, fx)
		}
		if rng {
			r, err := f.e.w.Metad.AllocRange(context.Background(), f.e.w.volume, f.e.epoch)
			c.RangeDone(f.now, r.First, uint64(r.Count), err, fx)
		}
		if check != nil {
			c.CheckpointDone(f.now, check.Position, nil, fx)
		}
		if again {
			c.Continue(f.now, fx)
		}
	}
}

// written counts what has ended.
func (f *Filler) written(fx *core.Effects) {
	for _, op := range fx.Done {
		if op.Err != nil {
			f.err = fmt.Errorf("operation on %v: %w", op.Extent, op.Err)
		}
		f.facts.Writes++
		f.facts.Blocks += uint64(op.Extent.Count)
	}
	if fx.Broken != nil || fx.Fenced || fx.AskPlace || fx.CleanList != nil {
		f.err = fmt.Errorf("the volume does not go on: broken %v, fenced %t, without a group %t, cleaning %t", fx.Broken, fx.Fenced, fx.AskPlace, fx.CleanList != nil)
	}
}

// look notes what is in memory; at the heap only now and then, for that stops everything.
func (f *Filler) look() {
	f.facts.CachedPages = max(f.facts.CachedPages, f.budget.Used())
	f.facts.DirtyPages = max(f.facts.DirtyPages, f.e.Core.Stats().MapDirty)
	if f.looks++; f.looks%4096 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		f.facts.HeapInUse = max(f.facts.HeapInUse, m.HeapInuse)
	}
}

// put keeps what is worth keeping of a segment.
func (f *Filler) put(j *core.PackJob) {
	owners := make([]byte, 0, 4*len(j.Blocks))
	for i := range j.Blocks {
		e := segment.Entry(j.Blocks[i].Entry)
		switch e.Kind() {
		case segment.Data:
			owners = binary.LittleEndian.AppendUint32(owners, uint32(e.LBA()))
		case segment.TablePage: // read only by who opens the volume
			f.facts.TablePages++
			j.Encode(i, f.page[8:])
		case segment.MapPage:
			f.facts.MapPages++
			f.writePage(e, uint64(j.Segment)<<12|uint64(i), func(dst []byte) { j.Encode(i, dst) })
		}
	}
	if len(owners) > 0 {
		if _, err := f.cfg.Owners.WriteAt(owners, int64(j.Segment.Sequence())<<12*4); err != nil {
			f.err = err
		}
	}
}

// place is where the first version of a page of the map is kept.
func (f *Filler) place(level uint8, index uint64) int64 {
	return int64((f.levels[level] + index) * 2 * pageRecord)
}

// writePage keeps a page in place of the older of its two versions.
func (f *Filler) writePage(e segment.Entry, location uint64, encode func([]byte)) {
	at := f.place(e.Level(), e.Index())
	if f.versionAt(at) > f.versionAt(at+pageRecord) {
		at += pageRecord
	}
	binary.LittleEndian.PutUint64(f.page[:], location)
	encode(f.page[8:])
	if _, err := f.cfg.Pages.WriteAt(f.page[:], at); err != nil {
		f.err = err
	}
}

// versionAt is where the page that is kept at a place lies for the engine; 0: there is none.
func (f *Filler) versionAt(at int64) uint64 {
	var b [8]byte
	if _, err := f.cfg.Pages.ReadAt(b[:], at); err != nil {
		return 0 // beyond what was written yet
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (f *Filler) readPage(p core.PageRead) ([]byte, error) {
	f.facts.PagesRead++
	at := f.place(p.Miss.Level, p.Miss.Index)
	for range 2 {
		if f.versionAt(at) == uint64(p.Miss.Location) {
			_, err := f.cfg.Pages.ReadAt(f.page[:], at)
			return f.page[8 : 8+storeproto.BlockSize], err
		}
		at += pageRecord
	}
	f.err = fmt.Errorf("page %d.%d is asked for at %v, where neither of its last two versions lies", p.Miss.Level, p.Miss.Index, p.Miss.Location)
	return nil, f.err
}
