package chunk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
)

// benchDir is a directory on a real disk: the benchmark's temporary directory,
// or ASHLAR_BENCH_DIR.
func benchDir(b *testing.B) string {
	if d := os.Getenv("ASHLAR_BENCH_DIR"); d != "" {
		d, err := os.MkdirTemp(d, "chunk")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(d) })
		return d
	}
	return b.TempDir()
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchStore(b *testing.B, delay time.Duration) *Store {
	dir := benchDir(b)
	if _, err := Format(dir, FormatOptions{ID: id.Store{1}, Incarnation: id.Incarnation{2}, LogFileBytes: 64 << 20, LogFilesMax: 8}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(dir, Options{Clock: clock.System, SyncDelay: delay})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// appender keeps one append in flight and pools it.
type appender struct {
	a storeproto.Append
	b storeproto.Batch
}

func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		depth, blocks int
		delay         time.Duration
	}{{1, 1, 0}, {32, 1, 0}, {4, 256, 0}, {32, 1, time.Millisecond}} {
		b.Run(fmt.Sprintf("qd%d/%dk/delay=%s", c.depth, 4*c.blocks, c.delay), func(b *testing.B) {
			benchAppend(b, benchStore(b, c.delay), c.depth, c.blocks)
		})
	}
}

// benchAppend appends to one stream, depth in flight, as an engine does: batches
// in order, released behind.
func benchAppend(b *testing.B, s *Store, depth, blocks int) {
	proto := storetest.Batch(3, 1, 1, blocks, 5)
	free := make(chan *appender, depth)
	for range depth {
		p := &appender{}
		p.a.Done = func(a *storeproto.Append) {
			if a.Err != nil {
				panic(a.Err)
			}
			free <- p
		}
		free <- p
	}
	name := storetest.Stream(3, 1, storeproto.Journal)
	lag := min(1000, 64<<20/(blocks*4096))
	b.ReportAllocs()
	before, start := s.Stats(), cpu()
	b.ResetTimer()
	for i := range b.N {
		p := <-free
		p.b = storeproto.Batch{Epoch: 3, First: id.LSN(i + 1), Count: 1, Meta: proto.Meta, Sums: proto.Sums, Payload: proto.Payload}
		p.b.Seal()
		p.a.Stream, p.a.Epoch, p.a.Batch, p.a.Base = name, 3, &p.b, i == 0
		p.a.Released = id.LSN(max(i-lag, 0))
		s.Append(&p.a)
	}
	for range depth {
		<-free
	}
	b.StopTimer()
	after := s.Stats()
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(after.Syncs-before.Syncs)/float64(b.N), "syncs/op")
	b.ReportMetric(float64(after.WriteBytes-before.WriteBytes)/float64(b.N), "disk-B/op")
}

func BenchmarkReadShard(b *testing.B) {
	s := benchStore(b, 0)
	const shards, blocks = 32, 1024
	gen := id.Generation{Epoch: 3, N: 1}
	for i := range shards {
		p := storetest.Shard(id.MakeSegment(id.Sequence(i+1), 1), gen, 0, blocks, uint64(i))
		if err := storetest.Put(s, p); err != nil {
			b.Fatal(err)
		}
	}
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprintf("4k/qd%d", depth), func(b *testing.B) {
			free := make(chan *storeproto.ReadShard, depth)
			for range depth {
				free <- &storeproto.ReadShard{Count: 1, Generation: gen, Dst: buf.Get(4096).Bytes(), Sums: make([]uint32, 1),
					Done: func(r *storeproto.ReadShard) {
						if r.Err != nil {
							panic(r.Err)
						}
						free <- r
					}}
			}
			random := rand.New(rand.NewPCG(1, 2))
			b.ReportAllocs()
			start := cpu()
			b.ResetTimer()
			for range b.N {
				r := <-free
				r.Segment = id.MakeSegment(id.Sequence(random.IntN(shards)+1), 1)
				r.First = uint16(random.IntN(blocks))
				s.ReadShard(r)
			}
			for range depth {
				<-free
			}
			b.StopTimer()
			b.ReportMetric(float64((cpu()-start).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
		})
	}
}

func BenchmarkPutShard(b *testing.B) {
	s := benchStore(b, 0)
	gen := id.Generation{Epoch: 3, N: 1}
	const blocks = 1024
	p := storetest.Shard(id.MakeSegment(1, 1), gen, 0, blocks, 1)
	crcs := make([]uint32, blocks)
	for i := range crcs {
		crcs[i] = p.Head.Sums[i] ^ storeproto.BlockSum(0, p.Head.Segment, 0, uint16(i))
	}
	data := buf.Get(blocks * 4096)
	copy(data.Bytes(), p.Data[0])
	p.Data[0] = data.Bytes()
	b.SetBytes(blocks * 4096)
	start := cpu()
	for i := range b.N {
		p.Head.Segment = id.MakeSegment(id.Sequence(i+1), 1)
		for j := range crcs {
			p.Head.Sums[j] = storeproto.BlockSum(crcs[j], p.Head.Segment, 0, uint16(j))
		}
		if err := storetest.Put(s, p); err != nil {
			b.Fatal(err)
		}
		if i%64 == 63 {
			if err := s.PurgeVolume(b.Context(), storetest.Volume, 3); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
}

// BenchmarkOpen opens a store with 100 MiB of unreleased journal, as after a crash.
func BenchmarkOpen(b *testing.B) {
	dir := benchDir(b)
	if _, err := Format(dir, FormatOptions{ID: id.Store{1}, Incarnation: id.Incarnation{2}, LogFileBytes: 64 << 20, LogFilesMax: 8}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range id.LSN(100) {
		if _, err := storetest.Next(s, storetest.Stream(3, 1, storeproto.Journal), storetest.Batch(3, i+1, 1, 256, 1)); err != nil {
			b.Fatal(err)
		}
	}
	for range b.N {
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if s, err = Open(dir, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
}
