// Package uring reads files through one io_uring of the kernel: many reads share a
// system call on their way in and another on their way out, which at depth costs a
// third of a pread each. It does nothing else: no writes, no polling modes.
//
// A Ring is safe for concurrent use. Where the kernel has no io_uring, or a sandbox
// forbids it, New fails and the caller reads with pread.
package uring

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/errs"
)

// The kernel's numbers: linux/io_uring.h.
const (
	opNop         = 0
	opRead        = 22
	enterGetEvent = 1 << 0
	offSQRing     = 0
	offCQRing     = 0x8000000
	offSQEs       = 0x10000000
	featSingleMap = 1 << 0

	sqeSize = 64
	cqeSize = 16
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sq                                                                     struct{ head, tail, mask, entries, flags, dropped, array, resv1, addrLo, addrHi uint32 }
	cq                                                                     struct{ head, tail, mask, entries, overflow, cqes, flags, resv1, addrLo, addrHi uint32 }
}

// Read is one read. The caller sets Fd to Done and owns the struct again when Done is
// called, from the ring's goroutine, which must not block.
type Read struct {
	Fd   int
	Off  int64
	Buf  []byte // not empty
	Done func(*Read)

	N   int   // bytes read
	Err error // the kernel's errno

	slot uint32
	next *Read
}

// Ring is one io_uring.
type Ring struct {
	fd        int
	rings     []byte
	sqes      []byte
	sqTail    *atomic.Uint32
	sqMask    uint32
	sqArray   uint32
	cqHead    *atomic.Uint32
	cqTail    *atomic.Uint32
	cqMask    uint32
	cqesAt    uint32
	ended     chan struct{}
	closeOnce sync.Once
	around    atomic.Pointer[[2]func()]

	mu struct {
		sync.Mutex
		flight   []*Read // by slot; the kernel writes into their Bufs
		free     []uint32
		head     *Read // wait for a slot
		tail     *Read
		ready    uint32 // in the submission queue, the kernel not told
		entering bool   // somebody is telling the kernel, and looks again after
		corks    int    // above zero: more is coming
		closed   bool
	}
}

// New makes a ring for as many reads in flight; more wait.
func New(depth int) (*Ring, error) {
	if depth < 1 || depth > 4096 {
		return nil, fmt.Errorf("ring of depth %d: %w", depth, errs.ErrInvalid)
	}
	entries := uint32(1) << bits.Len(uint(depth)) // one more than depth at least: the last slot ends the ring
	var p params
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, fmt.Errorf("set up io_uring: %w", e)
	}
	r := &Ring{fd: int(fd), ended: make(chan struct{})}
	if err := r.attach(&p); err != nil {
		return nil, errors.Join(err, unix.Close(r.fd))
	}
	r.mu.flight = make([]*Read, p.sqEntries)
	for i := uint32(0); i+1 < p.sqEntries; i++ {
		r.mu.free = append(r.mu.free, i)
	}
	go r.reap()
	return r, nil
}

// attach maps the queues that are shared with the kernel.
func (r *Ring) attach(p *params) error {
	if p.features&featSingleMap == 0 {
		return fmt.Errorf("io_uring without a single map: %w", errs.ErrInvalid)
	}
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*cqeSize)
	var err error
	if r.rings, err = unix.Mmap(r.fd, offSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("map io_uring: %w", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*sqeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return errors.Join(fmt.Errorf("map io_uring: %w", err), unix.Munmap(r.rings))
	}
	r.sqTail, r.sqMask, r.sqArray = r.counter(p.sq.tail), *r.word(p.sq.mask), p.sq.array
	r.cqHead, r.cqTail, r.cqMask, r.cqesAt = r.counter(p.cq.head), r.counter(p.cq.tail), *r.word(p.cq.mask), p.cq.cqes
	return nil
}

func (r *Ring) word(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }

func (r *Ring) counter(off uint32) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&r.rings[off]))
}

// corkedMax is how many reads a cork holds back; beyond it the disk would stand idle.
const corkedMax = 16

// Cork holds reads back, until the next Uncork of anyone, so that they go into the
// kernel together. Neither waits. Corks nest.
func (r *Ring) Cork() {
	r.mu.Lock()
	r.mu.corks++
	r.mu.Unlock()
}

// Uncork ends a Cork and starts what was held back.
func (r *Ring) Uncork() {
	r.mu.Lock()
	r.mu.corks--
	r.enter()
}

// Submit starts q. Reads submitted while another submission is on its way into the
// kernel go in together with the next.
func (r *Ring) Submit(q *Read) {
	q.N, q.Err, q.next = 0, nil, nil
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		q.Err = errs.ErrClosed
		q.Done(q)
		return
	}
	if len(r.mu.free) == 0 {
		if r.mu.tail == nil {
			r.mu.head = q
		} else {
			r.mu.tail.next = q
		}
		r.mu.tail = q
		r.mu.Unlock()
		return
	}
	r.push(q)
	if r.mu.corks > 0 && r.mu.ready < corkedMax {
		r.mu.Unlock()
		return
	}
	r.enter()
}

// Around lets begin and end be called before and after several reads that ended together
// are handed out, on the ring's goroutine, so that what comes of them can leave together.
func (r *Ring) Around(begin, end func()) { r.around.Store(&[2]func(){begin, end}) }

// push puts q into the submission queue. Under mu.
func (r *Ring) push(q *Read) {
	n := len(r.mu.free) - 1
	q.slot = r.mu.free[n]
	r.mu.free = r.mu.free[:n]
	r.mu.flight[q.slot] = q
	r.write(opRead, q.Fd, q.Off, q.Buf, q.slot)
}

// write makes one entry and moves the tail. Under mu.
func (r *Ring) write(op uint8, fd int, off int64, b []byte, slot uint32) {
	tail := r.sqTail.Load()
	i := tail & r.sqMask
	e := r.sqes[i*sqeSize : (i+1)*sqeSize]
	clear(e)
	e[0] = op
	*(*int32)(unsafe.Pointer(&e[4])) = int32(fd)
	*(*int64)(unsafe.Pointer(&e[8])) = off
	if len(b) > 0 {
		*(*uint64)(unsafe.Pointer(&e[16])) = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
		*(*uint32)(unsafe.Pointer(&e[24])) = uint32(len(b))
	}
	*(*uint64)(unsafe.Pointer(&e[32])) = uint64(slot)
	*r.word(r.sqArray + i*4) = i
	r.sqTail.Store(tail + 1)
	r.mu.ready++
}

// enter tells the kernel of what is in the queue. It is called with mu held and unlocks it.
func (r *Ring) enter() {
	if r.mu.entering {
		r.mu.Unlock()
		return
	}
	r.mu.entering = true
	for r.mu.ready > 0 {
		n := r.mu.ready
		r.mu.ready = 0
		r.mu.Unlock()
		for n > 0 {
			done, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), 0, 0, 0, 0)
			switch e {
			case 0:
				n -= min(uint32(done), n)
			case unix.EINTR, unix.EAGAIN, unix.EBUSY:
				runtime.Gosched()
			default:
				panic(fmt.Sprintf("uring: enter: %v", e)) // a broken ring: our own promise
			}
		}
		r.mu.Lock()
	}
	r.mu.entering = false
	r.mu.Unlock()
}

// reap waits for completions and hands them out.
func (r *Ring) reap() {
	defer close(r.ended)
	var batch []*Read
	for {
		_, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 1, enterGetEvent, 0, 0)
		if e != 0 && e != unix.EINTR && e != unix.EAGAIN && e != unix.EBUSY {
			panic(fmt.Sprintf("uring: wait: %v", e))
		}
		batch = batch[:0]
		end := r.collect(&batch)
		around := r.around.Load()
		if len(batch) < 2 {
			around = nil
		}
		if around != nil {
			around[0]()
		}
		for i, q := range batch {
			batch[i] = nil
			q.Done(q)
		}
		if around != nil {
			around[1]()
		}
		if end {
			return
		}
	}
}

// collect takes all completions there are, gives their slots to reads that wait, and
// tells whether the ring has ended.
func (r *Ring) collect(batch *[]*Read) (end bool) {
	head, tail := r.cqHead.Load(), r.cqTail.Load()
	r.mu.Lock()
	for ; head != tail; head++ {
		at := r.cqesAt + (head&r.cqMask)*cqeSize
		slot := uint32(*(*uint64)(unsafe.Pointer(&r.rings[at])))
		res := *(*int32)(unsafe.Pointer(&r.rings[at+8]))
		q := r.mu.flight[slot]
		if q == nil {
			end = true // the entry that Close sent
			continue
		}
		if res < 0 {
			q.Err = unix.Errno(-res)
		} else {
			q.N = int(res)
		}
		r.mu.flight[slot] = nil
		r.mu.free = append(r.mu.free, slot)
		*batch = append(*batch, q)
	}
	r.cqHead.Store(head)
	for len(r.mu.free) > 0 && r.mu.head != nil {
		q := r.mu.head
		if r.mu.head = q.next; r.mu.head == nil {
			r.mu.tail = nil
		}
		q.next = nil
		r.push(q)
	}
	r.enter()
	return end
}

// Close ends the ring. Every read must have completed.
func (r *Ring) Close() error {
	var err error
	r.closeOnce.Do(func() {
		r.mu.Lock()
		r.mu.closed = true
		for _, q := range r.mu.flight {
			if q != nil || r.mu.head != nil {
				r.mu.Unlock()
				panic("uring: closed with reads in flight")
			}
		}
		r.write(opNop, -1, 0, nil, uint32(len(r.mu.flight)-1))
		r.enter()
		<-r.ended
		err = errors.Join(unix.Munmap(r.rings), unix.Munmap(r.sqes), unix.Close(r.fd))
	})
	if err != nil {
		return fmt.Errorf("close ring: %w", err)
	}
	return nil
}
