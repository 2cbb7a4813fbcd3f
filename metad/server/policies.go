package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshot policies are carried out by the leader. That a run begins is committed with the ids of its snapshots before
// the first is asked for, so a leader that dies in the midst of it leaves a run that the next one goes on with, and
// no run is there twice. Which runs are due and what has had its time says metad/policy.

const (
	policyLook = time.Second
	// policyLate is how late a run may begin; later it is left out, for the next one may be near, and said to be.
	policyLate = time.Hour
	// policyPatience is how long a snapshot of a run is waited for; then it is a failure, and is not taken later.
	policyPatience = 5 * time.Minute
	policyParallel = 8
	expireMax      = 64 // snapshots deleted at a time
)

// policyWork is what is to be done about one policy now.
type policyWork struct {
	policy  *state.Policy
	begin   time.Time     // a run is due
	resume  time.Time     // a run was begun by a leader before
	expired []policy.Made // to be deleted
	missing []policy.Made // not there any more
}

// runPolicies does what is due about policies, each of which is on one goroutine at a time.
func (r *reign) runPolicies() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.clock.Now()
	if now < r.mu.policyAt {
		return
	}
	r.mu.policyAt = now + policyLook
	var all []policyWork
	r.s.node.View(func(m *state.Machine) { all = dueWork(m, r.s.clock.Wall(), r.mu.policies) })
	for _, w := range all {
		r.mu.policies[w.policy.ID] = true
		r.s.group.Go("policy", func(context.Context) error {
			r.runPolicy(r.ctx, w)
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.mu.policies, w.policy.ID)
			return nil
		})
	}
}

// dueWork is what is to be done about all policies but those that are busy.
func dueWork(m *state.Machine, now time.Time, busy map[id.Raw]bool) (all []policyWork) {
	if m.Rebuilding() {
		return nil // nothing is deleted before that is over
	}
	for _, p := range m.Policies() {
		if w, due := workOf(m, p, now); due && !busy[p.ID] {
			all = append(all, w)
		}
	}
	return all
}

// workOf looks what is to be done about a policy.
func workOf(m *state.Machine, p *state.Policy, now time.Time) (w policyWork, due bool) {
	w.policy = p
	if n := len(p.Runs); n > 0 && p.Runs[n-1].Open {
		w.resume = p.Runs[n-1].Due
		return w, true
	}
	if t := p.Rules.LastDue(now); t.After(p.Last) && t.After(p.Since) {
		w.begin = t
	}
	var there []policy.Made
	for _, x := range p.Made {
		state := cluster.SnapshotDeleting
		if v, ok := m.Volume(x.Volume); ok {
			if s, ok := v.FindSnapshot(x.Snapshot.String()); ok {
				state = s.State
			}
		}
		switch {
		case state == cluster.SnapshotReady:
			there = append(there, x)
		case state != cluster.SnapshotCreating && len(w.missing) < expireMax:
			w.missing = append(w.missing, x)
		}
	}
	w.expired = p.Rules.Expired(there, now)
	w.expired = w.expired[:min(len(w.expired), expireMax)]
	return w, !w.begin.IsZero() || len(w.expired) > 0 || len(w.missing) > 0
}

func (r *reign) runPolicy(ctx context.Context, w policyWork) {
	err := r.expire(ctx, w)
	switch p := w.policy; {
	case !w.resume.IsZero():
		err = errors.Join(err, r.takeRun(ctx, p, w.resume))
	case !w.begin.IsZero():
		err = errors.Join(err, r.beginRun(ctx, p, w.begin))
	}
	if err != nil && r.ctx.Err() == nil {
		r.s.log.Info("policy not carried out yet", "policy", w.policy.Name, "err", err)
	}
}

// expire deletes what has had its time.
func (r *reign) expire(ctx context.Context, w policyWork) error {
	var forget []id.Snapshot
	for _, x := range w.missing {
		forget = append(forget, x.Snapshot)
	}
	for _, x := range w.expired {
		err := r.apply(ctx, &state.DeleteSnapshot{Volume: x.Volume, ID: x.Snapshot})
		if err != nil && !errors.Is(err, errs.ErrNotFound) {
			r.s.log.Info("snapshot of a policy is kept for now", "policy", w.policy.Name, "volume", x.Volume.String(), "snapshot", x.Snapshot.String(), "err", err)
			continue // held, perhaps, or being read; it is looked at again
		}
		forget = append(forget, x.Snapshot)
	}
	if len(forget) == 0 {
		return nil
	}
	r.tellSnapped()
	return r.apply(ctx, &state.PolicyForgets{Policy: w.policy.ID, Snapshots: forget})
}

// snapshotOfRun is the id of the snapshot that a run takes of a disk.
func snapshotOfRun(p id.Raw, due time.Time, v id.Volume) (s id.Snapshot) {
	h := sha256.New()
	h.Write(p[:])
	_ = binary.Write(h, binary.LittleEndian, due.Unix()) // a hash takes everything
	h.Write(v[:])
	copy(s[:], h.Sum(nil))
	return s
}

// beginRun commits that a run begins, or that it is left out.
func (r *reign) beginRun(ctx context.Context, p *state.Policy, due time.Time) error {
	c := &state.PolicyBegins{Policy: p.ID, Due: due}
	if late := r.s.clock.Wall().Sub(due); late > policyLate {
		c.Skipped = fmt.Sprintf("metad could not begin it within %s", policyLate)
		r.s.note(state.Warning, "policy_skipped", aboutDisk, "", "", "policy %s: the run of %s is left out: %s", p.Name, due.Format(time.RFC3339), c.Skipped)
	} else {
		for _, v := range p.Disks {
			c.Made = append(c.Made, policy.Made{Volume: v, Snapshot: snapshotOfRun(p.ID, due, v), Due: due})
		}
	}
	if err := r.apply(ctx, c); err != nil || c.Skipped != "" {
		return err
	}
	return r.takeRun(ctx, p, due)
}

// takeRun takes the snapshots of a run that has begun, and says what became of it.
func (r *reign) takeRun(ctx context.Context, p *state.Policy, due time.Time) error {
	var made []policy.Made
	r.s.node.View(func(m *state.Machine) {
		if now, ok := m.Policy(p.Name); ok && now.ID == p.ID {
			for _, x := range now.Made {
				if x.Due.Equal(due) {
					made = append(made, x)
				}
			}
		}
	})
	run := state.PolicyRun{Due: due}
	var mu sync.Mutex
	var wg sync.WaitGroup
	places := make(chan struct{}, policyParallel)
	for _, x := range made {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			err := r.takeOne(ctx, p, x)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				run.Taken++
				return
			}
			run.Failed++
			run.Failures = append(run.Failures, state.RunFailure{Volume: x.Volume, Why: err.Error()})
		})
	}
	wg.Wait()
	if err := r.ctx.Err(); err != nil {
		return err // the next leader goes on
	}
	if run.Failed > 0 {
		r.s.note(state.Warning, "policy_failed", aboutDisk, "", "", "policy %s: %d snapshots of the run of %s could not be taken: %s", p.Name, run.Failed, due.Format(time.RFC3339), run.Failures[0].Why)
	}
	r.s.log.Info("policy ran", "policy", p.Name, "due", due.Format(time.RFC3339), "taken", run.Taken, "failed", run.Failed)
	return r.apply(ctx, &state.PolicyRan{Policy: p.ID, Run: run})
}

// takeOne takes one snapshot of a run, or makes sure that it is not taken later.
func (r *reign) takeOne(ctx context.Context, p *state.Policy, x policy.Made) error {
	c := &state.CreateSnapshot{Volume: x.Volume, ID: x.Snapshot, Name: p.Name + "-" + x.Due.Format("20060102T1504Z"), NowMS: r.s.clock.Wall().UnixMilli()}
	if h := p.HookOf(x.Volume); h != nil {
		return r.takeFrozen(ctx, c, h)
	}
	return r.takeSnapshot(ctx, c, policyPatience)
}

// takeSnapshot takes a snapshot and waits for it that long; then it is deleted, so that it is not taken later.
func (r *reign) takeSnapshot(ctx context.Context, c *state.CreateSnapshot, patience time.Duration) error {
	if err := r.apply(ctx, c); err != nil {
		return err
	}
	r.tellSnapped()
	late := r.s.clock.NewTimer(patience)
	defer late.Stop()
	for {
		changed := r.snapped()
		at := cluster.SnapshotDeleting
		r.s.node.View(func(m *state.Machine) {
			if v, ok := m.Volume(c.Volume); ok {
				if s, ok := v.FindSnapshot(c.ID.String()); ok {
					at = s.State
				}
			}
		})
		switch at {
		case cluster.SnapshotCreating:
		case cluster.SnapshotDeleting:
			return fmt.Errorf("it was deleted while it was taken: %w", errs.ErrConflict)
		default:
			return nil
		}
		select {
		case <-changed:
		case <-late.C():
			err := fmt.Errorf("the disk could not be reached within %s: %w", patience, errs.ErrTimeout)
			return errors.Join(err, r.apply(ctx, &state.DeleteSnapshot{Volume: c.Volume, ID: c.ID}))
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
}

// rulesOf reads rules.
func rulesOf(q *api.PolicyRules) (policy.Rules, error) {
	x := policy.Rules{Days: policy.Days(min(q.GetDays(), 1<<7)), Keep: int(min(q.GetKeep(), 1<<20))}
	x.Retain = time.Duration(min(q.GetRetainSeconds(), uint64(2*policy.RetainMax/time.Second))) * time.Second
	for _, m := range q.GetAtMinutes() {
		x.At = append(x.At, uint16(min(m, 1<<16-1)))
	}
	return x, x.Check()
}

// describePolicy tells of a policy as people see it.
func describePolicy(m *state.Machine, p *state.Policy, now time.Time) *api.Policy {
	name := func(v id.Volume) string {
		if x, ok := m.Volume(v); ok && !x.Deleted {
			return x.Name
		}
		return v.String()
	}
	out := &api.Policy{Name: p.Name, Rules: &api.PolicyRules{Days: uint32(p.Rules.Days), RetainSeconds: uint64(p.Rules.Retain / time.Second), Keep: uint32(p.Rules.Keep)}}
	for _, x := range p.Rules.At {
		out.Rules.AtMinutes = append(out.Rules.AtMinutes, uint32(x))
	}
	for _, v := range p.Disks {
		out.Disks = append(out.Disks, name(v))
	}
	for _, h := range p.Hooks {
		out.Hooks = append(out.Hooks, &api.PolicyHook{Disk: name(h.Volume), Use: &api.HookUse{Host: string(h.Host), Name: h.Hook, TimeoutMs: uint32(h.Timeout / time.Millisecond), Anyway: h.Anyway}})
	}
	if t := p.Rules.NextDue(now); !t.IsZero() {
		out.NextUnixMs = t.UnixMilli()
	}
	for _, x := range p.Made {
		if v, ok := m.Volume(x.Volume); ok {
			if s, ok := v.FindSnapshot(x.Snapshot.String()); ok && s.State == cluster.SnapshotReady {
				out.Snapshots++
			}
		}
	}
	for _, x := range p.Runs {
		run := &api.PolicyRun{DueUnixMs: x.Due.UnixMilli(), Open: x.Open, Taken: x.Taken, Failed: x.Failed, Skipped: x.Skipped}
		for _, f := range x.Failures {
			run.Failures = append(run.Failures, &api.PolicyFailure{Disk: name(f.Volume), Why: f.Why})
		}
		out.Runs = append(out.Runs, run)
	}
	return out
}

// showPolicy gives a policy after a command.
func (c *clusterService) showPolicy(name string) (out *api.Policy, err error) {
	c.s.node.View(func(m *state.Machine) {
		p, ok := m.Policy(name)
		if !ok {
			err = fmt.Errorf("policy %q: %w", name, errs.ErrNotFound)
			return
		}
		out = describePolicy(m, p, c.s.clock.Wall())
	})
	if err != nil {
		return nil, c.s.fail(err)
	}
	return out, nil
}

// SetPolicy makes a policy or changes one.
func (c *clusterService) SetPolicy(ctx context.Context, q *api.SetPolicyRequest) (*api.Policy, error) {
	rules, err := rulesOf(q.GetRules())
	cmd := &state.SetPolicy{Name: q.GetName(), Rules: rules, NowMS: c.s.clock.Wall().UnixMilli(), New: !q.GetChange()}
	if cmd.New && err == nil {
		var raw []byte
		if raw, err = hex.DecodeString(q.GetPolicyId()); err == nil && len(raw) != len(cmd.ID) {
			err = fmt.Errorf("policy id of %d bytes: %w", len(raw), errs.ErrInvalid)
		}
		copy(cmd.ID[:], raw)
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	if _, err := c.s.commit(ctx, cmd); err != nil {
		return nil, err
	}
	c.s.log.Info("policy set", "policy", cmd.Name, "new", cmd.New, "by", caller(ctx).String())
	return c.showPolicy(cmd.Name)
}

// DeletePolicy forgets a policy.
func (c *clusterService) DeletePolicy(ctx context.Context, q *api.DeletePolicyRequest) (*api.Policy, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	was, err := c.showPolicy(q.GetName())
	if err != nil {
		return nil, err
	}
	if _, err := c.s.commit(ctx, &state.DeletePolicy{Name: q.GetName()}); err != nil {
		return nil, err
	}
	c.s.log.Info("policy deleted", "policy", q.GetName(), "by", caller(ctx).String())
	return was, nil
}

// ApplyPolicy puts disks under a policy, or takes them out.
func (c *clusterService) ApplyPolicy(ctx context.Context, q *api.ApplyPolicyRequest) (*api.Policy, error) {
	cmd := &state.ApplyPolicy{Name: q.GetName(), Off: q.GetOff()}
	if n := len(q.GetDisks()); n == 0 || n > policy.DisksMax {
		return nil, c.s.fail(fmt.Errorf("%d disks: %w", n, errs.ErrInvalid))
	}
	for _, disk := range q.GetDisks() {
		_, v, err := c.found(ctx, disk)
		if err != nil {
			return nil, err
		}
		cmd.Volumes = append(cmd.Volumes, v.ID)
	}
	if _, err := c.s.commit(ctx, cmd); err != nil {
		return nil, err
	}
	c.s.log.Info("policy applied", "policy", cmd.Name, "disks", len(cmd.Volumes), "off", cmd.Off, "by", caller(ctx).String())
	return c.showPolicy(cmd.Name)
}

// ListPolicies lists all of them.
func (c *clusterService) ListPolicies(ctx context.Context, _ *api.ListPoliciesRequest) (*api.ListPoliciesReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	out := &api.ListPoliciesReply{}
	c.s.node.View(func(m *state.Machine) {
		for _, p := range m.Policies() {
			out.Policies = append(out.Policies, describePolicy(m, p, c.s.clock.Wall()))
		}
	})
	return out, nil
}
