package repair

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// lack is one generation of a segment of which the store lacks its shard.
type lack struct {
	name      storeproto.ShardName // the shard that is missing
	info      storeproto.ShardInfo // of any other shard
	witnessed int                  // other witnesses that have a shard of it
}

func (s *lack) bytes() uint64 { return uint64(s.info.Blocks) * storeproto.BlockSize }

type generation struct {
	segment    id.Segment
	generation id.Generation
}

// missing asks every source, and the store itself, what it has of the group, and finds
// the segments that lack the slot's shard. Each list raises the group's version on its
// store first, so nothing coded under an older one is born after. With an error the
// list may lack something: what it has can be rebuilt, but the group is not whole.
func (w *Worker) missing(ctx context.Context, t Task) ([]lack, error) {
	var incomplete error
	if v, ok := t.untold(); ok {
		incomplete = fmt.Errorf("group %d: no store of its version %d can be asked: %w", t.PG, v, errs.ErrUnavailable)
	}
	found := make(map[generation]*lack)
	take := func(x storeproto.ShardInfo) *lack {
		g := generation{x.Segment, x.Generation}
		s := found[g]
		if s == nil {
			s = &lack{name: storeproto.ShardName{Segment: x.Segment, Generation: x.Generation, Index: t.Slot}, info: x}
			found[g] = s
		}
		return s
	}
	// Of a later version, or of the current one, its own put brings the shard.
	older := func(x storeproto.ShardInfo) bool { return x.K == t.K && x.M == t.M && x.PGVersion < t.Version }
	for _, r := range t.Sources {
		body, ok := w.cfg.Stores.Store(r.Store)
		lister, lists := body.(storeproto.Lister)
		if !ok || !lists {
			incomplete = fmt.Errorf("store %s is not known here: %w", r, errs.ErrUnavailable)
			continue
		}
		seen := make(map[generation]bool)
		err := w.each(ctx, t, lister, func(x storeproto.ShardInfo) {
			if !older(x) {
				return
			}
			s, g := take(x), generation{x.Segment, x.Generation}
			if !seen[g] && slices.Contains(t.witnesses(x.PGVersion), r) {
				seen[g] = true
				s.witnessed++
			}
		})
		if err != nil {
			incomplete = fmt.Errorf("store %s: %w", r, err)
		}
	}
	have := make(map[generation]bool)
	err := w.each(ctx, t, w.cfg.Local, func(x storeproto.ShardInfo) {
		switch {
		case x.Index == t.Slot:
			have[generation{x.Segment, x.Generation}] = true
		case older(x): // of a slot that it had before
			take(x)
		}
	})
	if err != nil {
		return nil, err
	}
	for g := range have {
		delete(found, g)
	}
	out := make([]lack, 0, len(found))
	for _, s := range found {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b lack) int { return a.name.Compare(b.name) })
	return out, incomplete
}

// each calls f for every shard of the group that a store has.
func (w *Worker) each(ctx context.Context, t Task, from storeproto.Lister, f func(storeproto.ShardInfo)) error {
	q := storeproto.ListShards{PG: t.PG, Version: t.Version}
	for {
		call, cancel := w.call(ctx)
		page, err := from.ListShards(call, q)
		cancel()
		if err != nil {
			return err
		}
		for _, x := range page.Shards {
			f(x)
		}
		if !page.More {
			return nil
		}
		if page.Next.Compare(q.After) <= 0 {
			return fmt.Errorf("list of group %d does not go on: %w", t.PG, errs.ErrCorrupt)
		}
		q.After = page.Next
	}
}

// coded tells whether a kept version of a group has a code: of others nothing was left when the
// last version of it was forgotten, but on stores that were away then.
func coded(p *cluster.PG, k, m uint8) bool {
	return slices.ContainsFunc(p.Versions, func(v cluster.PGVersion) bool { return v.K == k && v.M == m })
}

// reap takes away the shards of slots of a group that are not the store's in any kept
// version, and that were coded under an older one: it left the group, or has another slot
// now. Every store that has their slots now said that it lacked none, or the older version
// would be kept. Shards of the kept
// versions may be on their way here by a topology that is newer than ours.
func (w *Worker) reap(ctx context.Context, p *cluster.PG) {
	oldest := p.Versions[0].Version
	if oldest < 2 || w.reaped[p.Number] == oldest {
		return
	}
	mine := make(map[uint8]bool)
	for _, v := range p.Versions {
		if slot := slices.Index(v.Stores, w.cfg.Self); slot >= 0 {
			mine[uint8(slot)] = true
		}
	}
	w.hands.Lock()
	defer w.hands.Unlock()
	var names []storeproto.ShardName
	t := Task{PG: p.Number, Version: oldest}
	err := w.each(ctx, t, w.cfg.Local, func(x storeproto.ShardInfo) {
		if x.PGVersion < oldest && (!mine[x.Index] || !coded(p, x.K, x.M)) {
			names = append(names, x.ShardName)
		}
	})
	for len(names) > 0 && err == nil {
		n := min(len(names), storeproto.ListMax)
		err = w.cfg.Local.RemoveShards(ctx, names[:n]...)
		names = names[n:]
	}
	if err != nil {
		w.cfg.Log.Info("shards that are others' now are not deleted yet", "store", w.cfg.Self.Store.String(), "group", int(p.Number), "err", err)
		return
	}
	w.reaped[p.Number] = oldest
}

// order sorts the slots to read a segment from that was coded under a version: those
// whose first holders are sure to have it first, then by number.
func order(t Task, version uint32) []uint8 {
	var out []uint8
	for i := range t.Holders {
		if uint8(i) != t.Slot {
			out = append(out, uint8(i))
		}
	}
	sure := func(i uint8) int {
		if len(t.Holders[i]) > 0 && slices.Contains(t.witnesses(version), t.Holders[i][0]) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b uint8) int { return cmp.Compare(sure(a), sure(b)) })
	return out
}
