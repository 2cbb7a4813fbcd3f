// Package buf holds the payload buffers of the data path: 4 KiB-aligned, pooled
// by size class, counted by reference. A payload is read from a socket into one
// Buffer and is then handed from room to room without a copy; whoever is last to
// let go gives it back to the pool.
//
// It is not an allocator for small things: the smallest class is one block.
// Everything here is safe for concurrent use, except that the bytes of a Buffer
// belong to whoever the holders agree on.
package buf

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Align is the alignment in memory of every Buffer, and the size of the smallest one.
const Align = 4096

// LenMax is the longest buffer that Get gives: the largest payload of NBD.
const LenMax = 32 << 20

// A class has pages × Align bytes: every count up to eight pages, then four steps
// to each doubling, so that a held buffer wastes at most a quarter of its bytes.
const (
	smallClasses = 8
	classCount   = smallClasses + 4*10
)

// Buffer is a run of bytes, aligned to Align. Its holders are counted: it comes
// from Get with one; Retain adds one, Release takes one away, and after the last
// Release the bytes belong to somebody else.
type Buffer struct {
	full  []byte // the whole class, aligned
	n     int
	class int
	refs  atomic.Int32
}

var (
	pools       [classCount]sync.Pool
	outstanding struct {
		bytes   atomic.Int64
		buffers atomic.Int64
	}
)

// Get gives a buffer of n bytes with one holder, its contents undefined.
// It panics if n is negative or above LenMax: callers bound their sizes first.
func Get(n int) *Buffer {
	if n < 0 || n > LenMax {
		panic(fmt.Sprintf("buf: a buffer of %d bytes was asked for; limit %d", n, LenMax))
	}
	class := classOf(n)
	b, _ := pools[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{full: aligned(classBytes(class)), class: class}
	}
	b.n = n
	b.refs.Store(1)
	outstanding.bytes.Add(int64(len(b.full)))
	outstanding.buffers.Add(1)
	return b
}

// Bytes gives the n bytes asked of Get. The slice is valid until the caller's Release.
func (b *Buffer) Bytes() []byte { return b.full[:b.n] }

// Len is the bytes asked of Get; Cap the bytes of memory that the buffer holds.
func (b *Buffer) Len() int { return b.n }

// Cap is the memory that the buffer holds, in bytes: what limits on memory should count.
func (b *Buffer) Cap() int { return len(b.full) }

// Retain adds a holder and gives b. Only a holder may call it.
func (b *Buffer) Retain() *Buffer {
	if b.refs.Add(1) <= 1 {
		panic("buf: Retain of a released buffer")
	}
	return b
}

// Release takes one holder away; the last one returns the buffer to the pool.
// A nil buffer is allowed. Releasing more often than held panics.
func (b *Buffer) Release() {
	if b == nil {
		return
	}
	left := b.refs.Add(-1)
	if left > 0 {
		return
	}
	if left < 0 {
		panic("buf: Release of a released buffer")
	}
	outstanding.bytes.Add(-int64(len(b.full)))
	outstanding.buffers.Add(-1)
	pools[b.class].Put(b)
}

// Usage is what is out of the pools now.
type Usage struct {
	Bytes   int64 // memory held, by class, in bytes
	Buffers int64
}

// Outstanding tells what is held and not yet released, process-wide.
func Outstanding() Usage {
	return Usage{Bytes: outstanding.bytes.Load(), Buffers: outstanding.buffers.Load()}
}

// classOf gives the smallest class that holds n bytes.
func classOf(n int) int {
	pages := (n + Align - 1) / Align
	if pages <= smallClasses {
		return max(pages, 1) - 1
	}
	// pages lies in (2^k, 2^(k+1)], k ≥ 3, which four steps divide.
	k := bits.Len(uint(pages-1)) - 1
	step := 1 << (k - 2)
	return smallClasses + 4*(k-3) + (pages-1<<k+step-1)/step - 1
}

// classBytes is the inverse of classOf: the bytes of a buffer of the class.
func classBytes(class int) int {
	if class < smallClasses {
		return (class + 1) * Align
	}
	k, step := (class-smallClasses)/4+3, (class-smallClasses)%4+1
	return (1<<k + step<<(k-2)) * Align
}

// aligned allocates n bytes at a multiple of Align. Go's allocator places such
// sizes on page bounds already; the second way is for the day when it does not.
func aligned(n int) []byte {
	b := make([]byte, n)
	if misplaced(b) == 0 {
		return b
	}
	b = make([]byte, n+Align)
	if off := misplaced(b); off != 0 {
		b = b[Align-off:]
	}
	return b[:n:n]
}

func misplaced(b []byte) int { return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Align - 1)) }
