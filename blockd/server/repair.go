package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ashlar.dev/blockd/repair"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
)

// filler is the worker that gives one store of this host the shards it lacks.
type filler struct {
	worker *repair.Worker
	group  *lifecycle.Group // what the worker runs on
}

// startRepairs starts a worker for each store of this host.
func (s *server) startRepairs() {
	s.scrubPace = repair.NewPace(s.cfg.ScrubRate.Int64())
	s.repairing.Go("repair pace", func(ctx context.Context) error { return s.paceRepairs(ctx, s.repairPace) })
	var filled []*localStore
	for _, st := range s.local.all() {
		filled = append(filled, s.startFiller(st))
	}
	s.local.set(filled)
}

// startFiller is the store with its worker, which runs.
func (s *server) startFiller(st *localStore) *localStore {
	w := repair.New(repair.Config{
		Self: refOf(st.Store), Local: st.Store, Stores: s.stores, Topology: s.metad.Topology, Pace: s.repairPace, Clock: s.clock, Log: s.log,
		ScrubPace: s.scrubPace, ScrubEvery: s.cfg.ScrubEvery.Std(),
		Filled: func(pg id.PG, segments int, bytes uint64) {
			s.tales.tell(client.Info, "group_filled", "repair", st.ID().String(), "group %d: %d segments rebuilt here, %s", pg, segments, config.ByteSize(bytes).Human())
		},
	})
	g := lifecycle.NewGroup(s.repairing.Context())
	g.Go("repair", w.Run)
	g.Go("care", w.Care)
	g.Go("scrub", w.Scrub)
	return &localStore{Store: st.Store, path: st.path, filler: filler{w, g}}
}

func (f filler) beats() []client.RepairBeat {
	var out []client.RepairBeat
	for _, p := range f.worker.Progress() {
		out = append(out, client.RepairBeat{PG: p.PG, Version: p.Version, Whole: p.Whole, Done: p.Done, Left: p.Left, BytesDone: p.BytesDone,
			BytesLeft: p.BytesLeft, BytesPerSecond: p.BytesPerSecond, Stuck: p.Stuck, Problem: p.Problem})
	}
	return out
}

// leaveOut takes stores that metad refuses out of service; the others serve. It is an
// error if none is left.
func (s *server) leaveOut(refused map[id.Store]string) error {
	had := len(s.local.all())
	s.local.set(slices.DeleteFunc(slices.Clone(s.local.all()), func(st *localStore) bool {
		why, is := refused[st.ID()]
		if is {
			s.tales.tell(client.Warning, "store_left_out", "store", st.ID().String(), "metad does not take it: %s", why)
			s.log.Warn("store left out, metad does not take it", "store", st.ID().String(), "why", why)
			s.stores.removeLocal(st.ID())
		}
		return is
	}))
	if had > 0 && len(s.local.all()) == 0 {
		for st, why := range refused {
			return fmt.Errorf("metad does not take store %s: %s: %w", st, why, errs.ErrDenied)
		}
	}
	return nil
}

// takeScrubs hands orders to the stores they are for; metad repeats those that are not told of.
func (s *server) takeScrubs(orders []client.ScrubOrder) {
	for _, o := range orders {
		for _, st := range s.local.all() {
			if st.ID() == o.Store {
				st.filler.worker.AskScrub(repair.Scrub{ID: o.ID, Volume: o.Volume})
			}
		}
	}
}

// stopRepairs waits for the workers.
func (s *server) stopRepairs() error {
	err := s.repairing.Close()
	for _, st := range s.local.all() {
		err = errors.Join(err, st.filler.group.Close())
	}
	return err
}
