package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// move is a planned handoff under way: until then the disk is granted to nobody but its
// goal, so that clients that come again at once do not bring it back. It is a leader's
// intention only: with the leader it is forgotten, and the disk stays or goes where it is asked for.
type move struct {
	to    id.Host
	until time.Duration
}

// moveTime is how long a move may take, draining and opening together.
const moveTime = 45 * time.Second

// movesMax bounds the moves at one time.
const movesMax = 256

// MoveDisk has a disk's owner hand it off to another host. It answers when that is under way.
func (c *clusterService) MoveDisk(ctx context.Context, q *api.MoveDiskRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	to := id.Host(q.GetHost())
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		h, ok := m.Host(to)
		switch {
		case !ok:
			err = fmt.Errorf("host %.80q: %w", q.GetHost(), errs.ErrNotFound)
		case !h.Exports:
			err = fmt.Errorf("host %s does not serve disks (nbd in its blockd.yaml): %w", to, errs.ErrInvalid)
		case !l.HostUp(now, to):
			err = fmt.Errorf("host %s is down: %w", to, errs.ErrConflict)
		case m.Rebuilding():
			err = fmt.Errorf("the state is being rebuilt: %w", errs.ErrConflict)
		case v.Owner.Host == to:
		default:
			err = r.beginMove(now, v.ID, to)
		}
	})
	if err != nil {
		return nil, c.s.fail(err)
	}
	if v.Owner.Host != to {
		c.s.note(state.Info, "move_begun", aboutDisk, v.Name, caller(ctx).String(), "%s is to go from %s to %s", v.ID, orNobody(v.Owner.Host), to)
		r.poke()
	}
	return c.answer(r, v), nil
}

func orNobody(h id.Host) string {
	if h == "" {
		return "nobody"
	}
	return string(h)
}

// beginMove notes a move; r.mu is held.
func (r *reign) beginMove(now time.Duration, v id.Volume, to id.Host) error {
	if r.mu.moves == nil {
		r.mu.moves = make(map[id.Volume]move)
	}
	for x, m := range r.mu.moves {
		if now >= m.until {
			delete(r.mu.moves, x)
		}
	}
	if len(r.mu.moves) >= movesMax {
		return fmt.Errorf("%d disks are being moved already: %w", len(r.mu.moves), errs.ErrUnavailable)
	}
	r.mu.moves[v] = move{to, now + moveTime}
	return nil
}

// orders are what a host has to do for moves: give disks up that it owns, open others. r.mu is held.
func (r *reign) orders(now time.Duration, m *state.Machine, host id.Host) (handoffs, opens [][]byte) {
	for v, x := range r.mu.moves {
		rec, ok := m.Volume(v)
		switch {
		case !ok || rec.Deleted || now >= x.until || rec.Owner.Host == x.to && rec.OpenComplete:
			delete(r.mu.moves, v) // there, or given up
		case rec.Owner.Host == host && host != x.to:
			handoffs = append(handoffs, v[:])
		case host == x.to && (rec.Owner == id.Holder{}):
			opens = append(opens, v[:])
		}
	}
	return handoffs, opens
}

// movedTo tells by whom a disk that is being moved is to be had, if not by the asker.
func (r *reign) movedTo(v id.Volume, by id.Host) (to id.Holder, address string) {
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		x, ok := r.mu.moves[v]
		if !ok || now >= x.until || x.to == by || !l.HostUp(now, x.to) {
			return
		}
		if rec, known := m.Volume(v); known && rec.Owner != (id.Holder{}) {
			return // it is owned: the usual rules
		}
		if h, known := m.Host(x.to); known {
			to, address = id.Holder{Host: x.to, Number: h.HolderNumber}, h.DataAddress
		}
	})
	return to, address
}
