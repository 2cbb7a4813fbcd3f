package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// HookOrder is what a host with hooks has to do: freeze an application, or thaw it.
type HookOrder struct {
	Freeze  id.Raw // which freeze it is about
	Hook    string
	Thaw    bool
	Timeout time.Duration
}

// WatchHooks tells which hooks a host has and calls f with every order about them, again and again until it is told of. It
// returns when ctx ends. f must not wait.
func (b *Blockd) WatchHooks(ctx context.Context, by id.Holder, names []string, f func(HookOrder)) {
	for ctx.Err() == nil {
		err := b.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) error {
			stream, err := t.hooks.WatchHooks(ctx, &api.WatchHooksRequest{Holder: api.FromHolder(by), Names: names})
			if err != nil {
				return err
			}
			for {
				x, err := stream.Recv()
				if err != nil {
					return err
				}
				for _, o := range x.Orders {
					order := HookOrder{Hook: o.Hook, Thaw: o.Thaw, Timeout: time.Duration(o.TimeoutMs) * time.Millisecond}
					if len(o.FreezeId) != len(order.Freeze) {
						return fmt.Errorf("freeze id of %d bytes: %w", len(o.FreezeId), errs.ErrInvalid)
					}
					copy(order.Freeze[:], o.FreezeId)
					f(order)
				}
			}
		})
		if ctx.Err() == nil {
			b.p.o.Log.Debug("hook orders ended", "err", err)
			if b.p.o.Clock.Sleep(ctx, backoffMin) != nil {
				return
			}
		}
	}
}

// HookOutcome is what became of an order.
type HookOutcome struct {
	Held    bool   // of a thaw: the freeze stood until then
	Over    bool   // of a freeze: it had ended before
	Problem string // why the order was not carried out
}

// TellHook says what became of an order.
func (b *Blockd) TellHook(ctx context.Context, by id.Holder, o HookOrder, x HookOutcome) error {
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.hooks.TellHook(ctx, &api.TellHookRequest{Holder: api.FromHolder(by), FreezeId: o.Freeze[:], Thaw: o.Thaw, Held: x.Held, Over: x.Over, Problem: x.Problem})
		return err
	})
}

// SetPolicyHook gives a disk of a policy a hook; nil takes it away.
func (c *Cluster) SetPolicyHook(ctx context.Context, policy, disk string, h *api.HookUse) (out *api.Policy, err error) {
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		out, err = t.freezes.SetPolicyHook(ctx, &api.SetPolicyHookRequest{Policy: policy, Disk: disk, Hook: h})
		return err
	})
	return out, err
}

// CreateFrozenSnapshot is CreateSnapshot with an application frozen meanwhile. It is not tried again once it may have begun:
// nobody would know whether the application was frozen.
func (c *Cluster) CreateFrozenSnapshot(ctx context.Context, disk, name string, h *api.HookUse) (out *api.Snapshot, err error) {
	raw, err := id.NewRaw(c.p.o.Clock.Wall(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("draw snapshot id: %w", err)
	}
	q := &api.CreateFrozenSnapshotRequest{Snapshot: &api.CreateSnapshotRequest{Disk: disk, Name: name, SnapshotId: id.Snapshot(raw).String()}, Hook: h}
	err = c.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) (err error) {
		out, err = t.freezes.CreateFrozenSnapshot(ctx, q)
		return err
	})
	return out, err
}

// Hooks lists the hosts that have hooks.
func (c *Cluster) Hooks(ctx context.Context) (out *api.ListHooksReply, err error) {
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		out, err = t.freezes.ListHooks(ctx, &api.ListHooksRequest{})
		return err
	})
	return out, err
}
