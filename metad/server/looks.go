package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// LostRanges asks the owner of a disk what of it cannot be read. A disk that nobody owns is
// opened by the host that owns the fewest.
func (c *clusterService) LostRanges(ctx context.Context, q *api.LostRangesRequest) (*api.LostRangesReply, error) {
	n, err := api.LookID(q.GetLookId())
	if err == nil && n == [16]byte{} {
		err = fmt.Errorf("look without an id: %w", errs.ErrInvalid)
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	if q.GetFrom() >= v.Size && v.Size > 0 && q.GetFrom() > 0 {
		return nil, c.s.fail(fmt.Errorf("disk %s ends at %d: %w", v.Name, v.Size, errs.ErrInvalid))
	}
	rep := &api.LostRangesReply{DiskId: v.ID.String(), Name: v.Name, OwnerHost: string(v.Owner.Host)}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		rep.Lost = api.FromLost(r.mu.looks.Ask(v.ID, cluster.Look{ID: n, From: q.GetFrom()}))
		if (v.Owner == id.Holder{}) && !v.Deleted && !m.Rebuilding() {
			if x, moving := r.mu.moves[v.ID]; moving && now < x.until {
				return
			}
			if to := idlest(m, l, now); to != "" {
				err = r.beginMove(now, v.ID, to)
			}
		}
	})
	if err != nil {
		return nil, c.s.fail(err)
	}
	return rep, nil
}

// idlest is the host that lives, serves disks and owns the fewest, one that is not cordoned if there is; empty: there is none.
func idlest(m *state.Machine, l *reconcile.Liveness, now time.Duration) (best id.Host) {
	owns := make(map[id.Host]int)
	for _, v := range m.Volumes() {
		owns[v.Owner.Host]++
	}
	for _, h := range m.Hosts() {
		if !h.Exports || !l.HostUp(now, h.Host) {
			continue
		}
		better := best == "" || owns[h.Host] < owns[best]
		if x, y := m.Cordoned(h.Host), m.Cordoned(best); x != y && best != "" {
			better = y
		}
		if better {
			best = h.Host
		}
	}
	return best
}

// lookOrders takes what a host's owners found, and asks them. r.mu is held.
func (r *reign) lookOrders(l *reconcile.Liveness, beat reconcile.Beat, rep *api.HeartbeatReply) {
	trouble, doubts := reconcile.Trouble(r.mu.top, l)
	for _, o := range r.mu.looks.Beat(beat, trouble) {
		x := &api.LookOrder{Volume: o.Volume[:], From: o.From}
		if o.ID != [16]byte{} {
			x.LookId = o.ID[:]
		}
		rep.Looks = append(rep.Looks, x)
	}
	if len(rep.Looks) > 0 {
		rep.Doubts = api.FromSegments(doubts, cluster.DoubtsMax)
	}
}

// readLooks takes what an owner found of one volume.
func readLooks(x *api.VolumeBeat) (sum *cluster.Lost, looks []cluster.Lost, err error) {
	if sum, err = x.Lost.Value(); err != nil {
		return nil, nil, err
	}
	for _, y := range x.Looks[:min(len(x.Looks), cluster.LooksMax)] {
		l, err := y.Value()
		if err != nil {
			return nil, nil, err
		}
		looks = append(looks, *l)
	}
	return sum, looks, nil
}
