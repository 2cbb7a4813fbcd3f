package aio

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func newQueue(t *testing.T, depth int) *Queue {
	t.Helper()
	r, err := New(depth)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		t.Skipf("the kernel has no queue for us: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// file is one that has data.
func file(t testing.TB, data []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	return f
}

// Without this a read could get another read's bytes, or wait for ever behind a full queue.
func TestManyReadersGetTheirOwnBytes(t *testing.T) {
	const blocks = 64
	data := make([]byte, blocks*4096)
	for i := range data {
		data[i] = byte(i>>12) ^ byte(i)
	}
	f := file(t, data)
	r := newQueue(t, 4)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			done := make(chan *Read, 1)
			for range 200 {
				at := rng.IntN(blocks)
				q := &Read{Fd: int(f.Fd()), Off: int64(at) * 4096, Buf: make([]byte, 4096), Done: func(q *Read) { done <- q }}
				r.Submit(q)
				<-done
				if q.Err != nil || q.N != 4096 || !bytes.Equal(q.Buf, data[at*4096:(at+1)*4096]) {
					t.Errorf("block %d: %d bytes, %v", at, q.N, q.Err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Without this reads that came together would each pay a system call, or one that was
// held back would wait for ever.
func TestCorkHoldsBackUntilAnUncork(t *testing.T) {
	f := file(t, make([]byte, 4096))
	r := newQueue(t, 2*corkedMax)
	done := make(chan *Read, 2*corkedMax)
	submit := func() {
		r.Submit(&Read{Fd: int(f.Fd()), Buf: make([]byte, 4096), Done: func(q *Read) { done <- q }})
	}
	held := func() uint32 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return uint32(len(r.mu.ready))
	}
	r.Cork()
	r.Cork()
	submit()
	submit()
	if n := held(); n != 2 {
		t.Errorf("%d held back, want 2", n)
	}
	r.Uncork() // anybody's
	<-done
	<-done
	for range corkedMax {
		submit()
	}
	for range corkedMax { // so many do not wait
		<-done
	}
	submit()
	if n := held(); n != 1 {
		t.Errorf("%d held back, want 1", n)
	}
	r.Uncork()
	<-done
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// Without this an error of the disk would look like a short read, or a closed file hang its reader.
func TestErrorsAndEndsAreTold(t *testing.T) {
	r := newQueue(t, 2)
	done := make(chan *Read, 1)
	r.Submit(&Read{Fd: 1 << 20, Buf: make([]byte, 8), Done: func(q *Read) { done <- q }})
	if q := <-done; !errors.Is(q.Err, unix.EBADF) {
		t.Errorf("a bad file gives %v", q.Err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	r.Submit(&Read{Buf: make([]byte, 8), Done: func(q *Read) { done <- q }})
	if q := <-done; q.Err == nil {
		t.Error("a closed queue took a read")
	}
}

func BenchmarkRead(b *testing.B) {
	f := file(b, make([]byte, 1<<20))
	r, err := New(64)
	if err != nil {
		b.Skip(err)
	}
	tokens := make(chan *Read, 32)
	for range 32 {
		tokens <- &Read{Fd: int(f.Fd()), Buf: make([]byte, 4096), Done: func(q *Read) { tokens <- q }}
	}
	for b.Loop() {
		r.Submit(<-tokens)
	}
	for range 32 {
		<-tokens
	}
	if err := r.Close(); err != nil {
		b.Error(err)
	}
}

// Without this what is held back between begin and end could stay there.
func TestAroundIsInPairs(t *testing.T) {
	f := file(t, make([]byte, 64*4096))
	r := newQueue(t, 64)
	var inside atomic.Int32
	r.Around(func() { inside.Add(1) }, func() { inside.Add(-1) })
	var all sync.WaitGroup
	for i := range 200 {
		all.Add(1)
		r.Submit(&Read{Fd: int(f.Fd()), Off: int64(i%64) * 4096, Buf: make([]byte, 4096), Done: func(q *Read) {
			if q.Err != nil || inside.Load() > 1 {
				t.Errorf("read: %v, inside %d times", q.Err, inside.Load())
			}
			all.Done()
		}})
	}
	all.Wait()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := inside.Load(); n != 0 {
		t.Errorf("left inside %d times", n)
	}
}

// Without this a read that the kernel cannot start at once would hold up whoever submits, or never be answered.
func TestReadThatWouldWaitIsDoneAside(t *testing.T) {
	want := bytes.Repeat([]byte("wait"), 1<<18)
	f := file(t, want)
	q := newQueue(t, 4)
	defer q.Close()
	for at := int64(0); at < int64(len(want)); at += 1 << 16 {
		// Clean pages that are dropped must come from the disk, which is more than a start.
		if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
			t.Fatal(err)
		}
		done := make(chan *Read, 1)
		q.Submit(&Read{Fd: int(f.Fd()), Off: at, Buf: make([]byte, 1<<16), Done: func(r *Read) { done <- r }})
		if r := <-done; r.Err != nil || !bytes.Equal(r.Buf[:r.N], want[at:at+1<<16]) {
			t.Fatalf("at %d: %d bytes, %v", at, r.N, r.Err)
		}
	}
	r := &Read{Fd: int(f.Fd()), Buf: make([]byte, 8), Done: func(*Read) {}}
	if r.wait(); r.Err != nil || string(r.Buf[:r.N]) != "waitwait" {
		t.Errorf("aside: %q, %v", r.Buf[:r.N], r.Err)
	}
}
