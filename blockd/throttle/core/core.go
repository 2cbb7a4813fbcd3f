package core

import (
	"container/heap"
	"time"

	"ashlar.dev/pkg/cluster"
)

// Cost is what a request takes of the limits.
type Cost struct{ IOs, Bytes uint64 }

// Core holds the requests of one disk until they may go. T is what the shell calls a request.
// The zero Core bounds nothing. Not safe for concurrent use.
type Core[T any] struct {
	ios, bytes bucket
	busy       queues[T] // those with waiting requests, a heap by their turn
	turn       uint64    // of the request that went last
	waiting    int
}

// Queue has the waiting requests of one connection, in order. The zero Queue is empty.
type Queue[T any] struct {
	items []item[T] // from head on
	head  int
	// turn is the disk's time when the first item's turn comes, or when that of the next will if there is
	// none: it grows by what each request takes.
	turn uint64
}

type item[T any] struct {
	t    T
	cost Cost
}

// wakeSlack is by how much Next is later than it could be, so that at high rates several
// requests go at one waking. The bucket makes up for it.
const wakeSlack = time.Millisecond

// Limit sets the limits from now on. Requests that wait may go by it: see Go.
func (c *Core[T]) Limit(now time.Duration, q cluster.QoS) {
	c.ios.set(now, q.IOPS, q.IOPSBurst)
	c.bytes.set(now, q.Bytes, q.BytesBurst)
}

// Submit tells whether the request may go at once. If not it waits in q, which belongs to
// this Core, until Go gives it back.
func (c *Core[T]) Submit(now time.Duration, q *Queue[T], t T, cost Cost) bool {
	if q.head == len(q.items) {
		q.turn = max(q.turn, c.turn)
		if c.waiting == 0 && c.open(now) {
			c.charge(now, q, cost)
			return true
		}
		q.items = append(q.items[:0], item[T]{t, cost})
		heap.Push(&c.busy, q)
	} else {
		q.items = append(q.items, item[T]{t, cost})
	}
	c.waiting++
	return false
}

// Go appends to out the requests that wait no more, in the order in which they may go.
func (c *Core[T]) Go(now time.Duration, out []T) []T {
	for c.waiting > 0 && c.open(now) {
		q := c.busy[0]
		x := q.items[q.head]
		q.items[q.head] = item[T]{}
		q.head++
		c.waiting--
		c.charge(now, q, x.cost)
		out = append(out, x.t)
		if q.head == len(q.items) {
			q.items, q.head = q.items[:0], 0
			heap.Pop(&c.busy)
			continue
		}
		if q.head > 64 && q.head*2 > len(q.items) {
			n := copy(q.items, q.items[q.head:])
			clear(q.items[n:])
			q.items, q.head = q.items[:n], 0
		}
		heap.Fix(&c.busy, 0)
	}
	return out
}

// Next is when Go should be called; false: nothing waits.
func (c *Core[T]) Next() (time.Duration, bool) {
	return max(c.ios.opens(), c.bytes.opens()) + wakeSlack, c.waiting > 0
}

// Waiting is how many requests wait.
func (c *Core[T]) Waiting() int { return c.waiting }

func (c *Core[T]) open(now time.Duration) bool { return c.ios.open(now) && c.bytes.open(now) }

// charge lets the first request of q go.
func (c *Core[T]) charge(now time.Duration, q *Queue[T], x Cost) {
	c.turn = q.turn
	q.turn += uint64(max(cost(x.IOs, c.ios.rate), cost(x.Bytes, c.bytes.rate)))
	c.ios.take(now, x.IOs)
	c.bytes.take(now, x.Bytes)
}

// queues is a heap of queues that are not empty, by turn.
type queues[T any] []*Queue[T]

func (h queues[T]) Len() int           { return len(h) }
func (h queues[T]) Less(i, j int) bool { return h[i].turn < h[j].turn }
func (h queues[T]) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is part of heap.Interface.
func (h *queues[T]) Push(x any) { *h = append(*h, x.(*Queue[T])) }

// Pop is part of heap.Interface.
func (h *queues[T]) Pop() any {
	old := *h
	last := len(old) - 1
	q := old[last]
	old[last] = nil
	*h = old[:last]
	return q
}
