package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
)

// World is a cluster and its clients under one seed: hosts with stores and engines, a
// metad, disks, a network and a clock. One goroutine steps it. What waits in the
// product (the packer's workers, a rebuilding read, a repair) runs in between, alone,
// until it waits again; see outside.go.
type World struct {
	cfg   Config
	rng   *rand.Rand
	clock *clock.Manual
	at    time.Duration // what the clock will show when it has been moved
	epoch time.Duration // of the clock, at the start

	queue queue
	out   outside
	hash  hash.Hash64
	line  []byte // being taken into the trace
	tail  tail
	cover Coverage
	err   error

	metad    *metad
	hosts    []*host
	disks    []*disk
	gone     []*disk         // deleted
	made     int             // disks ever
	ctx      context.Context // of those outside who belong to no host
	end      context.CancelFunc
	bucket   *bucket
	workers  []*worker
	uploads  int    // ever asked for
	orders   int    // of operators of the archive
	reclaims bool   // a gc runs
	wanted   string // demanded last
	waits    bool   // for peace to do its work: clients hardly ask
	net      network
	menu     menu
	led      ledger

	ios      uint64 // of the simulated disks
	messages uint64
	steps    uint64
	stores   int // ever made
}

// Config says which world it is.
type Config struct {
	Seed uint64
	// Hosts and StoresPerHost: three stores or more make groups of 2+1 over three hosts, six of 4+2.
	Hosts, StoresPerHost int
	Volumes              int
	// IOs and Faults are how many of each there must have been before all is healed.
	IOs, Faults uint64
	// Patience is how long there may be too few of them. 0: ten minutes.
	Patience time.Duration
	// Calm: nothing goes wrong. Only: no other fault than this.
	Calm bool
	Only Kind
	// Quiesce returns when every goroutine but the caller's waits: testing/synctest's Wait.
	Quiesce func()
	// Trace, if set, hears every line of the trace.
	Trace func(string)
}

// ForSeed gives the world of a seed: its shape follows from it.
func ForSeed(seed uint64) Config {
	c := Config{Seed: seed, Hosts: 4, StoresPerHost: 1, Volumes: 2, IOs: 10_000, Faults: 20}
	switch seed % 4 {
	case 1:
		c.Hosts, c.StoresPerHost = 4, 2
	case 2:
		c.Hosts, c.StoresPerHost = 3, 2
	case 3:
		c.Hosts, c.StoresPerHost, c.Volumes = 5, 1, 3
	}
	return c
}

// New makes a world whose hosts are up and whose volumes are made.
func New(cfg Config) *World {
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5eed)), clock: clock.NewManual(), hash: fnv.New64a()}
	w.epoch = w.clock.Now()
	w.at = w.epoch
	w.net.init(w)
	w.led.init(w)
	w.menu.init(w)
	w.ctx, w.end = context.WithCancel(context.Background())
	w.bucket = newBucket(w)
	for i := range workersOfWorld {
		w.workers = append(w.workers, newWorker(w, i))
	}
	w.metad = newMetad(w)
	for i := range cfg.Hosts {
		w.hosts = append(w.hosts, newHost(w, id.Host(fmt.Sprintf("h%d", i+1)), cfg.StoresPerHost))
	}
	for i := range cfg.Volumes {
		w.disks = append(w.disks, newDisk(w, i))
	}
	w.metad.tick()
	for _, h := range w.hosts {
		h.boot()
	}
	for _, x := range w.workers {
		x.boot()
	}
	return w
}

func (w *World) now() time.Duration { return w.clock.Now() }

// after lets f happen when d has passed. The name goes into the trace when it does.
func (w *World) after(d time.Duration, name string, f func()) { w.later(d, name, "", nil, f) }

// later is after, with a name of two parts, unless moot has become true by then.
func (w *World) later(d time.Duration, name, what string, moot *bool, f func()) {
	w.queue.add(w.now()+max(d, 0), event{name, what, moot, f})
}

func (w *World) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

// one in n; never in a calm world, and n of 0 is never.
func (w *World) oneIn(n int) bool { return n > 0 && !w.menu.calm && w.rng.IntN(n) == 0 }

// stepsMax is several times what a world needs: one that does not come to an end chases itself.
const stepsMax = 700_000

// step lets the next event happen; false if there is none or something went wrong.
func (w *World) step() bool {
	if w.err != nil || w.queue.empty() {
		return false
	}
	at, e := w.queue.take()
	if e.moot != nil && *e.moot {
		return true
	}
	if d := at - w.now(); d > 0 {
		w.at = at
		due, rings := w.clock.Next()
		w.clock.Advance(d)
		if rings && due <= at {
			w.settle()
		}
	}
	if w.steps++; w.steps > stepsMax {
		w.fail(CheckHeal, "no end after %d steps, the last demand was: %s; %s", w.steps, w.wanted, w.state())
		return false
	}
	w.noteTwo(e.name, e.what)
	e.do()
	w.settle()
	return w.err == nil
}

// run lets d pass; until runs until cond holds, false after limit.
func (w *World) run(d time.Duration) { w.until(d, func() bool { return false }) }

func (w *World) until(limit time.Duration, cond func() bool) bool {
	end := w.now() + limit
	for !cond() {
		if w.queue.empty() || w.queue.next() > end || !w.step() {
			return false
		}
	}
	return true
}

// note takes a line into the trace: its hash is what two runs of a seed must share.
func (w *World) note(line string) { w.noteTwo(line, "") }

func (w *World) noteTwo(line, rest string) {
	now := w.now()
	w.line = binary.LittleEndian.AppendUint64(w.line[:0], uint64(now))
	w.line = binary.LittleEndian.AppendUint64(w.line, w.steps)
	w.line = append(append(w.line, line...), rest...)
	w.hash.Write(w.line)
	w.tail.add(now-w.epoch, line, rest)
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%v %s%s", now-w.epoch, line, rest))
	}
}

func (w *World) log(format string, args ...any) { w.note(fmt.Sprintf(format, args...)) }

// Fail notes the first thing that went wrong; the world stops.
func (w *World) fail(check Check, format string, args ...any) {
	if w.err == nil {
		w.err = &Violation{Seed: w.cfg.Seed, At: w.now() - w.epoch, Check: check, What: fmt.Sprintf(format, args...)}
		w.note("FAILED: " + w.err.Error())
	}
}

// Violation is a checker that found a broken promise.
type Violation struct {
	Seed  uint64
	At    time.Duration
	Check Check
	What  string
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d at %v: %s: %s", v.Seed, v.At, v.Check, v.What)
}

// Hash is over everything that happened, in order.
func (w *World) Hash() uint64 { return w.hash.Sum64() }

// tail keeps the last lines of the trace.
type tail struct {
	lines [tailLines]tailLine
	n     int
}

const tailLines = 400

type tailLine struct {
	at         time.Duration
	text, rest string
}

func (t *tail) add(at time.Duration, text, rest string) {
	t.lines[t.n%tailLines] = tailLine{at, text, rest}
	t.n++
}

// Tail is the last n lines of the trace.
func (w *World) Tail(n int) (out []string) {
	for i := max(0, w.tail.n-min(n, tailLines)); i < w.tail.n; i++ {
		l := w.tail.lines[i%tailLines]
		out = append(out, fmt.Sprintf("%v %s%s", l.at, l.text, l.rest))
	}
	return out
}

// store finds a store that is on some disk, served or not.
func (w *World) store(s id.Store) *store {
	for _, h := range w.hosts {
		for _, st := range h.stores {
			if st.ref.Store == s {
				return st
			}
		}
	}
	return nil
}

func (w *World) allStores() (out []*store) {
	for _, h := range w.hosts {
		out = append(out, h.stores...)
	}
	return out
}
