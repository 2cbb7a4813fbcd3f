package repair

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// care is what a worker knows of the store's own shards: those that are suspect, what was
// found so far, the pass over all of them and what was asked for.
//
// Lock order: one, then mu.
type care struct {
	one turn // held while a shard is mended, across I/O
	mu  struct {
		sync.Mutex
		loaded  bool
		state   storeproto.Care
		pending map[storeproto.ShardName]*suspect
		scrubs  []*scrub // asked for, the oldest first
		saved   time.Duration
	}
	wake chan struct{} // a scrub was asked for
}

// suspect is a shard that is to be looked at.
type suspect struct {
	due     time.Duration
	pause   time.Duration
	counted bool // it was found wrong, and counted
	going   bool // at the last look it seemed to be being deleted
	problem string
}

// Pauses before a shard that could not be mended is tried again: the first and the longest.
const (
	againAfter    = 2 * time.Second
	againAfterMax = 10 * time.Minute
)

// Health tells what was found of the store's shards.
func (w *Worker) Health() cluster.Care {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	st := &c.mu.state
	fade(st, w.cfg.Clock.Wall())
	h := cluster.Care{Wrong: st.Wrong, Missing: st.Missing, Mended: st.Mended, Flagged: st.Flagged, PassShards: st.Shards, PassBytes: st.Bytes}
	if st.BeganMS != 0 {
		h.PassBegan = time.UnixMilli(st.BeganMS)
	}
	if st.EndedMS != 0 {
		h.PassEnded = time.UnixMilli(st.EndedMS)
	}
	for _, s := range c.mu.pending {
		if s.counted {
			h.Stuck++
			h.Problem = cmp.Or(h.Problem, s.problem)
		}
	}
	return h
}

// Stuck are segments of which a shard here is wrong or missing and could not be rebuilt, at most n.
func (w *Worker) Stuck(n int) (out []id.Segment) {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, s := range c.mu.pending {
		if s.counted && len(out) < n && !slices.Contains(out, name.Segment) {
			out = append(out, name.Segment)
		}
	}
	return out
}

// load takes what the store remembers.
func (w *Worker) load() {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.loaded {
		return
	}
	state, err := w.cfg.Local.Care()
	if err != nil && !errors.Is(err, errs.ErrUnavailable) {
		w.cfg.Log.Warn("what was remembered of the care for shards cannot be read, it begins anew", "store", w.cfg.Self.Store.String(), "err", err)
	}
	c.mu.loaded, c.mu.state = true, state
}

// save keeps what is known over restarts. What is lost is lost to the counts only.
func (w *Worker) save() {
	c := &w.care
	c.mu.Lock()
	state := c.mu.state
	c.mu.saved = w.cfg.Clock.Now()
	c.mu.Unlock()
	if err := w.cfg.Local.SaveCare(state); err != nil && !errors.Is(err, errs.ErrUnavailable) {
		w.cfg.Log.Info("care not saved", "store", w.cfg.Self.Store.String(), "err", err)
	}
}

// Care mends the shards that reads find wrong, until ctx ends. Call it once, beside Run.
func (w *Worker) Care(ctx context.Context) error {
	w.load()
	t := w.cfg.Clock.NewTicker(time.Second)
	defer t.Stop()
	for {
		w.CareRound(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		case <-w.cfg.Local.Suspected():
		}
	}
}

// CareRound looks once at every shard that is suspect and due.
func (w *Worker) CareRound(ctx context.Context) {
	w.load()
	for _, n := range w.cfg.Local.Suspects() {
		w.suspect(n)
	}
	for _, n := range w.due() {
		if ctx.Err() != nil {
			return
		}
		w.tend(ctx, n)
	}
}

// suspect has a shard looked at; one that is pending already keeps its time.
func (w *Worker) suspect(n storeproto.ShardName) {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.pending[n] == nil && len(c.mu.pending) < storeproto.SuspectsMax {
		c.mu.pending[n] = &suspect{due: w.cfg.Clock.Now()}
	}
}

func (w *Worker) due() (out []storeproto.ShardName) {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	now := w.cfg.Clock.Now()
	for n, s := range c.mu.pending {
		if now >= s.due {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, storeproto.ShardName.Compare)
	return out
}

// tend mends one shard and counts what came of it.
func (w *Worker) tend(ctx context.Context, n storeproto.ShardName) outcome {
	c := &w.care
	c.one.Lock()
	defer c.one.Unlock()
	out, err := w.mend(ctx, n)
	if ctx.Err() != nil {
		return out
	}
	out, news := w.tally(n, out, err)
	if news {
		w.save()
	}
	log := w.cfg.Log.With("store", w.cfg.Self.Store.String(), "segment", n.Segment.String(), "generation", n.Generation.String(), "shard", int(n.Index))
	switch {
	case out == wrong:
		log.Warn("a wrong shard was rebuilt from others and written again")
	case out == missing:
		log.Warn("a missing shard was rebuilt from others and put back")
	case err != nil:
		log.Info("suspect shard not mended yet", "err", err)
	}
	return out
}

// tally counts an outcome; it tells whether there is something new to keep. What seems to
// be being deleted is stuck when it still does at the next look: the stores of a segment
// hear of its deletion one after the other.
func (w *Worker) tally(n storeproto.ShardName, out outcome, err error) (outcome, bool) {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	st, s := &c.mu.state, c.mu.pending[n]
	count := func(found *uint64) {
		if s == nil || !s.counted {
			*found++
			blame(st, w.cfg.Clock.Wall(), 1)
		}
	}
	switch out {
	case right, gone:
		delete(c.mu.pending, n)
		return out, false
	case wrong, missing:
		if out == missing {
			count(&st.Missing)
		} else {
			count(&st.Wrong)
		}
		st.Mended++
		delete(c.mu.pending, n)
		return out, true
	}
	if s == nil {
		if len(c.mu.pending) >= storeproto.SuspectsMax {
			return out, false
		}
		s = &suspect{}
		c.mu.pending[n] = s
	}
	s.pause = min(max(2*s.pause, againAfter), againAfterMax)
	s.due = w.cfg.Clock.Now() + s.pause
	if out == going && !s.going && !s.counted {
		s.going = true
		return going, false
	}
	s.going = false
	if errors.Is(err, errs.ErrCorrupt) && !s.counted {
		count(&st.Wrong)
		s.counted, s.problem = true, err.Error()
		return stuck, true
	}
	return stuck, false
}
