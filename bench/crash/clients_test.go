package crash

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// work lets clients write until the engine ends.
func (e *engine) work(seed uint64) {
	for i := range workers {
		rng := rand.New(rand.NewPCG(seed, e.w.lives<<8|uint64(i)))
		e.busy.Go(func() {
			for e.ctx.Err() == nil && e.step(i, rng) {
			}
		})
	}
	rng := rand.New(rand.NewPCG(seed, e.w.lives<<8|0xff))
	e.busy.Go(func() {
		for e.ctx.Err() == nil && e.snapshots(rng) {
		}
	})
}

// step does one operation of a worker; false: it is over.
func (e *engine) step(worker int, rng *rand.Rand) bool {
	e.pause.RLock()
	defer e.pause.RUnlock()
	base := uint64(worker) * regionBlocks * blockSize
	from := rng.Uint64N(regionBlocks)
	blocks := min(1+rng.Uint64N(8), regionBlocks-from)
	op, c := nbd.OpWrite, &change{}
	switch x := rng.IntN(20); {
	case x < 2:
		op = nbd.OpTrim
	case x < 4:
		op = nbd.OpWriteZeroes
	case x < 7: // a long write
		blocks = 32 + rng.Uint64N(32)
		from = rng.Uint64N(regionBlocks - blocks)
	case x < 9:
		return e.compare(base+from*blockSize, blocks*blockSize)
	}
	c.off, c.n = base+from*blockSize, blocks*blockSize
	if op == nbd.OpWrite {
		if rng.IntN(6) == 0 { // a part of a block
			c.off, c.n = c.off+512*rng.Uint64N(4), 512*(1+rng.Uint64N(4))
		}
		c.data = fill(c.n, rng.Uint64())
	}
	if !e.w.ledger.begin(worker, c) {
		return false
	}
	if err := request(e.ctx, e.volume.Submit, op, c.off, c.n, bytes.Clone(c.data)); err != nil {
		return e.failed("write", err)
	}
	return e.w.ledger.acked(worker)
}

// failed tells of an error that no cut explains.
func (e *engine) failed(what string, err error) bool {
	if !errors.Is(err, context.Canceled) {
		e.w.ledger.told(func() { e.w.t.Errorf("%s: %v, and all had power, or two of three", what, err) })
	}
	return false
}

// compare reads what nobody writes meanwhile.
func (e *engine) compare(off, n uint64) bool {
	got := make([]byte, n)
	if err := read(e.ctx, e.volume.Submit, got, off); err != nil {
		return e.failed("read", err)
	}
	return e.w.ledger.told(func() {
		if !bytes.Equal(got, e.w.ledger.image[off:off+n]) {
			e.w.t.Errorf("read %d bytes at %d: not what was acknowledged", n, off)
		}
	})
}

// snapshots takes one, or drops one if there are some.
func (e *engine) snapshots(rng *rand.Rand) bool {
	l := e.w.ledger
	if system.Sleep(e.ctx, 20e6) != nil {
		return false
	}
	if len(l.snaps) >= 2 {
		all := slices.SortedFunc(maps.Keys(l.snaps), func(a, b id.Snapshot) int { return bytes.Compare(a[:], b[:]) })
		s := all[rng.IntN(len(all))]
		if !l.told(func() { delete(l.snaps, s); l.leaving[s] = true }) {
			return false
		}
		if err := e.volume.DropSnapshot(e.ctx, s); err != nil {
			return e.failed("drop a snapshot", err)
		}
		return l.told(func() { delete(l.leaving, s); e.w.done.dropped++ })
	}
	e.pause.Lock() // nothing is under way
	defer e.pause.Unlock()
	s := id.Snapshot{1, byte(e.w.lives >> 8), byte(e.w.lives), byte(rng.Uint32()), byte(rng.Uint32())}
	if !l.told(func() { l.asked[s] = true }) {
		return false
	}
	if err := e.volume.TakeSnapshot(e.ctx, s); err != nil {
		return e.failed("take a snapshot", err)
	}
	return l.told(func() {
		delete(l.asked, s)
		l.snaps[s] = bytes.Clone(l.image)
		e.w.done.taken++
	})
}
