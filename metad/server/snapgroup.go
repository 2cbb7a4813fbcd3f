package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots of several disks at one point in time. Each owner gives its mark a place in the order of writes and holds back what comes after it, until this
// leader knows that all marks have their places. The group counts if every owner says, when its mark is durable, that its hold stood
// until it was released, and if no disk has got another owner meanwhile (state.EndSnapshots). It is arranged by one call on one leader
// and known to nobody else: what another leader finds half taken it has deleted.

const (
	prepareWait  = 10 * time.Second // for disks to be opened that nobody owns
	stepWait     = time.Second      // for any other step
	groupForgets = time.Second      // how often leftovers are looked for
)

// groupHolds are how long each try may hold writers back, which then go on by themselves (blockd/volume): 20 ms are what a group
// may cost them. Longer ones are for hosts that never get the orders round in that: better than no group. After the last
// the caller hears that it did not work.
var groupHolds = []time.Duration{groupHold, groupHold, groupHold, groupHold, 5 * groupHold, time.Second}

// groupHold leaves 5 ms for the owner to notice that it is over, where processors are busy.
const groupHold = 15 * time.Millisecond

// groupStep is the step of one snapshot that is taken with others.
type groupStep struct {
	step   api.SnapshotStep
	hold   time.Duration // of the step HOLD
	done   bool
	epoch  id.Epoch
	failed string
}

// groupSteps are the steps to be ordered now.
func (r *reign) groupSteps() map[id.Snapshot]groupStep {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[id.Snapshot]groupStep, len(r.mu.groups))
	for s, g := range r.mu.groups {
		if !g.done {
			out[s] = *g
		}
	}
	return out
}

// groupTold takes the word of a host that carried out a step, or could not.
func (r *reign) groupTold(s id.Snapshot, step api.SnapshotStep, e id.Epoch, failed string) {
	r.mu.Lock()
	if g := r.mu.groups[s]; g != nil && g.step == step && !g.done {
		if step == api.SnapshotStep_SNAPSHOT_STEP_RELEASE && failed == "" && e != g.epoch {
			failed = "the disk has another owner since its snapshot was taken"
		}
		g.done, g.epoch, g.failed = true, e, failed
	}
	r.mu.Unlock()
	r.tellSnapped()
}

// orderStep has a step carried out by the owners of all members, and waits for them. It returns at
// once when one says that it cannot.
func (r *reign) orderStep(ctx context.Context, g []state.GroupMember, step api.SnapshotStep, wait time.Duration) error {
	r.mu.Lock()
	for _, x := range g {
		s := r.mu.groups[x.ID]
		s.step, s.done, s.failed = step, false, ""
	}
	r.mu.Unlock()
	r.tellSnapped()
	late := r.s.clock.NewTimer(wait)
	defer late.Stop()
	for {
		changed := r.snapped()
		waiting := id.Volume{}
		r.mu.Lock()
		for i, x := range g {
			s := r.mu.groups[x.ID]
			switch {
			case s.done && s.failed != "":
				r.mu.Unlock()
				return fmt.Errorf("disk %s: %s: %w", x.Volume, s.failed, errs.ErrUnavailable)
			case s.done:
				g[i].Epoch = s.epoch
			default:
				waiting = x.Volume
			}
		}
		r.mu.Unlock()
		if waiting.IsZero() {
			return nil
		}
		select {
		case <-changed:
		case <-late.C():
			return fmt.Errorf("disk %s cannot be reached now, or is too slow: %w", waiting, errs.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
		case <-r.ctx.Done():
			return r.s.node.NotLeader()
		}
	}
}

// apply commits a command of this leader's own, within the time of a commit.
func (r *reign) apply(ctx context.Context, c state.Command) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	res, err := r.s.node.Apply(ctx, c)
	return errors.Join(err, res.Err)
}

// takeGroup takes one snapshot of each disk, or none; no disk is held longer than hold.
func (r *reign) takeGroup(ctx context.Context, g []state.GroupMember, name string, hold time.Duration) (err error) {
	r.mu.Lock()
	for _, x := range g {
		r.mu.groups[x.ID] = &groupStep{done: true, hold: hold}
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, x := range g {
			delete(r.mu.groups, x.ID)
		}
	}()
	if err := r.apply(ctx, &state.CreateSnapshots{Members: g, NowMS: r.s.clock.Wall().UnixMilli()}); err != nil {
		return err
	}
	err = r.orderStep(ctx, g, api.SnapshotStep_SNAPSHOT_STEP_PREPARE, prepareWait)
	if err == nil {
		began := r.s.clock.Now()
		err = r.orderStep(ctx, g, api.SnapshotStep_SNAPSHOT_STEP_HOLD, stepWait)
		// Also after a failure: no writer waits longer than it must.
		err = errors.Join(err, r.orderStep(ctx, g, api.SnapshotStep_SNAPSHOT_STEP_RELEASE, stepWait))
		r.s.log.Info("disks held for a group of snapshots, and their marks durable", "disks", len(g), "took", r.s.clock.Now()-began, "hold_at_most", hold, "err", err)
		if err != nil && ctx.Err() == nil && r.ctx.Err() == nil {
			err = fmt.Errorf("%w: %v", errs.ErrConflict, err) // no client asks again by itself: each time writers are held
		}
	}
	if err == nil {
		err = r.apply(ctx, &state.EndSnapshots{Members: g, OK: true, Name: name})
	}
	if err != nil {
		err = errors.Join(err, r.apply(context.WithoutCancel(ctx), &state.EndSnapshots{Members: g}))
	}
	r.tellSnapped()
	return err
}

// forgetGroups has those snapshots of groups deleted that nobody on this leader arranges: the leader before began with them.
func (r *reign) forgetGroups() {
	r.mu.Lock()
	now := r.s.clock.Now()
	if now < r.mu.forgetAt {
		r.mu.Unlock()
		return
	}
	r.mu.forgetAt = now + groupForgets
	var left []state.GroupMember
	r.s.node.View(func(m *state.Machine) {
		for _, v := range m.SnapshotWork() {
			for _, s := range v.Snapshots {
				if s.State == cluster.SnapshotGrouped && r.mu.groups[s.ID] == nil && len(left) < state.GroupMax {
					left = append(left, state.GroupMember{Volume: v.ID, ID: s.ID})
				}
			}
		}
	})
	r.mu.Unlock()
	if len(left) == 0 {
		return
	}
	r.s.group.Go("forget groups", func(ctx context.Context) error {
		if err := r.apply(ctx, &state.EndSnapshots{Members: left}); err != nil {
			r.s.log.Info("snapshots of a group that was not completed are not deleted yet", "err", err)
		}
		r.tellSnapped()
		return nil
	})
}

// CreateSnapshots takes snapshots of several disks at one point in time.
func (c *clusterService) CreateSnapshots(ctx context.Context, q *api.CreateSnapshotsRequest) (*api.ListSnapshotsReply, error) {
	if n := len(q.GetDisks()); n == 0 || n > state.GroupMax {
		return nil, c.s.fail(fmt.Errorf("snapshots of %d disks at once, at most %d: %w", n, state.GroupMax, errs.ErrInvalid))
	}
	var r *reign
	var g []state.GroupMember
	for _, disk := range q.GetDisks() {
		var v *state.Volume
		var err error
		if r, v, err = c.found(ctx, disk); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(g, func(x state.GroupMember) bool { return x.Volume == v.ID }) {
			return nil, c.s.fail(fmt.Errorf("disk %s is named twice: %w", v.Name, errs.ErrInvalid))
		}
		g = append(g, state.GroupMember{Volume: v.ID})
	}
	var err error
	for _, hold := range groupHolds {
		c.s.node.View(func(m *state.Machine) { err = m.CheckGroupName(g, q.GetName()) })
		if err != nil {
			return nil, c.s.fail(err)
		}
		for i := range g {
			raw, err := id.NewRaw(c.s.clock.Wall(), c.s.random)
			if err != nil {
				return nil, c.s.fail(err)
			}
			g[i].ID, g[i].Epoch = id.Snapshot(raw), 0
		}
		if err = r.takeGroup(ctx, g, q.GetName(), hold); err == nil || ctx.Err() != nil || r.ctx.Err() != nil || !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrConflict) {
			break
		}
	}
	if err != nil {
		return nil, c.s.fail(fmt.Errorf("take snapshots of %d disks at once: %w", len(g), err))
	}
	rep := &api.ListSnapshotsReply{}
	c.s.node.View(func(m *state.Machine) {
		for _, x := range g {
			if v, ok := m.Volume(x.Volume); ok {
				if s, ok := v.FindSnapshot(x.ID.String()); ok {
					rep.Snapshots = append(rep.Snapshots, describeSnapshot(v, s))
					c.s.note(state.Info, "snapshot_taken", aboutDisk, v.Name, caller(ctx).String(), "snapshot %s (%s), with those of %d other disks", s.Name, s.ID, len(g)-1)
				}
			}
		}
	})
	return rep, nil
}
