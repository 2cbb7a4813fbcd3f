package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// What may be done only while nobody uses a disk is not done on the word of a heartbeat: who
// attached since would have the disk change underneath. So the owner, which alone knows, is asked to
// give the disk up if no client has it open, and what follows is committed for the epoch that it
// gave up. Whoever comes in between is given a newer epoch, and the commit is refused.

// yieldTime is how long an owner may take to give a disk up.
const yieldTime = 20 * time.Second

// yieldLook is how often it is looked whether the owner has, or clients have come.
const yieldLook = 20 * time.Millisecond

// yielding are the disks that a host is to give up; r.mu is held.
func (r *reign) yielding(m *state.Machine, host id.Host) (all [][]byte) {
	for v := range r.mu.yields {
		if rec, ok := m.Volume(v); ok && rec.Owner.Host == host {
			all = append(all, v[:])
		}
	}
	return all
}

// yield begins or ends asking for a disk. Several may ask for one.
func (r *reign) yield(v id.Volume, asked int) {
	r.mu.Lock()
	if r.mu.yields == nil {
		r.mu.yields = make(map[id.Volume]int)
	}
	if r.mu.yields[v] += asked; r.mu.yields[v] == 0 {
		delete(r.mu.yields, v)
	}
	r.mu.Unlock()
	r.tellSnapped()
}

// unused waits until a disk that nobody has open has no owner either, and gives it as it is then;
// its epoch tells whether that still holds. A disk whose owner is dead is given as it is: its
// clients went with the owner. It fails with ErrConflict when clients have the disk open, by a heartbeat
// that came since: who has just detached need not wait and ask again.
func (r *reign) unused(ctx context.Context, v *state.Volume) (*state.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, yieldTime)
	defer cancel()
	r.yield(v.ID, 1)
	defer r.yield(v.ID, -1)
	var stale time.Duration
	r.s.node.View(func(m *state.Machine) { stale = r.s.clock.Now() + 2*m.Settings().HeartbeatInterval })
	t := r.s.clock.NewTicker(yieldLook)
	defer t.Stop()
	for {
		r.s.node.View(func(m *state.Machine) { v, _ = m.Volume(v.ID) })
		if v == nil || v.Deleted {
			return nil, fmt.Errorf("the disk is deleted: %w", errs.ErrNotFound)
		}
		if r.ownerGone(v) {
			return v, nil
		}
		err := r.idle(v)
		if errs.CodeOf(err) == errs.Conflict && r.s.clock.Now() > stale {
			return nil, err
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("host %s does not give disk %s up, it may be busy; try again: %w", v.Owner.Host, v.Name, errs.ErrUnavailable)
			}
			return nil, err
		case <-r.ctx.Done():
			return nil, r.s.node.NotLeader()
		}
	}
}

// ownerGone tells that nobody owns a disk, or none who lives.
func (r *reign) ownerGone(v *state.Volume) (gone bool) {
	if (v.Owner == id.Holder{}) {
		return true
	}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		h, ok := m.Host(v.Owner.Host)
		gone = !ok || h.HolderNumber > v.Owner.Number || !l.HostUp(now, v.Owner.Host)
	})
	return gone
}
