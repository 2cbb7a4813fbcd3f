package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Scrub asks for a look at every shard of the store, or of one volume.
type Scrub struct {
	ID     [16]byte // chosen by who asks; the same again is the same scrub
	Volume id.Volume
}

// scrub is one that was asked for.
type scrub struct {
	volume id.Volume
	cluster.ScrubProgress
}

// Limits and times of scrubs.
const (
	// settle is how long a shard must be missing: one that is being put is not.
	settle = 10 * time.Second
	// passRateMin is the slowest pace of the pass that nobody asked for, in bytes per second.
	passRateMin = 1 << 20
	saveEvery   = 30 * time.Second
	scanPage    = 1024
)

// AskScrub has the store scrubbed soon. False: too many wait.
func (w *Worker) AskScrub(q Scrub) bool {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.mu.scrubs {
		if s.ID == q.ID {
			return true
		}
	}
	if len(c.mu.scrubs) >= cluster.ScrubsMax {
		i := slices.IndexFunc(c.mu.scrubs, func(s *scrub) bool { return s.State == cluster.ScrubDone })
		if i < 0 {
			return false
		}
		c.mu.scrubs = slices.Delete(c.mu.scrubs, i, i+1)
	}
	c.mu.scrubs = append(c.mu.scrubs, &scrub{q.Volume, cluster.ScrubProgress{ID: q.ID, State: cluster.ScrubWaiting}})
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// Scrubs tells how far the scrubs are that were asked for.
func (w *Worker) Scrubs() []cluster.ScrubProgress {
	c := &w.care
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]cluster.ScrubProgress, 0, len(c.mu.scrubs))
	for _, s := range c.mu.scrubs {
		out = append(out, s.ScrubProgress)
	}
	return out
}

// Scrub looks at all shards every cfg.ScrubEvery, slowly, and whenever it is asked, until
// ctx ends. Call it once, beside Run and Care.
func (w *Worker) Scrub(ctx context.Context) error {
	w.load()
	t := w.cfg.Clock.NewTicker(time.Second)
	defer t.Stop()
	for {
		w.ScrubRound(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		case <-w.care.wake:
		}
	}
}

// ScrubRound carries out what was asked for, and the pass over everything if it is due.
func (w *Worker) ScrubRound(ctx context.Context) {
	w.load()
	w.asked(ctx)
	c := &w.care
	c.mu.Lock()
	state := c.mu.state
	c.mu.Unlock()
	if state.BeganMS == 0 && w.cfg.Clock.Wall().UnixMilli()-state.EndedMS < w.cfg.ScrubEvery.Milliseconds() {
		return
	}
	w.pass(ctx)
}

// asked carries out the scrubs that wait.
func (w *Worker) asked(ctx context.Context) {
	c := &w.care
	for ctx.Err() == nil {
		c.mu.Lock()
		i := slices.IndexFunc(c.mu.scrubs, func(s *scrub) bool { return s.State != cluster.ScrubDone })
		if i < 0 {
			c.mu.Unlock()
			return
		}
		s := c.mu.scrubs[i]
		s.State = cluster.ScrubRunning
		c.mu.Unlock()
		began := w.cfg.Clock.Now()
		w.scrub(ctx, s)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		s.State = cluster.ScrubDone
		p := s.ScrubProgress
		c.mu.Unlock()
		w.cfg.Log.Info("scrubbed", "store", w.cfg.Self.Store.String(), "shards", p.Shards, "bytes", p.Bytes, "wrong", p.Wrong, "missing", p.Missing,
			"mended", p.Mended, "stuck", p.Stuck, "took", (w.cfg.Clock.Now() - began).String())
	}
}

// scrub looks at the shards that one scrub asks for, and then for those that are missing.
func (w *Worker) scrub(ctx context.Context, s *scrub) {
	update := func(f func(p *cluster.ScrubProgress)) {
		w.care.mu.Lock()
		defer w.care.mu.Unlock()
		f(&s.ScrubProgress)
	}
	_, err := w.eachOwn(ctx, storeproto.ShardName{}, s.volume, func(x storeproto.ShardInfo) bool {
		update(func(p *cluster.ScrubProgress) { p.AllShards++; p.AllBytes += bytesOf(x) })
		return true
	})
	if err == nil {
		_, err = w.eachOwn(ctx, storeproto.ShardName{}, s.volume, func(x storeproto.ShardInfo) bool {
			found, problem := w.inspect(ctx, x, w.cfg.ScrubPace)
			update(func(p *cluster.ScrubProgress) { p.Shards++; p.Bytes += bytesOf(x); count(p, found, problem) })
			return ctx.Err() == nil
		})
	}
	if err != nil {
		update(func(p *cluster.ScrubProgress) { p.Problem = err.Error() })
		return
	}
	w.lookForMissing(ctx, s.volume, func(found outcome, problem string) {
		update(func(p *cluster.ScrubProgress) { count(p, found, problem) })
	}, func(err error) {
		update(func(p *cluster.ScrubProgress) { p.NotCompared++; p.Problem = err.Error() })
	})
}

// count adds what came of one shard.
func count(p *cluster.ScrubProgress, found outcome, problem string) {
	switch found {
	case wrong:
		p.Wrong++
		p.Mended++
	case missing:
		p.Missing++
		p.Mended++
	case stuck:
		p.Wrong++
		p.Stuck++
		p.Problem = problem
	}
}

func bytesOf(x storeproto.ShardInfo) uint64 { return uint64(x.Blocks) * storeproto.BlockSize }

// eachOwn calls f for the store's shards after a name, of one volume if v is not zero, until f
// says stop. It gives the name it came to.
func (w *Worker) eachOwn(ctx context.Context, after storeproto.ShardName, v id.Volume, f func(storeproto.ShardInfo) bool) (storeproto.ShardName, error) {
	for ctx.Err() == nil {
		page, err := w.cfg.Local.NextShards(after, scanPage)
		if err != nil || len(page) == 0 {
			return after, err
		}
		for _, x := range page {
			if (v.IsZero() || x.Volume == v) && !f(x) {
				return after, nil
			}
			after = x.ShardName
		}
	}
	return after, nil
}

// inspect looks at one shard and has it mended if it is wrong.
func (w *Worker) inspect(ctx context.Context, x storeproto.ShardInfo, pace *Pace) (outcome, string) {
	err := w.cfg.Local.VerifyShard(ctx, x.ShardName, func(n int) error { return pace.Wait(ctx, w.cfg.Clock, n) })
	if !errors.Is(err, errs.ErrCorrupt) {
		return right, "" // or deleted meanwhile, or the store ends
	}
	found := w.tend(ctx, x.ShardName)
	if found == going && w.cfg.Clock.Sleep(ctx, againAfter) == nil {
		found = w.tend(ctx, x.ShardName)
	}
	if found != stuck {
		return found, "" // going: the scrub ends
	}
	return stuck, err.Error()
}

// pass goes over the whole store, from where the last one was cut off.
func (w *Worker) pass(ctx context.Context) {
	c := &w.care
	var all uint64
	if _, err := w.eachOwn(ctx, storeproto.ShardName{}, id.Volume{}, func(x storeproto.ShardInfo) bool { all += bytesOf(x); return true }); err != nil {
		return // the next round tries again
	}
	c.mu.Lock()
	if c.mu.state.BeganMS == 0 {
		c.mu.state.BeganMS, c.mu.state.After = w.cfg.Clock.Wall().UnixMilli(), storeproto.ShardName{}
		c.mu.state.Shards, c.mu.state.Bytes = 0, 0
	}
	after := c.mu.state.After
	c.mu.Unlock()
	pace := NewPace(max(passRateMin, int64(float64(all)/(0.8*w.cfg.ScrubEvery.Seconds()))))
	_, err := w.eachOwn(ctx, after, id.Volume{}, func(x storeproto.ShardInfo) bool {
		w.inspect(ctx, x, pace)
		if ctx.Err() != nil {
			return false
		}
		c.mu.Lock()
		c.mu.state.After = x.ShardName
		c.mu.state.Shards++
		c.mu.state.Bytes += bytesOf(x)
		late := w.cfg.Clock.Now()-c.mu.saved >= saveEvery
		c.mu.Unlock()
		if late {
			w.save()
		}
		w.asked(ctx)
		return ctx.Err() == nil
	})
	if err != nil || ctx.Err() != nil {
		return
	}
	w.lookForMissing(ctx, id.Volume{}, func(outcome, string) {}, func(error) {})
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	c.mu.state.EndedMS, c.mu.state.BeganMS, c.mu.state.After = w.cfg.Clock.Wall().UnixMilli(), 0, storeproto.ShardName{}
	c.mu.Unlock()
	w.save()
}

// lookForMissing compares, group by group, what others have with what the store has. A
// group that is being moved is left to the repair. What is missing twice, some time apart,
// is rebuilt.
func (w *Worker) lookForMissing(ctx context.Context, v id.Volume, found func(outcome, string), failed func(error)) {
	t := w.cfg.Topology()
	if t == nil {
		return
	}
	var suspects []storeproto.ShardName
	for i := range t.PGs {
		p := &t.PGs[i]
		slot := slices.Index(p.Current().Stores, w.cfg.Self)
		if slot < 0 || len(p.Versions) > 1 || ctx.Err() != nil {
			continue
		}
		names, err := w.lacking(ctx, t, p, uint8(slot), v)
		if err != nil {
			failed(err)
		}
		suspects = append(suspects, names...)
	}
	if len(suspects) == 0 || w.cfg.Clock.Sleep(ctx, settle) != nil {
		return
	}
	for _, n := range suspects {
		if ctx.Err() != nil {
			return
		}
		if got := w.tend(ctx, n); got != right && got != gone && got != going {
			found(got, "a missing shard cannot be rebuilt now")
		}
	}
}

// lacking lists what at least k others have of a group and the store has not. The error is of a
// store that could not be asked; what the others say counts all the same.
func (w *Worker) lacking(ctx context.Context, t *cluster.Topology, p *cluster.PG, slot uint8, v id.Volume) (out []storeproto.ShardName, failed error) {
	current := p.Current()
	task := Task{PG: p.Number, Version: current.Version}
	seen := make(map[generation]uint8)
	for _, r := range current.Stores {
		if r == w.cfg.Self || !mustAsk(t, r) {
			continue
		}
		body, _ := w.cfg.Stores.Store(r.Store)
		lister, ok := body.(storeproto.Lister)
		err := fmt.Errorf("store %s is not known here: %w", r, errs.ErrUnavailable)
		if ok {
			err = w.each(ctx, task, lister, func(x storeproto.ShardInfo) {
				if x.K == current.K && x.M == current.M && (v.IsZero() || x.Volume == v) {
					seen[generation{x.Segment, x.Generation}]++
				}
			})
		}
		if err != nil {
			failed = fmt.Errorf("compare group %d: %w", p.Number, err)
		}
	}
	err := w.each(ctx, task, w.cfg.Local, func(x storeproto.ShardInfo) {
		if x.Index == slot {
			delete(seen, generation{x.Segment, x.Generation})
		}
	})
	if err != nil {
		return nil, err
	}
	for g, n := range seen {
		if n >= current.K {
			out = append(out, storeproto.ShardName{Segment: g.segment, Generation: g.generation, Index: slot})
		}
	}
	slices.SortFunc(out, storeproto.ShardName.Compare)
	return out, failed
}
