package devices

import (
	"sync"
	"sync/atomic"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// pageLen is what Memory allocates at a time, in bytes.
const pageLen = 64 << 10

// shardCount spreads the locks of Memory.
const shardCount = 64

// statusPagesMax bounds the pages that one block status looks at.
const statusPagesMax = 64 << 10

// Memory is a sparse disk in memory; it is lost with the process. A request is done page by page:
// two that overlap may interleave at page bounds.
//
// Lock order: one shard at a time.
type Memory struct {
	size         atomic.Uint64
	allocatedMax int64 // bytes
	allocated    atomic.Int64
	shards       [shardCount]shard
}

type shard struct {
	sync.Mutex
	pages map[uint64]*[pageLen]byte // by number; what is absent reads as zeros
}

// NewMemory makes an empty disk of size bytes that holds at most allocatedMax bytes of data, rounded to pages; zero
// stands for no limit. At the limit writes fail with errs.ErrNoSpace.
func NewMemory(size uint64, allocatedMax int64) *Memory {
	d := &Memory{allocatedMax: allocatedMax}
	d.size.Store(size)
	for i := range d.shards {
		d.shards[i].pages = make(map[uint64]*[pageLen]byte)
	}
	return d
}

// Size is the bytes of the disk.
func (d *Memory) Size() uint64 { return d.size.Load() }

// Grow makes the disk size bytes long; a shorter size is ignored.
func (d *Memory) Grow(size uint64) {
	for old := d.size.Load(); size > old && !d.size.CompareAndSwap(old, size); old = d.size.Load() {
	}
}

// Info describes the disk.
func (d *Memory) Info() nbd.Info { return nbd.Info{MultiConn: true, Description: "memory disk"} }

// Submit completes r at once.
func (d *Memory) Submit(r *nbd.Request) { r.Complete(d.do(r)) }

func (d *Memory) do(r *nbd.Request) error {
	switch r.Op {
	case nbd.OpRead:
		d.read(r)
	case nbd.OpWrite:
		return d.write(r)
	case nbd.OpTrim:
		return d.zero(r.Offset, r.Length, false)
	case nbd.OpWriteZeroes:
		keep := r.Flags&nbd.FlagNoHole != 0
		if keep && r.Flags&nbd.FlagFastZero != 0 {
			return nbd.ErrNotSupported // filling pages is as slow as writing
		}
		return d.zero(r.Offset, r.Length, keep)
	case nbd.OpBlockStatus:
		d.status(r)
	}
	return nil
}

// piece is the part of a range within one page.
type piece struct {
	page     uint64
	from, to int // in the page
}

// first gives the piece of [offset, offset+length) that comes first.
func first(offset, length uint64) piece {
	from := offset % pageLen
	return piece{offset / pageLen, int(from), int(min(from+length, pageLen))}
}

func (d *Memory) shard(page uint64) *shard { return &d.shards[page%shardCount] }

func (d *Memory) read(r *nbd.Request) {
	for at := uint64(0); at < r.Length; {
		p := first(r.Offset+at, r.Length-at)
		n := uint64(p.to - p.from)
		s := d.shard(p.page)
		s.Lock()
		data := s.pages[p.page]
		if data != nil {
			copy(r.Data[at:at+n], data[p.from:p.to])
		}
		s.Unlock()
		if data == nil {
			r.Hole(r.Offset+at, n)
		}
		at += n
	}
}

func (d *Memory) write(r *nbd.Request) error {
	for at := uint64(0); at < r.Length; {
		p := first(r.Offset+at, r.Length-at)
		n := uint64(p.to - p.from)
		s := d.shard(p.page)
		s.Lock()
		data, err := d.allocate(s, p.page)
		if err == nil {
			copy(data[p.from:p.to], r.Data[at:at+n])
		}
		s.Unlock()
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// allocate gives the page, made if absent. The shard is locked.
func (d *Memory) allocate(s *shard, page uint64) (*[pageLen]byte, error) {
	data := s.pages[page]
	if data != nil {
		return data, nil
	}
	if d.allocated.Add(pageLen) > d.allocatedMax && d.allocatedMax > 0 {
		d.allocated.Add(-pageLen)
		return nil, errs.ErrNoSpace
	}
	data = new([pageLen]byte)
	s.pages[page] = data
	return data, nil
}

// zero clears a range: whole pages go, unless keep wants them allocated.
func (d *Memory) zero(offset, length uint64, keep bool) error {
	for end := offset + length; offset < end; {
		p := first(offset, end-offset)
		s := d.shard(p.page)
		s.Lock()
		err := d.zeroPiece(s, p, keep)
		s.Unlock()
		if err != nil {
			return err
		}
		offset += uint64(p.to - p.from)
	}
	return nil
}

// zeroPiece clears p. The shard is locked.
func (d *Memory) zeroPiece(s *shard, p piece, keep bool) error {
	data := s.pages[p.page]
	switch {
	case keep:
		data, err := d.allocate(s, p.page)
		if err != nil {
			return err
		}
		clear(data[p.from:p.to])
	case data == nil:
	case p.from == 0 && p.to == pageLen:
		delete(s.pages, p.page)
		d.allocated.Add(-pageLen)
	default:
		clear(data[p.from:p.to])
	}
	return nil
}

func (d *Memory) status(r *nbd.Request) {
	end := r.Offset + r.Length
	for at, pages := r.Offset, 0; at < end && pages < statusPagesMax; pages++ {
		p := first(at, end-at)
		s := d.shard(p.page)
		s.Lock()
		state := nbd.StateHole | nbd.StateZero
		if s.pages[p.page] != nil {
			state = nbd.StateData
		}
		s.Unlock()
		n := uint64(p.to - p.from)
		if !r.AddExtent(n, state) {
			return
		}
		at += n
	}
}
