package chunk

import (
	"context"
	"strings"
	"sync"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// Without this repair could keep all readers of a store busy while a client waits, or close
// would forget reads whose turn has not come.
func TestRepairLeavesTheDiskToClients(t *testing.T) {
	var mu sync.Mutex
	blocked, reached := make(chan struct{}), make(chan int, 1000)
	reading := false
	fs := vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{Before: func(op vfs.Op) error {
		mu.Lock()
		hold := reading && op.Kind == vfs.OpRead && op.Direct && strings.Contains(op.Path, "extent")
		mu.Unlock()
		if hold {
			reached <- op.Len
			<-blocked
		}
		return nil
	}})
	if _, err := Format("/store", testFormat(fs)); err != nil {
		t.Fatal(err)
	}
	s, err := Open("/store", Options{FS: fs, Clock: clock.System, LeaseTerm: testTerm, Logger: testLogger(t), Readers: readSlots, Putters: 2})
	if err != nil {
		t.Fatal(err)
	}
	p := storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 0, 8, 1)
	put := make(chan error)
	p.Done = func(p *storeproto.PutShard) { put <- p.Err }
	s.PutShard(p)
	if err := <-put; err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	reading = true
	mu.Unlock()
	var answers sync.WaitGroup
	read := func(k storeproto.Class, count uint16) {
		answers.Add(1)
		s.ReadShard(&storeproto.ReadShard{Segment: p.Head.Segment, Generation: p.Head.Generation, Index: p.Head.Index, Count: count, Class: k,
			Dst: buf.Get(int(count) * storeproto.BlockSize).Bytes(), Sums: make([]uint32, count), Done: func(q *storeproto.ReadShard) {
				if q.Err != nil {
					t.Errorf("read of class %s: %v", k, q.Err)
				}
				answers.Done()
			}})
	}
	for range 100 {
		read(storeproto.ClassRepair, 2)
	}
	for range readSlots / 4 {
		<-reached
	}
	read(storeproto.ClassDemand, 1)
	if n := <-reached; n != storeproto.BlockSize {
		t.Errorf("the next read at the disk has %d bytes, want the client's", n)
	}
	verified := make(chan error)
	go func() {
		verified <- s.VerifyShard(context.Background(), storeproto.ShardName{Segment: p.Head.Segment, Generation: p.Head.Generation, Index: p.Head.Index}, func(int) error { return nil })
	}()
	<-reached // a scrub is let in beside repair
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	close(blocked)
	answers.Wait()
	if err := <-verified; err != nil {
		t.Errorf("verify: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
}

// Without this two disks' packing would be served in the order of who sends more.
func TestPutsOfVolumesTakeTurns(t *testing.T) {
	var mu sync.Mutex
	hold, held := make(chan struct{}), make(chan struct{}, 100)
	writing := false
	fs := vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{Before: func(op vfs.Op) error {
		mu.Lock()
		wait := writing && op.Kind == vfs.OpWrite && op.Direct && strings.Contains(op.Path, "extent")
		mu.Unlock()
		if wait {
			held <- struct{}{}
			<-hold
		}
		return nil
	}})
	s := testNew(t, fs, "/store", clock.System)
	mu.Lock()
	writing = true
	mu.Unlock()
	var order []id.Volume
	var done sync.WaitGroup
	put := func(v id.Volume, n int) {
		done.Add(1)
		p := storetest.Shard(id.MakeSegment(id.Sequence(n), 2), id.Generation{Epoch: 3, N: 1}, 0, 8, 1)
		p.Class = storeproto.ClassPack
		p.Head.Volume = v
		p.Done = func(p *storeproto.PutShard) {
			mu.Lock()
			order = append(order, v)
			mu.Unlock()
			if p.Err != nil {
				t.Error(p.Err)
			}
			done.Done()
		}
		s.PutShard(p)
	}
	for n := range 20 {
		put(id.Volume{1}, n+1)
	}
	<-held // both writers are at work
	<-held
	put(id.Volume{2}, 100)
	close(hold)
	done.Wait()
	mu.Lock()
	defer mu.Unlock()
	for i, v := range order {
		if v == (id.Volume{2}) && i > 8 {
			t.Errorf("the other volume's shard was written as number %d of 21", i+1)
		}
	}
}
