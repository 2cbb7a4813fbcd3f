package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshots with an application frozen meanwhile. The leader orders the freeze from the application's host, takes the
// snapshot, orders the thaw, and believes that the snapshot is consistent only if the host says that the freeze stood
// until then. The host thaws by itself when the time is up or it starts anew (blockd/hooks), so nothing stays frozen
// when a leader dies; and a snapshot that a leader before has asked for is one of which nobody knows.

const (
	hooksAgain = 500 * time.Millisecond // orders are repeated until they are told of
	hookGrace  = 5 * time.Second        // for orders and answers to travel, beside the time of a freeze
	hookNames  = 100                    // of a host
)

// hookKey is one step of one freeze.
type hookKey struct {
	freeze id.Raw
	thaw   bool
}

// hookAsk is an order that waits for a host.
type hookAsk struct {
	host  id.Host
	order *api.HookOrder
	told  *api.TellHookRequest
}

// hookBoard has a leader's orders. The zero value is ready.
type hookBoard struct {
	mu      sync.Mutex
	hosts   map[id.Host][]string // connected, with their hooks
	asked   map[hookKey]*hookAsk
	changed chan struct{} // closed when anything changes
}

func (b *hookBoard) with(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil {
		b.asked, b.hosts, b.changed = make(map[hookKey]*hookAsk), make(map[id.Host][]string), make(chan struct{})
	}
	f()
}

// tell wakes whoever waits. The lock is held.
func (b *hookBoard) tell() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// ordersFor are those that a host has not told of, and when to look again.
func (b *hookBoard) ordersFor(h id.Host) (out *api.HookOrders, changed <-chan struct{}) {
	out = &api.HookOrders{}
	b.with(func() {
		for _, a := range b.asked {
			if a.host == h && a.told == nil {
				out.Orders = append(out.Orders, a.order)
			}
		}
		changed = b.changed
	})
	return out, changed
}

// ask orders a step from a host and waits for its word.
func (b *hookBoard) ask(ctx context.Context, h *state.PolicyHook, freeze id.Raw, thaw bool) (*api.TellHookRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout+hookGrace)
	defer cancel()
	k := hookKey{freeze, thaw}
	a := &hookAsk{host: h.Host, order: &api.HookOrder{FreezeId: freeze[:], Hook: h.Hook, Thaw: thaw, TimeoutMs: uint32(h.Timeout / time.Millisecond)}}
	b.with(func() {
		b.asked[k] = a
		b.tell()
	})
	defer b.with(func() { delete(b.asked, k) })
	for {
		var told *api.TellHookRequest
		var err error
		var changed <-chan struct{}
		b.with(func() {
			told, changed = a.told, b.changed
			if names, here := b.hosts[h.Host]; here && !slices.Contains(names, h.Hook) {
				err = fmt.Errorf("host %s has no hook %s, but %s: %w", h.Host, h.Hook, strings.Join(names, ", "), errs.ErrNotFound)
			}
		})
		if told != nil || err != nil {
			return told, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("host %s does not answer: does blockd run there, with hook %s in its file? %w", h.Host, h.Hook, errs.ErrUnavailable)
		}
	}
}

// hookService answers hosts that have hooks.
type hookService struct {
	api.UnimplementedHooksServer
	s *Server
}

// WatchHooks sends a host its orders.
func (x *hookService) WatchHooks(q *api.WatchHooksRequest, stream grpc.ServerStreamingServer[api.HookOrders]) error {
	r, err := x.s.ruling()
	holder := q.GetHolder().Value()
	if err == nil {
		err = mustBe(stream.Context(), holder.Host)
	}
	if err == nil {
		x.s.node.View(func(m *state.Machine) { err = knownLife(m, holder) })
	}
	if err != nil {
		return x.s.fail(err)
	}
	names := q.GetNames()[:min(len(q.GetNames()), hookNames)]
	for i := range names {
		names[i] = firstBytes(names[i], state.HookNameMax)
	}
	r.hooks.with(func() {
		r.hooks.hosts[holder.Host] = names
		r.hooks.tell()
	})
	defer r.hooks.with(func() { delete(r.hooks.hosts, holder.Host) })
	t := x.s.clock.NewTicker(hooksAgain)
	defer t.Stop()
	for {
		orders, changed := r.hooks.ordersFor(holder.Host)
		if len(orders.Orders) > 0 {
			if err := stream.Send(orders); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-t.C():
		case <-stream.Context().Done():
			return nil
		case <-r.ctx.Done():
			return x.s.fail(x.s.node.NotLeader())
		}
	}
}

// TellHook is a host's word on an order.
func (x *hookService) TellHook(ctx context.Context, q *api.TellHookRequest) (*api.TellHookReply, error) {
	r, err := x.s.ruling()
	host := q.GetHolder().Value().Host
	if err == nil {
		err = mustBe(ctx, host)
	}
	if err != nil {
		return nil, x.s.fail(err)
	}
	q.Problem = firstBytes(q.GetProblem(), 400)
	r.hooks.with(func() {
		var freeze id.Raw
		copy(freeze[:], q.GetFreezeId())
		if a := r.hooks.asked[hookKey{freeze, q.GetThaw()}]; a != nil && a.host == host && bytes.Equal(a.order.FreezeId, q.GetFreezeId()) {
			a.told = q
			r.hooks.tell()
		}
	})
	return &api.TellHookReply{}, nil
}

// freeze has an application frozen. A freeze of a leader before may have ended meanwhile: then it is frozen once more.
func (r *reign) freeze(ctx context.Context, h *state.PolicyHook, s id.Snapshot) (freeze id.Raw, err error) {
	for again := range byte(2) {
		freeze = id.Raw(s)
		freeze[15] ^= again
		var told *api.TellHookRequest
		if told, err = r.hooks.ask(ctx, h, freeze, false); err == nil && told.Problem == "" {
			return freeze, nil
		}
		if err == nil {
			err = fmt.Errorf("%s: %w", told.Problem, errs.ErrConflict)
		}
		if !told.GetOver() {
			break
		}
	}
	return freeze, fmt.Errorf("hook %s on %s: %w", h.Hook, h.Host, err)
}

// takeFrozen takes a snapshot while an application is frozen. What was not frozen until the snapshot was taken is deleted again,
// unless the hook says to keep it anyway.
func (r *reign) takeFrozen(ctx context.Context, c *state.CreateSnapshot, h *state.PolicyHook) error {
	drop := func(err error) error {
		e := r.apply(context.WithoutCancel(ctx), &state.DeleteSnapshot{Volume: c.Volume, ID: c.ID})
		r.tellSnapped()
		if errors.Is(e, errs.ErrNotFound) {
			e = nil
		}
		return errors.Join(err, e)
	}
	there := false
	r.s.node.View(func(m *state.Machine) {
		if v, ok := m.Volume(c.Volume); ok {
			there = slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.ID == c.ID })
		}
	})
	switch {
	case there && h.Anyway:
		return r.takeSnapshot(ctx, c, policyPatience)
	case there:
		return drop(fmt.Errorf("metad's leader changed while it was taken, so nobody knows whether the application was frozen: %w", errs.ErrConflict))
	}
	freeze, err := r.freeze(ctx, h, c.ID)
	if err != nil && !h.Anyway {
		return err
	}
	if err != nil {
		r.s.log.Info("application was not frozen for a snapshot", "hook", h.Hook, "host", string(h.Host), "snapshot", c.ID.String(), "err", err)
		return r.takeSnapshot(ctx, c, policyPatience)
	}
	patience := h.Timeout
	if h.Anyway {
		patience = policyPatience
	}
	taken := r.takeSnapshot(ctx, c, patience)
	told, err := r.hooks.ask(context.WithoutCancel(ctx), h, freeze, true)
	switch {
	case taken != nil:
		return taken
	case err == nil && told.Held && told.Problem != "":
		r.s.note(state.Warning, "thaw_failed", aboutHost, string(h.Host), "", "hook %s: %s", h.Hook, told.Problem)
		return nil
	case err == nil && told.Held:
		return nil
	case err == nil:
		err = fmt.Errorf("the application was thawed before the snapshot was taken, %s after it was frozen: %w", h.Timeout, errs.ErrTimeout)
	}
	if h.Anyway {
		r.s.log.Info("application was thawed before its snapshot was taken", "hook", h.Hook, "host", string(h.Host), "snapshot", c.ID.String(), "err", err)
		return nil
	}
	return drop(fmt.Errorf("hook %s on %s: %w", h.Hook, h.Host, err))
}

// freezeService answers operators.
type freezeService struct {
	api.UnimplementedFreezesServer
	c *clusterService
}

// hookOf reads what is to be frozen.
func hookOf(v id.Volume, q *api.HookUse) (state.PolicyHook, error) {
	h := state.PolicyHook{Volume: v, Host: id.Host(q.GetHost()), Hook: q.GetName(), Timeout: time.Duration(q.GetTimeoutMs()) * time.Millisecond, Anyway: q.GetAnyway()}
	return h, state.CheckHook(&h)
}

// SetPolicyHook gives a disk of a policy a hook.
func (f *freezeService) SetPolicyHook(ctx context.Context, q *api.SetPolicyHookRequest) (*api.Policy, error) {
	_, v, err := f.c.found(ctx, q.GetDisk())
	if err != nil {
		return nil, err
	}
	cmd := &state.SetPolicyHook{Policy: q.GetPolicy(), Hook: state.PolicyHook{Volume: v.ID}, Off: q.GetHook() == nil}
	if !cmd.Off {
		if cmd.Hook, err = hookOf(v.ID, q.GetHook()); err != nil {
			return nil, f.c.s.fail(err)
		}
	}
	if _, err := f.c.s.commit(ctx, cmd); err != nil {
		return nil, err
	}
	f.c.s.log.Info("hook of a policy set", "policy", cmd.Policy, "volume", v.ID.String(), "hook", cmd.Hook.Hook, "host", string(cmd.Hook.Host), "by", caller(ctx).String())
	return f.c.showPolicy(cmd.Policy)
}

// CreateFrozenSnapshot takes a snapshot with an application frozen meanwhile.
func (f *freezeService) CreateFrozenSnapshot(ctx context.Context, q *api.CreateFrozenSnapshotRequest) (*api.Snapshot, error) {
	r, v, err := f.c.found(ctx, q.GetSnapshot().GetDisk())
	if err != nil {
		return nil, err
	}
	h, err := hookOf(v.ID, q.GetHook())
	if err != nil {
		return nil, f.c.s.fail(err)
	}
	cmd, err := f.c.snapshotRequest(v, q.GetSnapshot())
	if err != nil {
		return nil, f.c.s.fail(err)
	}
	if err := r.takeFrozen(ctx, cmd, &h); err != nil {
		return nil, f.c.s.fail(err)
	}
	var s cluster.Snapshot
	f.c.s.node.View(func(m *state.Machine) {
		if x, ok := m.Volume(v.ID); ok {
			s, _ = x.FindSnapshot(cmd.ID.String())
		}
	})
	f.c.s.note(state.Info, "snapshot_taken", aboutDisk, v.Name, caller(ctx).String(), "snapshot %s (%s), hook %s on %s", s.Name, s.ID, h.Hook, h.Host)
	return describeSnapshot(v, s), nil
}

// ListHooks tells which hooks hosts have.
func (f *freezeService) ListHooks(ctx context.Context, _ *api.ListHooksRequest) (*api.ListHooksReply, error) {
	r, err := f.c.s.ruling()
	if err != nil {
		return nil, f.c.s.fail(err)
	}
	out := &api.ListHooksReply{}
	r.hooks.with(func() {
		for h, names := range r.hooks.hosts {
			out.Hosts = append(out.Hosts, &api.HostHooks{Host: string(h), Names: names})
		}
	})
	slices.SortFunc(out.Hosts, func(a, b *api.HostHooks) int { return strings.Compare(a.Host, b.Host) })
	return out, nil
}
