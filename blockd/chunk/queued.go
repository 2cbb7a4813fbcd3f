package chunk

import (
	"fmt"
	"sync"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/vfs"
)

// queuedRead is one shard read on its way through Options.Queue: what lies in one piece of
// one extent and whose sums are in memory, so that nothing has to wait for the index.
// inUse is held for it from the look-up to the answer.
type queuedRead struct {
	s  *Store
	q  *storeproto.ReadShard
	c  *cachedShard
	io vfs.AsyncRead
}

var queuedReads sync.Pool

func newQueuedRead() *queuedRead {
	r, _ := queuedReads.Get().(*queuedRead)
	if r == nil {
		r = &queuedRead{}
		r.io.Done = r.answer
	}
	return r
}

// viaQueue starts q on the queue; false: it has to take a reader.
func (s *Store) viaQueue(q *storeproto.ReadShard) bool {
	if s.opts.Queue == nil || !vfs.Aligned(q.Dst) {
		return false
	}
	// A deletion that waits for the readers must not be kept waiting by new ones for ever, nor
	// may the caller wait: then the readers take it.
	if !s.reads.inUse.TryRLock() {
		return false
	}
	c := s.reads.cache.get(shardName{q.Segment, q.Generation, q.Index})
	if c == nil || s.checkRead(q, c) != nil {
		s.reads.inUse.RUnlock()
		return false
	}
	file, at, n := c.place.At(int64(q.First) * storeproto.BlockSize)
	if n < int64(len(q.Dst)) {
		s.reads.inUse.RUnlock()
		return false
	}
	r := newQueuedRead()
	r.s, r.q, r.c = s, q, c
	r.io.Buf, r.io.Off = q.Dst, at
	s.count.reads.Add(1)
	if !vfs.ReadAsync(s.opts.Queue, s.ext.file(file), &r.io) {
		s.count.reads.Add(-1)
		s.reads.inUse.RUnlock()
		queuedReads.Put(r)
		return false
	}
	return true
}

// answer checks what was read and hands it on.
func (r *queuedRead) answer(io *vfs.AsyncRead) {
	s, q, c := r.s, r.q, r.c
	q.Got = c.name.generation
	if io.Err != nil {
		s.count.badBlocks.Add(1)
		q.Err = fmt.Errorf("read shard %d of %s: %v: %w", q.Index, q.Segment, io.Err, &errs.Corrupt{Place: "extent", Offset: io.Off, What: "read", Want: uint64(len(q.Dst))})
	} else {
		q.Err = s.checkSums(q, c)
	}
	s.suspect(c.name, q.Err)
	s.reads.inUse.RUnlock()
	r.s, r.q, r.c, io.Buf = nil, nil, nil, nil
	queuedReads.Put(r)
	s.readDone(q)
}

// checkRead refuses a request that does not fit its shard.
func (s *Store) checkRead(q *storeproto.ReadShard, c *cachedShard) error {
	n := int(q.Count) * storeproto.BlockSize
	if q.Count == 0 || int(q.First)+int(q.Count) > len(c.sums) || len(q.Dst) != n || len(q.Sums) != int(q.Count) {
		return fmt.Errorf("read %d blocks from %d of a shard of %d into %d bytes: %w", q.Count, q.First, len(c.sums), len(q.Dst), errs.ErrInvalid)
	}
	return nil
}

// checkSums checks every block read against its sum and gives the sums to the asker.
func (s *Store) checkSums(q *storeproto.ReadShard, c *cachedShard) error {
	copy(q.Sums, c.sums[q.First:])
	for i := range q.Sums {
		got := storeproto.BlockSum(codec.CRC(q.Dst[i*storeproto.BlockSize:][:storeproto.BlockSize]), q.Segment, q.Index, q.First+uint16(i))
		if got != q.Sums[i] {
			s.count.badBlocks.Add(1)
			return &errs.Corrupt{
				Place: fmt.Sprintf("shard %d of %s %s", q.Index, q.Segment, q.Got), Offset: (int64(q.First) + int64(i)) * storeproto.BlockSize,
				What: "block sum", Want: uint64(q.Sums[i]), Got: uint64(got),
			}
		}
	}
	return nil
}
