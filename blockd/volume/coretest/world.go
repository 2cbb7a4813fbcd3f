package coretest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// Config says what a World is like. Chances are between 0 and 1, per event.
type Config struct {
	Seed    uint64
	Stores  int
	Blocks  block.LBA
	Limits  core.Limits
	Journal journal.Limits
	Memory  *core.Memory     // shared with other worlds; nil: none
	Budget  *blockmap.Budget // of its map; nil: 64 pages
	Room    *Room            // of the stores, shared with other worlds; nil: no end of it
	// Leases: reads go without a round trip. An engine is then killed before another
	// takes over: on one host the older life is known to be dead.
	Leases bool

	Snapshots float64 // the chance that a request is about a snapshot
	// Archived are blocks that the volume begins with, in an archive; none: it begins empty.
	Archived []block.Extent
	Holds    []string // what is kept back from the beginning; see World.Hold

	PackFails, PageFails, ReadFails, MetadFails, StoreFails, TakesOver float64

	// ToZombies is the chance that a request goes to an engine that is not the owner.
	ToZombies float64
	// CheckEvery is how many steps lie between two counts of everything; 0: never.
	CheckEvery int
	// Trace, if set, hears of what happens.
	Trace func(string)
}

// World is everything around the cores of one volume, stepped by one seed.
type World struct {
	cfg      Config
	rng      *rand.Rand
	clock    *clock.Manual
	volume   id.Volume
	life     uint64
	budget   *blockmap.Budget
	Metad    *Metad
	Stores   []*memstore.Store
	Engines  []*Engine
	Model    *Model
	segments *segments
	archive  *archive // nil: the volume was not made from one

	// Hold, if set, keeps back what its name matches; names begin with the engine's.
	Hold  func(name string) bool
	watch func(*core.PackJob) // sees what is packed
	// MayFail: requests may end with other errors than that of a fence.
	MayFail  bool
	links    []*link
	sent     map[*journal.Send]*storeproto.Batch // what a store has a copy of
	tasks    []task
	calm     bool // no faults any more
	unlisted bool // a store does not list what it has
	partly   int  // how much is found all the same; 0: half
	listings int
	steps    int
	requests int // submitted and not completed
	Done     int // requests completed
	Puts     int
	err      error

	Snaps          []*Snap
	Taken, Dropped int // snapshots

	rewritten, merged, moved uint64 // by cleaners that have ended

	origin *lineage.Origin
	roll   *roll
	flat   flattening
	// retired is not nil when the disk is deleted; Buried counts those of the family that are purged since.
	retired *retirement
	Buried  int
	// Flattened is how often the volume was, wholly.
	Flattened int
	born      int      // clones that any of the kin made
	kin       []*World // this one and its clones and ancestors: they share stores, metad and time
	from      *Snap    // that it began with; nil: empty
}

// task is something that will happen.
type task struct {
	name string
	do   func()
}

// New makes a world with a volume of zeros.
func New(cfg Config) *World {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 11)), clock: clock.NewManual(), volume: id.Volume{1}, Metad: NewMetad(),
		budget: blockmap.NewBudget(64), Model: NewModel(), sent: make(map[*journal.Send]*storeproto.Batch),
	}
	if cfg.Budget != nil {
		w.budget = cfg.Budget
	}
	w.segments = &segments{w: w, at: make(map[id.Segment]map[id.Generation]*kept), tombs: make(map[id.Segment]id.Generation), of: make(map[id.Segment]id.Volume)}
	w.kin = []*World{w}
	for i := range cfg.Stores {
		ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1, byte(i)}}
		w.Stores = append(w.Stores, memstore.New(memstore.Options{
			ID: ref.Store, Incarnation: ref.Incarnation, Clock: w.clock, LeaseTerm: 300 * time.Millisecond,
		}))
		w.Metad.AddStore(cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("h%d", i)), State: cluster.StoreUp})
	}
	w.Metad.Create(w.volume, uint64(cfg.Blocks.Offset()))
	w.Metad.Profile(1, 1)
	if cfg.Room != nil {
		cfg.Room.worlds = append(cfg.Room.worlds, w)
	}
	if len(cfg.Archived) > 0 {
		w.archive = newArchive(w)
	}
	return w
}

func (w *World) now() time.Duration { return w.clock.Now() }

func (w *World) log(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%8d %v ", w.steps, w.now()-time.Hour) + fmt.Sprintf(format, args...))
	}
}

// Fail notes the first thing that went wrong.
func (w *World) Fail(err error) {
	if w.err == nil && err != nil {
		w.err = fmt.Errorf("seed %d, step %d: %w", w.cfg.Seed, w.steps, err)
		w.log("FAILED: %v", err)
	}
}

// Err is the first thing that went wrong.
func (w *World) Err() error { return w.err }

func (w *World) chance(p float64) bool { return !w.calm && p > 0 && w.rng.Float64() < p }

// lose makes the answer to a question get lost now and then, though it was carried out.
func (w *World) lose(err error) error {
	if err == nil && w.chance(w.cfg.MetadFails) {
		return fmt.Errorf("the answer was lost: %w", errs.ErrTimeout)
	}
	return err
}

func (w *World) later(name string, do func()) { w.tasks = append(w.tasks, task{name, do}) }

func (w *World) body(s id.Store) *memstore.Store {
	for _, x := range w.Stores {
		if x.ID() == s {
			return x
		}
	}
	panic("coretest: no such store")
}

// happen lets one of the things happen that can; false if there is none.
func (w *World) happen() bool {
	var ready []*[]task
	for _, l := range w.links {
		for _, q := range []*[]task{&l.requests, &l.answers} {
			if len(*q) > 0 && !w.held((*q)[0].name) {
				ready = append(ready, q)
			}
		}
	}
	free := make([]int, 0, len(w.tasks))
	for i := range w.tasks {
		if !w.held(w.tasks[i].name) {
			free = append(free, i)
		}
	}
	if len(free)+len(ready) == 0 {
		return false
	}
	i := w.rng.IntN(len(free) + len(ready))
	var t task
	if i >= len(free) {
		q := ready[i-len(free)]
		t = (*q)[0]
		*q = slices.Delete(*q, 0, 1)
	} else {
		i, last := free[i], len(w.tasks)-1
		t, w.tasks[i], w.tasks[last] = w.tasks[i], w.tasks[last], task{}
		w.tasks = w.tasks[:last]
	}
	w.log("%s", t.name)
	t.do()
	return true
}

func (w *World) held(name string) bool { return w.Hold != nil && w.Hold(name) }

// Quiesce lets everything happen that is not held, and time pass for some seconds.
func (w *World) Quiesce() {
	w.calm = true
	defer func() { w.calm = false }()
	for range 60 {
		for w.err == nil && w.happen() {
			w.steps++
		}
		w.pass(100 * time.Millisecond)
	}
}

// pass lets time go by.
func (w *World) pass(d time.Duration) {
	w.clock.Advance(d)
	for _, x := range w.kin {
		for _, e := range x.Engines {
			if !e.dead {
				e.tick()
			}
		}
	}
}

// Owner is the engine of the highest epoch.
func (w *World) Owner() *Engine {
	if len(w.Engines) == 0 {
		return nil
	}
	return w.Engines[len(w.Engines)-1]
}

// step does one random thing.
func (w *World) step() {
	w.steps++
	o := w.Owner()
	switch {
	case o == nil || o.Ended:
		w.TakeOver()
	case w.chance(w.cfg.TakesOver):
		w.TakeOver()
	case w.chance(w.cfg.StoreFails):
		w.failStore()
	case w.chance(w.cfg.PackFails / 20):
		pgs := w.Metad.PGs()
		w.Metad.BumpPG(pgs[w.rng.IntN(len(pgs))])
	case w.chance(w.cfg.PackFails / 40):
		pgs := w.Metad.PGs()
		w.Metad.RecodePG(pgs[w.rng.IntN(len(pgs))], 2, 1)
	case w.chance(w.cfg.MetadFails / 20):
		w.Metad.SetAway(true)
		w.later("metad is back", func() { w.Metad.SetAway(false) })
	case w.rng.IntN(20) == 0:
		w.pass(time.Duration(w.rng.IntN(120)) * time.Millisecond)
	case w.chance(w.cfg.Snapshots) && w.requests < 24:
		w.snapStep()
	case w.rng.IntN(4) == 0 && w.requests < 24 && !w.calm:
		w.Submit()
	default:
		if !w.happen() {
			w.pass(50 * time.Millisecond)
		}
	}
	if w.cfg.CheckEvery > 0 && w.steps%w.cfg.CheckEvery == 0 {
		w.Check()
	}
}

// TakeOver lets another engine open the volume. The one before may go on as a zombie.
func (w *World) TakeOver() {
	if o := w.Owner(); o != nil && (w.cfg.Leases || w.rng.IntN(2) == 0) {
		o.Kill()
	}
	for len(w.Engines) > 3 { // zombies of long ago are of no interest
		w.Engines[0].Kill()
		w.Engines = slices.Delete(w.Engines, 0, 1)
	}
	w.open()
}

// failStore kills a store for a while. Two at once would only make everybody wait.
func (w *World) failStore() {
	s := w.Stores[w.rng.IntN(len(w.Stores))]
	w.log("store %s dies", s.ID())
	s.Crash(w.rng.Uint64())
	if w.rng.IntN(2) == 0 {
		w.Metad.Mark(s.ID(), cluster.StoreDown)
	}
	w.later("store is back", func() {
		s.Restart()
		w.Metad.Mark(s.ID(), cluster.StoreUp)
	})
}

// Check counts everything again, of the owner and of metad's checkpoint.
func (w *World) Check() {
	o := w.Owner()
	if o == nil || o.dead || !o.Opened {
		return
	}
	if err := o.Core.Check(o.inspector()); err != nil {
		w.Fail(err)
	}
	if w.archive != nil && w.archive.whole && o.Core.Stats().ArchiveLeft > 0 {
		w.Fail(fmt.Errorf("%d segments lie in an archive that was given up", o.Core.Stats().ArchiveLeft))
	}
	rec := w.Metad.Record(w.volume)
	if rec.Checkpoint == nil {
		return
	}
	k, err := record.DecodeCheckpoint("metad's checkpoint", rec.Checkpoint.Opaque)
	if err != nil {
		w.Fail(err)
		return
	}
	for _, root := range []blockmap.Root{k.Map, k.Table} {
		if err := core.CountTree(root, o.inspector(), make(map[id.Segment]int)); err != nil {
			w.Fail(fmt.Errorf("checkpoint of metad: %w", err))
		}
	}
	w.checkTable(k)
}

// checkTable looks for every generation that the table of metad's checkpoint names: who
// opens the volume now begins with it.
func (w *World) checkTable(k *record.Checkpoint) {
	l, err := blockmap.LoadTable(k.Table)
	if err != nil {
		w.Fail(err)
		return
	}
	page := make([]byte, blockmap.PageSize)
	for want := l.Missing(make([]blockmap.Miss, 0, 16)); len(want) > 0; want = l.Missing(want[:0]) {
		for _, m := range want {
			if !w.segments.page(m.Location, page) {
				return // said already
			}
			if err := l.Fill(m, page); err != nil {
				w.Fail(err)
				return
			}
		}
	}
	t, _ := l.Table()
	t.Range(0, func(s id.Segment, e blockmap.Entry) bool {
		if e.Live > 0 && w.segments.at[s][e.Generation] == nil {
			w.Fail(fmt.Errorf("segment %s %s is gone, and lives in the table that metad has", s, e.Generation))
		}
		return true
	})
}

// Run does n random things.
func (w *World) Run(n int) error {
	for range n {
		if w.err != nil {
			break
		}
		w.step()
	}
	return w.err
}

var errStuck = errors.New("nothing goes on any more")

// Until lets things happen, without new requests and faults, until cond holds.
func (w *World) Until(cond func() bool) error {
	w.calm = true
	defer func() { w.calm = false }()
	for range 200_000 {
		if w.err != nil || cond() {
			return w.err
		}
		w.steps++
		if o := w.Owner(); o == nil || o.Ended && !o.Drained {
			w.TakeOver()
		}
		if len(w.kin) > 1 { // others may have made stores or metad go away
			w.kin[w.rng.IntN(len(w.kin))].happen()
		}
		if !w.happen() || w.rng.IntN(50) == 0 {
			w.pass(50 * time.Millisecond)
		}
	}
	w.Fail(errStuck)
	return w.err
}

// Settle waits until every request is done and the owner serves.
func (w *World) Settle() error {
	return w.Until(func() bool { return w.requests == 0 && w.Owner().Opened && !w.Owner().Ended })
}

// Segments is how many segments the stores have.
func (w *World) Segments() int { return len(w.segments.at) }

// Slots is how many blocks the stores have in segments, parity not counted.
func (w *World) Slots() int { return w.segments.slots() }
