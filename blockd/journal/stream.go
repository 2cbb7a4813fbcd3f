package journal

import (
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// stream is the queue of one of the two streams: the batches that are unreleased.
// Batches are counted from 0; a position is the number of the batch at it.
type stream struct {
	next, acked, released id.LSN

	ring          []entry // power of two
	head, tail    uint64  // the ring holds head…tail-1
	ackedAt       uint64  // batches below are acknowledged
	releasedAt    uint64  // batches below are released; head = releasedAt <= ackedAt <= tail
	bytes         uint64  // of all batches ever appended
	appendedAt    time.Duration
	releasedBytes uint64 // of all batches below releasedAt
	nudged        uint64 // releasedBytes at the last nudge
}

type entry struct {
	batch *storeproto.Batch
	start uint64 // bytes of all batches before
}

// begin sets the first LSN of an empty stream.
func (s *stream) begin(first id.LSN) {
	s.next, s.acked, s.released = first, first-1, first-1
}

func (s *stream) at(i uint64) *entry { return &s.ring[i&uint64(len(s.ring)-1)] }

// startOf is the bytes before batch i; i is at most tail.
func (s *stream) startOf(i uint64) uint64 {
	if i >= s.tail {
		return s.bytes
	}
	return s.at(max(i, s.head)).start
}

// push adds a batch whose First is next, and takes over the caller's reference.
func (s *stream) push(b *storeproto.Batch) {
	if n := s.tail - s.head; n == uint64(len(s.ring)) {
		s.grow(n)
	}
	*s.at(s.tail) = entry{batch: b, start: s.bytes}
	s.bytes += cost(b)
	s.tail++
	s.next = b.Last() + 1
}

func (s *stream) grow(n uint64) {
	old := s.ring
	s.ring = make([]entry, max(2*n, 64))
	for i := s.head; i < s.tail; i++ {
		*s.at(i) = old[i&(n-1)]
	}
}

// ack moves the acknowledged end and tells whether it moved.
func (s *stream) ack(to uint64) bool {
	if to <= s.ackedAt {
		return false
	}
	s.ackedAt = to
	s.acked = s.at(to - 1).batch.Last()
	return true
}

// release moves the released end over the batches wholly at or below upto, and forgets them.
func (s *stream) release(upto id.LSN) {
	if upto <= s.released {
		return
	}
	if upto > s.acked {
		panic("journal: a record is released before it is acknowledged")
	}
	s.released = upto
	for s.releasedAt < s.ackedAt && s.at(s.releasedAt).batch.Last() <= upto {
		s.releasedAt++
	}
	s.releasedBytes = s.startOf(s.releasedAt)
	s.trim(s.releasedAt)
}

// trim forgets batches below i.
func (s *stream) trim(i uint64) {
	for ; s.head < i; s.head++ {
		e := s.at(s.head)
		e.batch.Release()
		e.batch = nil
	}
}

// cost is what a batch weighs against limits in bytes.
func cost(b *storeproto.Batch) uint64 { return uint64(storeproto.HeaderSize + b.BodySize()) }
