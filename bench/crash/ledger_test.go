package crash

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"ashlar.dev/pkg/id"
)

const (
	blockSize    = 4096
	workers      = 6
	regionBlocks = 128 // of each worker: no two operations of different workers overlap
	diskBytes    = workers * regionBlocks * blockSize
)

// change is one operation: data at off, zeros if data is nil.
type change struct {
	off, n uint64
	data   []byte
}

// onto applies the part of c that lies in the block at off.
func (c *change) onto(block []byte, off uint64) {
	from, to := max(c.off, off), min(c.off+c.n, off+blockSize)
	if from >= to {
		return
	}
	if c.data == nil {
		clear(block[from-off : to-off])
		return
	}
	copy(block[from-off:to-off], c.data[from-c.off:to-c.off])
}

// ledger is what clients know: what was acknowledged, and what was asked and not answered.
type ledger struct {
	mu      sync.Mutex
	frozen  bool
	image   []byte
	pending map[int]*change // by worker, one each
	snaps   map[id.Snapshot][]byte
	asked   map[id.Snapshot]bool // taken, perhaps; asked for again before anything is written
	leaving map[id.Snapshot]bool
	acks    int
}

func newLedger() *ledger {
	return &ledger{image: make([]byte, diskBytes), pending: map[int]*change{},
		snaps: map[id.Snapshot][]byte{}, asked: map[id.Snapshot]bool{}, leaving: map[id.Snapshot]bool{}}
}

// freeze ends the life of all clients: what they are told now they do not hear.
func (l *ledger) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = true
}

// told runs f unless it comes too late, and tells whether it did.
func (l *ledger) told(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen {
		return false
	}
	f()
	return true
}

func (l *ledger) begin(worker int, c *change) bool {
	return l.told(func() { l.pending[worker] = c })
}

func (l *ledger) acked(worker int) bool {
	return l.told(func() {
		c := l.pending[worker]
		if c.data == nil {
			clear(l.image[c.off : c.off+c.n])
		} else {
			copy(l.image[c.off:], c.data)
		}
		delete(l.pending, worker)
		l.acks++
	})
}

// settle holds what a new owner reads against what may be there, block by block: what was
// acknowledged, or that with the operation that was not answered. From then on it is what it is.
func (l *ledger) settle(got []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	want := make([]byte, blockSize)
	for off := uint64(0); off < diskBytes; off += blockSize {
		b := got[off : off+blockSize]
		if ok := bytes.Equal(b, l.image[off:off+blockSize]); ok || l.maybe(want, b, off) {
			continue
		}
		return fmt.Errorf("block %d begins %x, acknowledged %x; %d operations were not answered", off/blockSize, b[:16], l.image[off:off+16], len(l.pending))
	}
	copy(l.image, got)
	clear(l.pending)
	l.frozen = false
	return nil
}

func (l *ledger) maybe(want, got []byte, off uint64) bool {
	for _, c := range l.pending {
		copy(want, l.image[off:])
		if c.onto(want, off); bytes.Equal(want, got) {
			return true
		}
	}
	return false
}

// fill gives n bytes that are nowhere else.
func fill(n, serial uint64) []byte {
	b := make([]byte, (n+7)&^7)
	x := serial*0x9e3779b97f4a7c15 | 1
	for i := 0; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b[:n]
}
