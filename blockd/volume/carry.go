package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// Deadlines of the calls that a volume makes beside the I/O path.
const (
	fenceTimeout  = 8 * time.Second
	fetchTimeout  = 10 * time.Second
	metadTimeout  = 5 * time.Second
	deleteTimeout = 10 * time.Second
)

// carry carries out the effects of a step, without the mutex.
func (v *Volume) carry(fx *core.Effects) {
	v.carryJournal(&fx.Journal)
	if len(fx.Done) > 0 {
		var batch nbd.Batch
		for _, op := range fx.Done {
			v.done(op, &batch)
		}
		batch.Flush()
	}
	for _, op := range fx.Reads {
		v.fill(op)
	}
	for _, p := range fx.Pages {
		v.readPage(p)
	}
	for _, j := range fx.Packs {
		v.pack(j)
	}
	v.carryClean(fx)
	v.carryHydrate(fx)
	v.carryFlatten(fx)
	if len(fx.Deletes) > 0 {
		v.dead.add(fx.Deletes)
	}
	v.carryAsks(fx)
	v.carryGone(fx)
	v.carryRolled(fx)
	if fx.Again {
		v.kickOff()
	}
	v.carryNews(fx)
}

// carryNews tells whoever waits that the volume has opened, is drained, or has ended.
func (v *Volume) carryNews(fx *core.Effects) {
	if fx.Opened {
		close(v.opened)
	}
	if fx.Drained {
		close(v.drained)
	}
	var err error
	switch {
	case fx.Broken != nil:
		err = fx.Broken
	case fx.Fenced:
		err = fmt.Errorf("volume %s at %s: %w", v.id, v.epoch, errs.ErrStaleEpoch)
	default:
		return
	}
	v.mu.Lock()
	first := v.ended == nil
	v.fail(err)
	v.mu.Unlock()
	select {
	case <-v.opened:
		if first && v.cfg.Ended != nil {
			go v.cfg.Ended(v, err)
		}
	default: // Open says it
	}
}

func (v *Volume) carryJournal(fx *journal.Effects) {
	for _, c := range fx.Confirms {
		store, err := bodyOf(v.cfg.Stores, cluster.StoreRef(c.Member))
		if err != nil {
			c.Confirm.Err = err
			c.Confirm.Done(&c.Confirm)
			continue
		}
		store.Confirm(&c.Confirm)
	}
	for _, a := range fx.Asks {
		v.group.Go("ask", func(ctx context.Context) error { v.ask(ctx, a); return nil })
	}
	for _, s := range fx.Fences {
		v.group.Go("fence", func(ctx context.Context) error { v.fence(ctx, s); return nil })
	}
	for _, d := range fx.Drops {
		v.group.Go("drop", func(ctx context.Context) error { v.drop(ctx, d); return nil })
	}
	for _, r := range fx.Reports {
		v.log.Warn("store does not do its part", "store", r.Store.String(), "err", r.Problem)
		v.group.Go("report", func(ctx context.Context) error { v.report(ctx, r); return nil })
	}
}

// startFetches lets an opening read on.
func (v *Volume) startFetches(fx *journal.Effects) {
	for _, s := range fx.Fetches {
		v.group.Go("fetch", func(ctx context.Context) error { v.fetch(ctx, s); return nil })
	}
	fx.Fetches = fx.Fetches[:0]
}

func (v *Volume) fence(ctx context.Context, s journal.FenceSend) {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	var r storeproto.FenceReply
	store, ok := v.cfg.Stores.Store(s.Store)
	err := errUnknownStore
	if ok {
		r, err = store.Fence(ctx, s.Fence)
	}
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener != nil {
			v.opener.FenceDone(now, s, r, err, &fx.Journal)
		}
	})
}

func (v *Volume) fetch(ctx context.Context, s journal.FetchSend) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	var r storeproto.FetchReply
	store, ok := v.cfg.Stores.Store(s.Store)
	err := errUnknownStore
	if ok {
		r, err = store.Fetch(ctx, s.Fetch)
	}
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener != nil {
			v.opener.FetchDone(now, s, r, err, &fx.Journal)
		}
	})
}

func (v *Volume) drop(ctx context.Context, d journal.DropSend) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	err := errUnknownStore
	if store, ok := v.cfg.Stores.Store(d.Store); ok {
		err = store.Drop(ctx, d.Drop)
	}
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener == nil {
			v.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Dropped(now, d, err, jfx) })
		}
	})
}

func (v *Volume) report(ctx context.Context, r journal.Report) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	ref := cluster.StoreRef{Store: r.Store}
	if t := v.cfg.Metad.Topology(); t != nil {
		if s, ok := t.Store(r.Store); ok {
			ref = s.StoreRef
		}
	}
	if err := v.cfg.Metad.ReportStore(ctx, v.cfg.Holder.Host, ref, r.Problem.Error()); err != nil {
		v.log.Debug("report of a store not taken", "err", err)
	}
}

// readPage reads one page of the map or the table, on a goroutine of its own: the
// answer may come inline and ask for the next page, and that one for another.
func (v *Volume) readPage(p core.PageRead) {
	b := buf.Get(storeproto.BlockSize)
	if p.Where.Foreign {
		go v.readForeignPage(p, b)
		return
	}
	q := &reader.Request{
		Location: p.Miss.Location, Count: 1, Where: whereOf(p.Where), Dst: b.Bytes(),
		Done: func(q *reader.Request, err error) {
			v.step(func(now time.Duration, fx *core.Effects) { v.core.PageDone(now, p, q.Dst, err, fx) })
			b.Release()
		},
	}
	if from := v.lent.of(p.Miss.Location.Segment()); from != nil && !p.Table {
		go func() {
			q.Done(q, v.readLent(v.group.Context(), from, q, segment.MakePage(segment.MapPage, p.Miss.Level, p.Miss.Index)))
		}()
		return
	}
	go v.cfg.Reader.Read(q)
}

func whereOf(w core.Where) reader.Where {
	return reader.Where{Generation: w.Generation, PGVersion: w.PGVersion, K: w.K, M: w.M, Slots: w.Slots, Kept: w.Kept}
}

// classOf says who waits for a job.
func classOf(l core.Lane) storeproto.Class {
	switch l {
	case core.LaneLong:
		return storeproto.ClassDemand
	case core.LaneClean, core.LaneHydrate, core.LaneFlatten:
		return storeproto.ClassClean
	}
	return storeproto.ClassPack
}

// pack hands a segment to the packer. Its outcome is the core's to hear even when
// the volume is closed: the core owns the memory that stores may still read.
func (v *Volume) pack(j *core.PackJob) {
	w := &packer.Job{
		Volume: v.id, Epoch: v.epoch, Segment: j.Segment, Generation: j.Entry.Generation, PGVersion: j.Entry.PGVersion,
		K: j.Entry.K, M: j.Entry.M, Long: j.Lane == core.LaneLong, Class: classOf(j.Lane), Room: j.Room, Encode: j.Encode, Blocks: j.Blocks, Slots: j.Slots,
		Freed: func(*packer.Job) {
			v.mu.Lock()
			v.core.PackFreed(j)
			v.mu.Unlock()
		},
	}
	segment := j.Segment
	w.Done = func(_ *packer.Job, r packer.Result) {
		switch {
		case r.Err == nil || errors.Is(r.Err, errs.ErrClosed):
		case len(r.Full) > 0 && len(r.Suspects) == 0 && !r.Held:
			v.log.Info("segment not written where stores are full, another takes its place", "segment", segment.String(), "err", r.Err)
		default:
			v.log.Warn("segment not written, another takes its place", "segment", segment.String(), "err", r.Err)
		}
		fx := effects.Get().(*core.Effects)
		v.mu.Lock()
		v.core.PackDone(v.cfg.Clock.Now(), j, core.PackResult{Err: r.Err, Suspects: r.Suspects, Full: r.Full, Held: r.Held}, fx)
		v.unlock(fx)
	}
	if !v.cfg.Packer.Submit(w) {
		go w.Done(w, packer.Result{Err: fmt.Errorf("packer is full or closed: %w", errs.ErrUnavailable)})
	}
}
