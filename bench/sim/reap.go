package sim

import (
	"maps"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// reaping is one look at what all stores have of older epochs.
type reaping struct {
	e      *engine
	stores []cluster.StoreRef
	found  map[id.Segment]*core.Leftover
	whole  bool
}

func (e *engine) carryReap(fx *core.Effects) {
	if fx.Reap {
		r := &reaping{e: e, found: make(map[id.Segment]*core.Leftover), whole: true}
		for _, s := range e.h.top.Stores {
			if s.State != cluster.StoreLost {
				r.stores = append(r.stores, s.StoreRef)
			}
		}
		r.next()
	}
	if fx.Reaped {
		m := e.w.metad
		e.w.net.ask(e.h, "to forget spans", func() error { return m.ForgetSpans(e.h.ctx, e.disk.id, e.epoch, e.epoch) }, func(error) {})
	}
}

// next asks the next store: it is fenced first, so that nothing older is put after it listed.
func (r *reaping) next() {
	e := r.e
	if len(r.stores) == 0 {
		r.judge()
		return
	}
	ref := r.stores[0]
	r.stores = r.stores[1:]
	skip := func(error) { r.whole = false; r.next() }
	fence := storeproto.Fence{Volume: e.disk.id, Epoch: e.epoch, By: e.h.holder()}
	e.request(ref, classLog, "fence to list", func(st *store, reply func(func())) {
		st.fence(fence, func(_ storeproto.FenceReply, err error) {
			reply(func() {
				if err != nil {
					skip(err)
					return
				}
				r.list(ref, storeproto.ListShards{Volume: e.disk.id}, skip)
			})
		})
	}, skip)
}

func (r *reaping) list(ref cluster.StoreRef, q storeproto.ListShards, skip func(error)) {
	r.e.request(ref, classRead, "list of leftovers", func(st *store, reply func(func())) {
		st.list(q, func(page storeproto.ShardList, err error) {
			reply(func() {
				if err != nil {
					skip(err)
					return
				}
				for _, x := range page.Shards {
					if !r.e.core.IsLeftover(x.Segment, x.Generation) {
						continue
					}
					if r.found[x.Segment] == nil {
						r.found[x.Segment] = &core.Leftover{Segment: x.Segment}
					}
					r.found[x.Segment].Add(x.Generation, ref)
				}
				if !page.More {
					r.next()
					return
				}
				q.After = page.Next
				r.list(ref, q, skip)
			})
		})
	}, skip)
}

func (r *reaping) judge() {
	var all []core.Leftover
	for _, s := range slices.Sorted(maps.Keys(r.found)) {
		all = append(all, *r.found[s])
	}
	r.e.step(func(_ time.Duration, fx *core.Effects) { r.e.core.Leftovers(all, fx) })
	r.e.step(func(now time.Duration, fx *core.Effects) { r.e.core.ReapListed(now, r.whole, fx) })
}
