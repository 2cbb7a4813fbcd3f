package coretest

import (
	"testing"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// track is an engine whose stores answer at once and keep nothing: what is left is
// the cost of the cores.
type track struct {
	e    *Engine
	now  time.Duration
	fx   core.Effects
	jobs []*core.PackJob
	del  []core.Delete
	next id.Sequence
}

func newTrack(b *testing.B, limits core.Limits) *track {
	w := New(Config{Seed: 1, Stores: 3, Blocks: 1 << 22, Limits: limits})
	e := w.open()
	if err := w.Settle(); err != nil {
		b.Fatal(err)
	}
	w.Quiesce()
	return &track{e: e, now: w.now(), next: 1 << 30}
}

// carry answers everything that a step asked for, until nothing is left.
func (t *track) carry() {
	c := t.e.Core
	var sends []*journal.Send
	for {
		sends = append(sends[:0], t.fx.Journal.Appends...)
		t.jobs = append(t.jobs[:0], t.fx.Packs...)
		t.del = append(t.del[:0], t.fx.Deletes...)
		again, check, rng := t.fx.Again, t.fx.Checkpoint, t.fx.Range
		t.fx.Reset()
		for _, s := range sends {
			s.Append.Err = nil
			c.AppendDone(t.now, s, &t.fx)
		}
		for _, j := range t.jobs {
			c.PackDone(t.now, j, core.PackResult{}, &t.fx)
		}
		for _, d := range t.del {
			c.DeleteDone(t.now, d, &t.fx)
		}
		if rng {
			t.next += 4096
			c.RangeDone(t.now, t.next, 4096, nil, &t.fx)
		}
		if check != nil {
			c.CheckpointDone(t.now, check.Position, nil, &t.fx)
		}
		if again {
			c.Continue(t.now, &t.fx)
		}
		if len(t.fx.Journal.Appends) == 0 && len(t.fx.Packs) == 0 && len(t.fx.Deletes) == 0 && !t.fx.Again && !t.fx.Range && t.fx.Checkpoint == nil {
			return
		}
	}
}

// One write of 4 KiB: taken, sent to three stores, acknowledged, in the memtable; and
// its share of packing, commit and checkpoint.
func BenchmarkWrite(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "q1", 32: "q32"}[depth], func(b *testing.B) {
			t := newTrack(b, core.Limits{LongBlocksMin: -1})
			payload := buf.Get(block.Size)
			sum := codec.CRC(payload.Bytes())
			ops := make([]core.Op, depth)
			l := uint64(1)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += depth {
				t.e.Core.Cork()
				for i := range ops {
					op := &ops[i]
					op.Reset()
					l = l*6364136223846793005 + 1442695040888963407
					op.Kind, op.Extent = core.OpWrite, block.Extent{Start: block.LBA(l >> 42), Count: 1}
					op.Buf, op.Sums = payload, append(op.Sums, sum)
					t.e.Core.Submit(t.now, op, &t.fx)
				}
				t.e.Core.Uncork(t.now, &t.fx)
				t.carry()
			}
		})
	}
}

// One read of 4 KiB whose place the map has in memory.
func BenchmarkReadMapHit(b *testing.B) {
	t := newTrack(b, core.Limits{LongBlocksMin: -1, SealBlocks: 1024})
	payload := buf.Get(block.Size)
	sums := []uint32{codec.CRC(payload.Bytes())}
	for l := range uint64(64 << 10) {
		op := &core.Op{Kind: core.OpWrite, Extent: block.Extent{Start: block.LBA(l), Count: 1}, Buf: payload, Sums: sums}
		t.e.Core.Submit(t.now, op, &t.fx)
		t.carry()
	}
	var op core.Op
	l := uint64(1)
	t.e.lend()
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		l = l*6364136223846793005 + 1442695040888963407
		op.Reset()
		op.Kind, op.Extent = core.OpRead, block.Extent{Start: block.LBA(l>>48) % (60 << 10), Count: 1}
		t.e.Core.Submit(t.e.w.now(), &op, &t.fx)
		if len(t.fx.Reads) != 1 {
			b.Fatal("the read waits")
		}
		for i := range op.Pieces {
			op.Pieces[i].Buf.Release()
		}
		t.fx.Reset()
	}
}
