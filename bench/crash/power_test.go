package crash

import (
	"fmt"
	"math/rand/v2"
	"sync"
)

// cut is one loss of power.
type cut struct {
	after   int   // so many syncs of any store
	victims []int // slots; all: the engine's host and everybody else's too
	percent int   // of what was not synced that is there nevertheless, block by block
}

func (c cut) all(w *world) bool { return len(c.victims) == len(w.slots) }

func (c cut) String() string {
	return fmt.Sprintf("power lost before sync %d in stores %v, %d%% of the rest kept", c.after, c.victims, c.percent)
}

// power counts the syncs of all stores and cuts at the chosen one.
type power struct {
	w    *world
	seed uint64

	mu    sync.Mutex
	cut   cut
	left  int // syncs until then; 0: no cut is due
	syncs int // of all stores
	off   chan struct{}
	past  []cut // the last ones
}

func (p *power) init(w *world, seed uint64) {
	p.w, p.seed, p.off = w, seed, make(chan struct{})
}

// arm orders the next cut, and gives what is closed when it has come.
func (p *power) arm(c cut) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.left, p.off = c, c.after, make(chan struct{})
	return p.off
}

// due tells whether the cut is still to come.
func (p *power) due() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left > 0
}

func (p *power) synced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.syncs++
	if p.left == 0 {
		return
	}
	if p.left--; p.left == 0 {
		p.carryOut()
	}
}

// carryOut makes all losses those of one moment: first nobody is told of anything any more, by
// nobody, and then the disks are copied. What is copied may have more than anybody knows of.
func (p *power) carryOut() {
	w, run := p.w, p.w.run
	if p.past = append(p.past, p.cut); len(p.past) > 3 {
		p.past = p.past[1:]
	}
	if p.cut.all(w) {
		w.ledger.freeze()
		if run != nil {
			run.door.close()
		}
	}
	for _, i := range p.cut.victims {
		w.slots[i].fs.Cut()
		if run != nil {
			run.door.set(w.slots[i].ref.Store, nil)
		}
	}
	if p.cut.all(w) {
		w.metad.SetAway(true)
	}
	for _, i := range p.cut.victims {
		s := w.slots[i]
		s.next = s.fs.Clone(p.cut.percent, p.seed<<32|uint64(p.syncs)<<8|uint64(i))
	}
	close(p.off)
}

// draw draws a cut: mostly of everything, else of one or two stores. Opening stores and disk takes a hundred
// syncs: one cut in four comes before that is over.
func draw(rng *rand.Rand, stores int) cut {
	c := cut{after: 1 + rng.IntN([]int{100, 500, 500, 1000}[rng.IntN(4)]), percent: []int{0, 30, 70, 95}[rng.IntN(4)], victims: rng.Perm(stores)}
	if x := rng.IntN(10); x < 3 {
		c.victims = c.victims[:1+x%2]
	}
	return c
}
