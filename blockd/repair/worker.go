package repair

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Local is the store that is filled.
type Local interface {
	storeproto.Store
	storeproto.Keeper
}

// Stores finds the body of a store; false if it is not known here.
type Stores interface {
	Store(id.Store) (storeproto.Store, bool)
}

// Config has what a Worker needs.
type Config struct {
	Self     cluster.StoreRef
	Local    Local
	Stores   Stores
	Topology func() *cluster.Topology
	Pace     *Pace // shared by the stores of a host; nil: no limit
	Clock    clock.Clock
	Log      *slog.Logger
	// Filled hears of a group of which segments were rebuilt here, and nothing is missing now; may be nil.
	Filled func(pg id.PG, segments int, bytes uint64)
	// Timeout of one request. 0: 15 s.
	Timeout time.Duration
	// Every is how often the worker looks whether there is something to do; 0: 500 ms.
	Every time.Duration
	// Jobs is how many shards are rebuilt at once; 0: 2.
	Jobs int
	// ScrubPace bounds scrubs that were asked for; nil: no limit.
	ScrubPace *Pace
	// ScrubEvery is how often all shards are looked at unasked; 0: 14 days.
	ScrubEvery time.Duration
}

// Progress is how far the worker has come with one group.
type Progress struct {
	PG      id.PG
	Version uint32
	// Whole: every shard that belongs here under this version is here, and none coded
	// under an older one can be born any more.
	Whole                bool
	Done, Left           uint64 // segments
	BytesDone, BytesLeft uint64
	BytesPerSecond       uint64
	Stuck                uint32 // segments of which too few shards are right
	Problem              string // of the last try
}

// retryEvery is after how many looks a group that is not whole is listed again.
const retryEvery = 4

// Worker fills one store. Run is to be called once; the rest is safe at any time.
type Worker struct {
	cfg  Config
	wake chan struct{}

	mu struct {
		sync.Mutex
		groups  map[id.PG]*Progress
		since   map[id.PG]time.Duration // when the group was begun, for the rate
		remains map[id.PG]remainder
	}
	// hands is held while a missing shard is put back, and while shards are reaped: across I/O.
	hands turn
	care  care

	// Of Run alone: by the version for which a group was reaped, and when to try one again.
	reaped  map[id.PG]uint32
	retryAt map[id.PG]time.Duration
}

// turn is a lock that is held across I/O. Who waits for it only waits, which a simulated
// world can tell from work; of a mutex it cannot.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// New makes a worker.
func New(cfg Config) *Worker {
	cfg.Timeout = cmp.Or(cfg.Timeout, 15*time.Second)
	cfg.Every = cmp.Or(cfg.Every, time.Second/2)
	cfg.Jobs = cmp.Or(cfg.Jobs, 2)
	cfg.ScrubEvery = cmp.Or(cfg.ScrubEvery, 14*24*time.Hour)
	w := &Worker{cfg: cfg, hands: make(turn, 1), wake: make(chan struct{}, 1), reaped: make(map[id.PG]uint32), retryAt: make(map[id.PG]time.Duration)}
	w.mu.groups, w.mu.since = make(map[id.PG]*Progress), make(map[id.PG]time.Duration)
	w.care.one = make(turn, 1)
	w.care.mu.pending, w.care.wake = make(map[storeproto.ShardName]*suspect), make(chan struct{}, 1)
	return w
}

// Poke has the worker look again now: the topology changed.
func (w *Worker) Poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Progress lists the groups that the store was given a slot of, by number.
func (w *Worker) Progress() []Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Progress, 0, len(w.mu.groups))
	for _, p := range w.mu.groups {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Progress) int { return cmp.Compare(a.PG, b.PG) })
	return out
}

// Run works until ctx ends.
func (w *Worker) Run(ctx context.Context) error {
	t := w.cfg.Clock.NewTicker(w.cfg.Every)
	defer t.Stop()
	for {
		w.Round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		case <-w.wake:
		}
	}
}

// Round looks once at every group, the most endangered first.
func (w *Worker) Round(ctx context.Context) {
	t := w.cfg.Topology()
	if t == nil {
		return
	}
	w.countRemains(ctx, t)
	tasks := Tasks(t, w.cfg.Self)
	w.keep(tasks)
	for _, task := range tasks {
		if ctx.Err() != nil || w.cfg.Topology() != t {
			return // plans made by an older topology may be wrong
		}
		if now := w.cfg.Clock.Now(); w.begin(task) && now >= w.retryAt[task.PG] {
			w.fill(ctx, task)
			w.retryAt[task.PG] = now + retryEvery*w.cfg.Every
		}
	}
	for i := range t.PGs {
		if ctx.Err() == nil && w.cfg.Topology() == t {
			w.reap(ctx, &t.PGs[i])
		}
	}
}

// keep forgets what is known of groups that are not being moved here any more.
func (w *Worker) keep(tasks []Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for pg := range w.mu.groups {
		if !slices.ContainsFunc(tasks, func(t Task) bool { return t.PG == pg }) {
			delete(w.mu.groups, pg)
			delete(w.mu.since, pg)
		}
	}
}

// begin makes the group's progress; false if it is whole already.
func (w *Worker) begin(t Task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.mu.groups[t.PG]
	if p == nil || p.Version != t.Version {
		w.mu.groups[t.PG] = &Progress{PG: t.PG, Version: t.Version}
		w.mu.since[t.PG] = w.cfg.Clock.Now()
		delete(w.retryAt, t.PG)
		return true
	}
	return !p.Whole
}

// note changes the group's progress.
func (w *Worker) note(pg id.PG, f func(*Progress)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.mu.groups[pg]; p != nil {
		f(p)
		if spent := w.cfg.Clock.Now() - w.mu.since[pg]; spent > 0 {
			p.BytesPerSecond = uint64(float64(p.BytesDone) / spent.Seconds())
		}
	}
}

// fill rebuilds what is missing of one group.
func (w *Worker) fill(ctx context.Context, t Task) {
	missing, err := w.missing(ctx, t)
	var bytes uint64
	for _, s := range missing {
		bytes += s.bytes()
	}
	w.note(t.PG, func(p *Progress) {
		p.Left, p.BytesLeft, p.Stuck, p.Problem = uint64(len(missing)), bytes, 0, ""
		if err != nil {
			p.Problem = err.Error()
		}
	})
	if w.rebuildAll(ctx, t, missing) && err == nil && ctx.Err() == nil {
		w.note(t.PG, func(p *Progress) { p.Whole = true })
		if w.cfg.Filled != nil && len(missing) > 0 {
			w.cfg.Filled(t.PG, len(missing), bytes)
		}
		w.cfg.Log.Info("group filled in", "store", w.cfg.Self.Store.String(), "group", int(t.PG), "version", t.Version, "segments", len(missing), "bytes", bytes)
	}
}

// rebuildAll tells whether nothing is left to do.
func (w *Worker) rebuildAll(ctx context.Context, t Task, missing []lack) bool {
	var wg sync.WaitGroup
	var failed sync.Once
	all := true
	work := make(chan lack)
	for range w.cfg.Jobs {
		wg.Go(func() {
			for s := range work {
				err := w.rebuild(ctx, t, s)
				w.count(t, s, err)
				if err != nil {
					failed.Do(func() { all = false })
				}
			}
		})
	}
	seen := w.cfg.Topology()
	for _, s := range missing {
		now := w.cfg.Topology()
		if now == nil || !t.same(now) || now != seen && overtaken(Tasks(now, w.cfg.Self), t) {
			failed.Do(func() { all = false })
			break // the group moved on, or another is in greater danger
		}
		seen = now
		select {
		case work <- s:
			continue
		case <-ctx.Done():
			failed.Do(func() { all = false })
		}
		break
	}
	close(work)
	wg.Wait()
	return all
}

func (w *Worker) count(t Task, s lack, err error) {
	w.note(t.PG, func(p *Progress) {
		switch {
		case err == nil:
			p.Done++
			p.BytesDone += s.bytes()
			p.Left -= min(p.Left, 1)
			p.BytesLeft -= min(p.BytesLeft, s.bytes())
		case errs.CodeOf(err) == errs.CodeOf(errs.ErrCorrupt):
			p.Stuck++
			p.Problem = err.Error()
		default:
			p.Problem = err.Error()
		}
	})
	if err != nil && ctxIsFine(err) {
		w.cfg.Log.Debug("shard not rebuilt yet", "store", w.cfg.Self.Store.String(), "segment", s.name.Segment.String(), "err", err)
	}
}

func ctxIsFine(err error) bool { return errs.CodeOf(err) != errs.CodeOf(errs.ErrClosed) }

// call bounds one request.
func (w *Worker) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, w.cfg.Timeout, fmt.Errorf("a store is slow: %w", errs.ErrTimeout))
}
