package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ashlar.dev/blockd/repair"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
)

// The care for shards: what reads found wrong is mended, and now and then somebody has a
// store look at all that it has.

// NextShards is part of storeproto.Keeper.
func (b *body) NextShards(after storeproto.ShardName, limit int) (page []storeproto.ShardInfo, err error) {
	err = b.wait(context.Background(), b.key("next", after.Segment, ""), "next shards", func(st *store, reply func(func()), done chan error) {
		st.io("read")
		var got []storeproto.ShardInfo
		for _, n := range st.img.names() {
			if n.Compare(after) > 0 && len(got) < limit {
				got = append(got, st.img.shards[n].head.Info())
			}
		}
		reply(func() {
			b.h.w.touch(func() {
				page = got
				done <- nil
			})
		})
	})
	return page, err
}

// VerifyShard is part of storeproto.Keeper.
func (b *body) VerifyShard(ctx context.Context, n storeproto.ShardName, pace func(int) error) error {
	return b.wait(ctx, b.key("verify", n.Segment, numbers(uint64(n.Generation.Epoch), uint64(n.Generation.N), uint64(n.Index))), "verify shard",
		func(st *store, reply func(func()), done chan error) {
			st.io("read")
			var err error
			switch sh := st.img.shards[n]; {
			case sh == nil:
				err = errs.ErrNotFound
			case !sh.right():
				err = fmt.Errorf("shard %d of %s: %w", n.Index, n.Segment, errs.ErrCorrupt)
			}
			reply(func() { b.h.w.touch(func() { done <- err }) })
		})
}

// ReplaceShard is part of storeproto.Keeper.
func (b *body) ReplaceShard(ctx context.Context, p *storeproto.PutShard) error {
	sh := &shard{head: copyHead(p.Head), data: slices.Concat(p.Data...)}
	n := sh.head.Info().ShardName
	return b.wait(ctx, b.key("replace", n.Segment, numbers(uint64(n.Generation.Epoch), uint64(n.Generation.N), uint64(n.Index))), "replace shard",
		func(st *store, reply func(func()), done chan error) {
			st.replace(sh, func(err error) { reply(func() { b.h.w.touch(func() { done <- err }) }) })
		})
}

// Suspects is part of storeproto.Keeper. The worker asks while the world waits for it.
func (b *body) Suspects() []storeproto.ShardName {
	st := b.h.w.store(b.ref.Store)
	if st == nil {
		return nil
	}
	s := st.suspects
	st.suspects = nil
	return s
}

// Suspected is part of storeproto.Keeper.
func (b *body) Suspected() <-chan struct{} { return nil }

// Care is part of storeproto.Keeper. The worker asks while the world waits for it.
func (b *body) Care() (storeproto.Care, error) {
	if st := b.h.w.store(b.ref.Store); st != nil {
		return st.img.care, nil
	}
	return storeproto.Care{}, errs.ErrUnavailable
}

// SaveCare is part of storeproto.Keeper.
func (b *body) SaveCare(c storeproto.Care) error {
	if st := b.h.w.store(b.ref.Store); st != nil {
		st.img.care = c
	}
	return nil
}

// replace puts right bytes in the place of wrong ones, durable when it answers.
func (st *store) replace(sh *shard, answer func(error)) {
	n := sh.head.Info().ShardName
	if err := st.mayReplace(sh); err != nil {
		answer(err)
		return
	}
	st.io("write")
	st.io("sync")
	life := st.img.life
	st.w.after(st.syncTime(), st.name+" shard replaced", func() {
		if !st.up || st.img.life != life || st.died != "" {
			answer(errDown)
			return
		}
		if err := st.mayReplace(sh); err != nil { // deleted meanwhile: it does not come back
			answer(err)
			return
		}
		have := st.img.shards[n]
		if !have.wrong {
			st.w.fail(CheckMend, "%s replaces shard %d of %s, which is right", st.name, n.Index, n.Segment)
		}
		have.data, have.wrong = sh.data, !sh.right()
		if have.wrong {
			st.w.fail(CheckMend, "%s replaces shard %d of %s by bytes that are not what its head says", st.name, n.Index, n.Segment)
		}
		st.w.cover.Mended++
		answer(nil)
	})
}

func (st *store) mayReplace(sh *shard) error {
	have := st.img.shards[sh.head.Info().ShardName]
	switch {
	case have == nil:
		return errs.ErrNotFound
	case !have.head.Equal(&sh.head):
		return fmt.Errorf("replace a shard of %s by other content: %w", sh.head.Segment, errs.ErrConflict)
	}
	return nil
}

// suspect notes a shard that a read found wrong, or missing.
func (st *store) suspect(r *storeproto.ReadShard, err error) {
	g := r.Generation
	if errors.Is(err, errs.ErrCorrupt) {
		g = r.Got
	}
	n := storeproto.ShardName{Segment: r.Segment, Generation: g, Index: r.Index}
	named := g.Epoch > 0 && (errors.Is(err, errs.ErrCorrupt) || errors.Is(err, errs.ErrNotFound))
	if named && len(st.suspects) < storeproto.SuspectsMax && !slices.Contains(st.suspects, n) {
		st.suspects = append(st.suspects, n)
	}
}

// care lets a store's worker mend what is suspect, and carry out scrubs that are due or asked for.
func (h *host) care(f *filler) {
	if h.top == nil || f.st.died != "" {
		return
	}
	ctx := h.ctx
	if !f.caring {
		f.caring = true
		h.goes(func() { f.worker.CareRound(ctx) }, "care for "+f.st.name, func() { f.caring = false })
	}
	if !f.scrubbing {
		f.scrubbing = true
		h.goes(func() { f.worker.ScrubRound(ctx) }, "scrub of "+f.st.name, func() { f.scrubbing = false })
	}
}

// goes does something outside; the world hears of its end.
func (h *host) goes(f func(), name string, end func()) {
	w := h.w
	w.touch(func() {
		go func() {
			f()
			w.enter(name, 0, end)
		}()
	})
}

// scrub has a store look at all its shards.
func (m *menu) scrub() bool {
	h := m.anyUp()
	if h == nil || h.paused {
		return false
	}
	f := h.fillers[m.w.rng.IntN(len(h.fillers))]
	return f.worker.AskScrub(repair.Scrub{ID: m.scrubName()})
}

func (m *menu) scrubName() (name [16]byte) {
	m.scrubs++
	name[0], name[1] = byte(m.scrubs>>8), byte(m.scrubs)
	return name
}
