package remote

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/testkit/rpctest"
)

// nullStore answers at once and keeps nothing.
type nullStore struct{ storeproto.Store }

func (nullStore) Append(a *storeproto.Append) { a.Tail = a.Batch.Last(); a.Done(a) }

func (nullStore) ReadShard(r *storeproto.ReadShard) { r.Done(r) }

func (nullStore) PutShard(p *storeproto.PutShard) { p.Done(p) }

func (nullStore) ShardHeads(context.Context, id.Segment) ([]storeproto.ShardHead, error) {
	return nil, nil
}

func cpuNow() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStore is the cost of the wire for both hosts together: appends of one block and
// reads of one block, kept in flight by their answers.
func BenchmarkStore(b *testing.B) {
	for _, tr := range rpctest.Transports {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/append/qd%d", tr.Name, depth), func(b *testing.B) {
				st := benchStore(b, tr)
				bench(b, depth, func(again func()) func() {
					a := &storeproto.Append{Stream: storetest.Stream(3, 1, storeproto.Journal), Epoch: 3, Batch: storetest.Batch(3, 1, 1, 1, 1)}
					a.Done = func(a *storeproto.Append) { must(a.Err); again() }
					return func() { st.Append(a) }
				})
			})
			b.Run(fmt.Sprintf("%s/put1M/qd%d", tr.Name, depth), func(b *testing.B) {
				st := benchStore(b, tr)
				b.SetBytes(1 << 20)
				bench(b, depth, func(again func()) func() {
					p := storetest.Shard(4097, id.Generation{Epoch: 3, N: 1}, 0, 256, 1)
					p.Done = func(p *storeproto.PutShard) { must(p.Err); again() }
					return func() { st.PutShard(p) }
				})
			})
			b.Run(fmt.Sprintf("%s/read/qd%d", tr.Name, depth), func(b *testing.B) {
				st := benchStore(b, tr)
				bench(b, depth, func(again func()) func() {
					r := &storeproto.ReadShard{Segment: 4097, Count: 1, Dst: make([]byte, storeproto.BlockSize), Sums: make([]uint32, 1)}
					r.Done = func(r *storeproto.ReadShard) { must(r.Err); again() }
					return func() { st.ReadShard(r) }
				})
			})
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func benchStore(b *testing.B, tr rpctest.Transport) storeproto.Store {
	s := serve(b, rpctest.NewWorld(b), tr, ServiceConfig{Lookup: lookup(nullStore{})}, rpc.Timing{})
	st := s.peer("a", nil).Store(storeID, storeInc)
	if _, err := st.ShardHeads(b.Context(), 4097); err != nil {
		b.Fatal(err)
	}
	return st
}

// bench keeps depth operations in flight. make gives one that calls again when it is done.
func bench(b *testing.B, depth int, op func(again func()) func()) {
	run := func(n int) {
		done := make(chan struct{}, depth)
		for d := range depth {
			left := n / depth
			if d < n%depth {
				left++
			}
			var start func()
			start = op(func() {
				if left--; left < 0 {
					done <- struct{}{}
					return
				}
				start()
			})
			start()
		}
		for range depth {
			<-done
		}
	}
	run(min(2000, b.N))
	b.ReportAllocs()
	before := cpuNow()
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	b.ReportMetric(float64((cpuNow()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/op")
}
