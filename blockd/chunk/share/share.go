// Package share decides whose turn it is at a store's disk: what clients wait for before what
// they do not, and disks of one class in turns.
//
// It is a step function: it starts nothing, reads no clock and waits for nothing. A Core has so many
// slots, the operations that may be at the disk at once. While one is free and nobody waits,
// everything goes at once. Else each class gets its share of what goes by its weight, and
// within a class each volume the same: no class and no volume waits for ever, whatever the others
// do. Background classes never hold all the slots, so something that a client waits for
// meets at most as many of them as Config.Most says.
//
// The journal is not here: it has the disk's log to itself, goes before everything, and has
// turns of its own (pkg/storeproto/core).
package share

import (
	"container/heap"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Weights are the shares of the classes when all of them want more than there is.
var Weights = [storeproto.Classes]uint64{
	storeproto.ClassDemand: 32, storeproto.ClassPack: 16, storeproto.ClassRepair: 4, storeproto.ClassClean: 2, storeproto.ClassScrub: 1,
}

// Config bounds a Core.
type Config struct {
	Slots int
	Most  [storeproto.Classes]int // slots that a class may hold at once; 0: all
}

// Core is one disk's turns. T is what the caller calls an operation. Not safe for concurrent use.
type Core[T any] struct {
	cfg     Config
	flying  int
	waiting int
	turn    uint64 // of the class that was served last
	classes [storeproto.Classes]class[T]
	free    []*flow[T]
}

// class has the waiting operations of one class. Turns count what was served, by weight.
type class[T any] struct {
	flying int
	turn   uint64
	served uint64 // turn of the flow that was served last
	busy   flows[T]
	byID   map[id.Volume]*flow[T]
}

// flow has the waiting operations of one volume in one class, in order.
type flow[T any] struct {
	volume id.Volume
	turn   uint64
	items  []item[T]
	head   int
}

type item[T any] struct {
	t    T
	cost uint64
}

// New makes a Core.
func New[T any](cfg Config) *Core[T] {
	c := &Core[T]{cfg: cfg}
	for k := range c.cfg.Most {
		if c.cfg.Most[k] == 0 {
			c.cfg.Most[k] = cfg.Slots
		}
	}
	for k := range c.classes {
		c.classes[k].byID = make(map[id.Volume]*flow[T])
	}
	return c
}

// Free tells whether an operation of the class could go at once.
func (c *Core[T]) Free(k storeproto.Class) bool {
	x := &c.classes[k]
	return c.flying < c.cfg.Slots && len(x.busy) == 0 && x.flying < c.cfg.Most[k]
}

// costBase is what an operation costs beside its bytes.
const costBase = 16 << 10

// Enter asks for a slot for an operation of so many bytes. True: it has one until Leave.
// Else it waits, and a later Leave gives it back.
func (c *Core[T]) Enter(k storeproto.Class, v id.Volume, bytes int, t T) bool {
	x := &c.classes[k]
	if c.Free(k) {
		c.flying++
		x.flying++
		return true
	}
	f := x.byID[v]
	if f == nil {
		f = c.newFlow(v)
		f.turn = x.served
		x.byID[v] = f
		if len(x.busy) == 0 {
			x.turn = max(x.turn, c.turn)
		}
		f.items = append(f.items, item[T]{t, costBase + uint64(bytes)})
		heap.Push(&x.busy, f)
	} else {
		f.items = append(f.items, item[T]{t, costBase + uint64(bytes)})
	}
	c.waiting++
	return false
}

// Leave gives a slot back and appends to out what may go now; each of these has one.
func (c *Core[T]) Leave(k storeproto.Class, out []T) []T {
	c.flying--
	c.classes[k].flying--
	for c.waiting > 0 && c.flying < c.cfg.Slots {
		best := -1
		for i := range c.classes {
			x := &c.classes[i]
			if len(x.busy) > 0 && x.flying < c.cfg.Most[i] && (best < 0 || x.turn < c.classes[best].turn) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		out = append(out, c.next(best))
	}
	return out
}

// next takes the operation of a class whose turn it is.
func (c *Core[T]) next(k int) T {
	x := &c.classes[k]
	f := x.busy[0]
	it := f.items[f.head]
	f.items[f.head] = item[T]{}
	f.head++
	c.turn, x.served = x.turn, f.turn
	x.turn += it.cost / Weights[k]
	f.turn += it.cost
	c.waiting--
	c.flying++
	x.flying++
	if f.head == len(f.items) {
		heap.Pop(&x.busy)
		delete(x.byID, f.volume)
		c.drop(f)
	} else {
		heap.Fix(&x.busy, 0)
	}
	return it.t
}

// Idle tells that nothing waits.
func (c *Core[T]) Idle() bool { return c.waiting == 0 }

func (c *Core[T]) newFlow(v id.Volume) *flow[T] {
	if n := len(c.free); n > 0 {
		f := c.free[n-1]
		c.free = c.free[:n-1]
		f.volume = v
		return f
	}
	return &flow[T]{volume: v}
}

// flowsKept bounds the flows that are kept for others to come.
const flowsKept = 64

func (c *Core[T]) drop(f *flow[T]) {
	f.items, f.head = f.items[:0], 0
	if len(c.free) < flowsKept && cap(f.items) <= 1024 {
		c.free = append(c.free, f)
	}
}

// flows is a heap by turn.
type flows[T any] []*flow[T]

func (h flows[T]) Len() int           { return len(h) }
func (h flows[T]) Less(i, j int) bool { return h[i].turn < h[j].turn }
func (h flows[T]) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is part of heap.Interface.
func (h *flows[T]) Push(x any) { *h = append(*h, x.(*flow[T])) }

// Pop is part of heap.Interface.
func (h *flows[T]) Pop() any {
	old := *h
	last := len(old) - 1
	f := old[last]
	old[last] = nil
	*h = old[:last]
	return f
}
