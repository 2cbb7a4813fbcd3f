package chunk

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/vfs/aio"
)

// Without this a read through the queue could give unchecked bytes, hold its shard's place for
// ever, or never be answered when the store closes.
func TestQueuedReadsAreCheckedAndEnd(t *testing.T) {
	queue, err := aio.New(8)
	if err != nil {
		t.Skipf("the kernel has no queue for us: %v", err)
	}
	dir := t.TempDir()
	if _, err := Format(dir, FormatOptions{ID: id.Store{1}, Incarnation: id.Incarnation{1}, LogFileBytes: 4 << 20, LogFilesMax: 4, CapacityBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Options{Queue: queue, CapacityBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	const blocks = 32
	data := make([]byte, blocks*storeproto.BlockSize)
	for i := range data {
		data[i] = byte(i >> 12)
	}
	head := &storeproto.ShardHead{
		Volume: id.Volume{1}, Segment: id.MakeSegment(1, 1), Generation: id.Generation{Epoch: 1, N: 1}, K: 1, M: 1, PGVersion: 1,
		Slots: blocks, Blocks: blocks,
	}
	for i := range uint16(blocks) {
		head.Entries = append(head.Entries, uint64(1)<<56|uint64(i))
		crc := codec.CRC(data[int(i)*storeproto.BlockSize:][:storeproto.BlockSize])
		head.Sums = append(head.Sums, storeproto.BlockSum(crc, head.Segment, 0, i))
	}
	done := make(chan error, 1)
	s.PutShard(&storeproto.PutShard{Head: head, Epoch: 1, Data: [][]byte{data}, Done: func(p *storeproto.PutShard) { done <- p.Err }})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 100 {
				at := uint16((g*7 + n) % blocks)
				q := &storeproto.ReadShard{Segment: head.Segment, Generation: head.Generation, First: at, Count: 1, Dst: buf.Get(storeproto.BlockSize).Bytes(), Sums: make([]uint32, 1)}
				answered := make(chan struct{})
				q.Done = func(*storeproto.ReadShard) { close(answered) }
				s.ReadShard(q)
				<-answered
				if q.Err != nil || !bytes.Equal(q.Dst, data[int(at)*storeproto.BlockSize:][:storeproto.BlockSize]) || q.Sums[0] != head.Sums[at] {
					t.Errorf("block %d: %v", at, q.Err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := s.Stats().ShardReads; n != 800 {
		t.Errorf("%d reads counted, want 800", n)
	}
	if err := errors.Join(s.Close(), queue.Close()); err != nil {
		t.Error(err)
	}
}
