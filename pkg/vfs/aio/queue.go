// Package aio reads files through one queue of the kernel's own asynchronous I/O (io_submit, io_getevents): reads that
// come together share a system call on their way in and another on their way out. It does nothing else: no writes.
//
// What ends a read there is the interrupt itself, and wakes the one thread that waits for ends. An io_uring that many
// threads submit to first wakes the thread that submitted, which costs a second switch for each read that comes alone.
//
// A Queue is safe for concurrent use. Where a sandbox forbids it, New fails and the caller reads with pread.
package aio

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/errs"
)

// control is struct iocb of linux/aio_abi.h on a little-endian machine.
type control struct {
	data    uint64
	_       uint32 // the kernel's
	rwFlags int32
	op      uint16
	_       int16 // priority
	fd      uint32
	buf     unsafe.Pointer
	bytes   uint64
	off     int64
	_       uint64
	_       uint32 // flags
	_       uint32 // to be woken
}

// event is struct io_event.
type event struct {
	data, _ uint64
	res, _  int64
}

// opRead is IOCB_CMD_PREAD.
const opRead = 0

// Read is one read. The caller sets Fd to Done and owns the struct again when Done is called: from the queue's goroutine,
// which must not block, or, where the kernel could not do it without waiting, from one of its own.
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

// Queue is one context of the kernel.
type Queue struct {
	context   uintptr // the kernel's handle
	ended     chan struct{}
	closeOnce sync.Once
	around    atomic.Pointer[[2]func()]

	mu struct {
		sync.Mutex
		flight   []*Read   // by slot; the kernel writes into their Bufs
		controls []control // by slot
		free     []uint32
		head     *Read // wait for a slot
		tail     *Read
		ready    []*control // the kernel is not told of them
		told     []*control // of them it is being told
		entering bool       // somebody is telling the kernel, and looks again after
		corks    int        // above zero: more is coming
		closed   bool
	}
}

// New makes a queue for as many reads in flight; more wait.
func New(depth int) (*Queue, error) {
	if depth < 1 || depth > 4096 {
		return nil, fmt.Errorf("queue of depth %d: %w", depth, errs.ErrInvalid)
	}
	q := &Queue{ended: make(chan struct{})}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(depth), uintptr(unsafe.Pointer(&q.context)), 0); e == unix.EAGAIN {
		return nil, fmt.Errorf("set up asynchronous reads: the machine's programs use all that fs.aio-max-nr allows (see sysctl): %w", e)
	} else if e != 0 {
		return nil, fmt.Errorf("set up asynchronous reads: %w", e)
	}
	q.mu.flight, q.mu.controls = make([]*Read, depth), make([]control, depth)
	q.mu.ready, q.mu.told = make([]*control, 0, depth), make([]*control, 0, depth)
	for i := range uint32(depth) {
		q.mu.free = append(q.mu.free, i)
	}
	go q.reap()
	return q, nil
}

// corkedMax is how many reads a cork holds back; beyond it the disk would stand idle.
const corkedMax = 16

// Cork holds reads back, until the next Uncork of anyone, so that they go into the
// kernel together. Neither waits. Corks nest.
func (q *Queue) Cork() {
	q.mu.Lock()
	q.mu.corks++
	q.mu.Unlock()
}

// Uncork ends a Cork and starts what was held back.
func (q *Queue) Uncork() {
	q.mu.Lock()
	q.mu.corks--
	q.enter()
}

// Submit starts r. Reads submitted while another submission is on its way into the
// kernel go in together with the next.
func (q *Queue) Submit(r *Read) {
	r.N, r.Err, r.next = 0, nil, nil
	q.mu.Lock()
	if q.mu.closed {
		q.mu.Unlock()
		r.Err = errs.ErrClosed
		r.Done(r)
		return
	}
	if len(q.mu.free) == 0 {
		if q.mu.tail == nil {
			q.mu.head = r
		} else {
			q.mu.tail.next = r
		}
		q.mu.tail = r
		q.mu.Unlock()
		return
	}
	q.push(r)
	if q.mu.corks > 0 && len(q.mu.ready) < corkedMax {
		q.mu.Unlock()
		return
	}
	q.enter()
}

// Around lets begin and end be called before and after several reads that ended together
// are handed out, on the queue's goroutine, so that what comes of them can leave together.
func (q *Queue) Around(begin, end func()) { q.around.Store(&[2]func(){begin, end}) }

// push makes r ready. Under mu.
func (q *Queue) push(r *Read) {
	n := len(q.mu.free) - 1
	r.slot = q.mu.free[n]
	q.mu.free = q.mu.free[:n]
	q.mu.flight[r.slot] = r
	c := &q.mu.controls[r.slot]
	*c = control{data: uint64(r.slot), rwFlags: unix.RWF_NOWAIT, op: opRead, fd: uint32(r.Fd), buf: unsafe.Pointer(unsafe.SliceData(r.Buf)), bytes: uint64(len(r.Buf)), off: r.Off}
	q.mu.ready = append(q.mu.ready, c)
}

// enter tells the kernel of what is ready. It is called with mu held and unlocks it.
func (q *Queue) enter() {
	if q.mu.entering {
		q.mu.Unlock()
		return
	}
	q.mu.entering = true
	for len(q.mu.ready) > 0 {
		told := q.mu.ready
		q.mu.ready, q.mu.told = q.mu.told[:0], told
		q.mu.Unlock()
		q.tell(told)
		q.mu.Lock()
	}
	q.mu.entering = false
	q.mu.Unlock()
}

// tell hands reads to the kernel. It takes them in order up to the first that it refuses.
func (q *Queue) tell(told []*control) {
	for len(told) > 0 {
		n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, q.context, uintptr(len(told)), uintptr(unsafe.Pointer(unsafe.SliceData(told))))
		switch e {
		case 0:
			told = told[n:]
		case unix.EINTR:
		case unix.EAGAIN: // no place: an end that nobody took yet has it
			runtime.Gosched()
		default:
			q.mu.Lock()
			r := q.take(told[0].data)
			q.mu.Unlock()
			told = told[1:]
			r.Err = e
			go r.Done(r)
		}
	}
}

// take gives the slot of a read that has ended to one that waits. Under mu.
func (q *Queue) take(slot uint64) *Read {
	r := q.mu.flight[slot]
	q.mu.flight[slot] = nil
	q.mu.free = append(q.mu.free, r.slot)
	if w := q.mu.head; w != nil {
		if q.mu.head = w.next; q.mu.head == nil {
			q.mu.tail = nil
		}
		w.next = nil
		q.push(w)
	}
	return r
}

// reap waits for ends and hands them out.
func (q *Queue) reap() {
	defer close(q.ended)
	events := make([]event, len(q.mu.flight))
	batch := make([]*Read, 0, len(events))
	for {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.context, 1, uintptr(len(events)), uintptr(unsafe.Pointer(&events[0])), 0, 0)
		switch e {
		case 0:
		case unix.EINTR:
			continue
		case unix.EINVAL: // Close
			return
		default:
			panic(fmt.Sprintf("aio: wait: %v", e)) // a broken context: our own promise
		}
		batch = q.collect(events[:n], batch[:0])
		around := q.around.Load()
		if len(batch) < 2 {
			around = nil
		}
		if around != nil {
			around[0]()
		}
		for i, r := range batch {
			batch[i] = nil
			if errors.Is(r.Err, unix.EAGAIN) || r.Err == nil && r.N < len(r.Buf) {
				go r.wait()
			} else {
				r.Done(r)
			}
		}
		if around != nil {
			around[1]()
		}
	}
}

// collect takes ends, gives their slots to reads that wait, and starts those.
func (q *Queue) collect(events []event, batch []*Read) []*Read {
	q.mu.Lock()
	for i := range events {
		r := q.take(events[i].data)
		if res := events[i].res; res < 0 {
			r.Err = unix.Errno(-res)
		} else {
			r.N = int(res)
		}
		batch = append(batch, r)
	}
	q.enter()
	return batch
}

// wait does a read for which the kernel would have had to wait before it could start it, or all of it; or that the
// file's end cuts short.
func (r *Read) wait() {
	for {
		r.N, r.Err = unix.Pread(r.Fd, r.Buf, r.Off)
		if !errors.Is(r.Err, unix.EINTR) {
			break
		}
	}
	r.N = max(r.N, 0)
	r.Done(r)
}

// Close ends the queue. Every read must have completed.
func (q *Queue) Close() error {
	var err error
	q.closeOnce.Do(func() {
		q.mu.Lock()
		q.mu.closed = true
		for _, r := range q.mu.flight {
			if r != nil {
				q.mu.Unlock()
				panic("aio: closed with reads in flight")
			}
		}
		q.mu.Unlock()
		if _, _, e := unix.Syscall(unix.SYS_IO_DESTROY, q.context, 0, 0); e != 0 {
			err = fmt.Errorf("close asynchronous reads: %w", e)
			return
		}
		<-q.ended
	})
	return err
}
