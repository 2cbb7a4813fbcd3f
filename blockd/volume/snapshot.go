package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// TakeSnapshot marks the volume: what was submitted before is in the snapshot, what is
// submitted after TakeSnapshot has returned is not. When it returns nil the mark is durable
// on two stores, and every later owner has the snapshot. The same id again is the same
// snapshot. After another error it may be there or not.
func (v *Volume) TakeSnapshot(ctx context.Context, s id.Snapshot) error {
	done, _ := v.mark(s, 0)
	return v.marked(ctx, s, done, 0)
}

// heldMark is a mark with a hold behind it.
type heldMark struct {
	snapshot id.Snapshot
	done     <-chan error
	late     clock.Timer // ends the hold
}

// mark gives a snapshot its place in the order of writes. Done hears how its mark ends: nil, it is durable.
// Held: it has its place, and what comes behind is held back.
func (v *Volume) mark(s id.Snapshot, hold time.Duration) (done chan error, held bool) {
	done = make(chan error, 1)
	fx := effects.Get().(*core.Effects)
	v.mu.Lock()
	if v.closed || v.opener != nil {
		v.mu.Unlock()
		effects.Put(fx)
		done <- errs.ErrStaleEpoch
		return done, false
	}
	v.core.Submit(v.cfg.Clock.Now(), &core.Op{Kind: core.OpMark, Snapshot: id.Raw(s), Hold: hold, User: done}, fx)
	if held = hold > 0 && v.core.Holds(id.Raw(s)); held {
		v.held = heldMark{s, done, v.cfg.Clock.AfterFunc(hold, v.endHold)}
	}
	v.unlock(fx)
	return done, held
}

// endHold lets writers go on whose hold has lasted as long as it may. The group hears of it at its release.
func (v *Volume) endHold() {
	v.step(func(now time.Duration, fx *core.Effects) {
		if held := v.core.EndHold(now, fx); held > 0 {
			v.log.Info("writers waited for a group of snapshots as long as they may; the group is tried again", "snapshot", v.held.snapshot.String(), "held", held)
		}
	})
}

// marked waits for the end of a mark.
func (v *Volume) marked(ctx context.Context, s id.Snapshot, done <-chan error, held time.Duration) error {
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("take snapshot %s: %w", s, err)
	}
	v.log.Info("snapshot taken", "snapshot", s.String(), "held", held)
	return nil
}

// HoldSnapshot gives the mark of a snapshot its place, with a hold behind it: nothing that comes after it is acknowledged or
// read before ReleaseSnapshot, or until hold has passed. The mark may not be durable yet when it returns nil. An error of class errs.ErrConflict: there is
// a hold already.
func (v *Volume) HoldSnapshot(ctx context.Context, s id.Snapshot, hold time.Duration) error {
	done, held := v.mark(s, hold)
	if held {
		return nil
	}
	return v.marked(ctx, s, done, 0)
}

// ReleaseSnapshot ends the hold of HoldSnapshot, and then waits for the mark. When it returns nil the hold stood until it was ended, and the
// mark is durable on two stores.
func (v *Volume) ReleaseSnapshot(ctx context.Context, s id.Snapshot) error {
	var held time.Duration
	var stood bool
	var done <-chan error
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener == nil {
			held, stood = v.core.ReleaseHold(now, id.Raw(s), fx)
			done = v.held.done
			if stood {
				v.held.late.Stop()
			}
		}
	})
	if !stood {
		return fmt.Errorf("what came after snapshot %s of disk %s was not held back: %w", s, v.id, errs.ErrTimeout)
	}
	return v.marked(ctx, s, done, held)
}

// DropSnapshot deletes a snapshot. When it returns nil nothing of it is in any checkpoint
// from which the volume could be opened. After an error it is to be asked again.
func (v *Volume) DropSnapshot(ctx context.Context, s id.Snapshot) error {
	gone := make(chan struct{})
	v.mu.Lock()
	if v.gone == nil {
		v.gone = make(map[id.Raw]chan struct{})
	}
	if was := v.gone[id.Raw(s)]; was != nil {
		gone = was
	}
	v.gone[id.Raw(s)] = gone
	v.mu.Unlock()
	v.step(func(now time.Duration, fx *core.Effects) { v.core.DropSnapshot(now, id.Raw(s), fx) })
	var err error
	select {
	case <-gone:
		v.log.Info("snapshot deleted", "snapshot", s.String())
		return nil
	case <-v.failed:
		err = v.Err()
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
	}
	return fmt.Errorf("delete snapshot %s: %w", s, err)
}

// carryGone wakes those who wait for snapshots to be gone.
func (v *Volume) carryGone(fx *core.Effects) {
	if len(fx.Gone) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range fx.Gone {
		if c := v.gone[x]; c != nil {
			close(c)
			delete(v.gone, x)
		}
	}
}

// View is a snapshot as a device: it reads, and nothing else.
type View struct {
	v    *Volume
	snap id.Raw
	size uint64
}

var _ nbd.Handle = (*View)(nil)

// View gives a snapshot of size bytes. Whether it is there shows when it is read.
func (v *Volume) View(s id.Snapshot, size uint64) *View { return &View{v, id.Raw(s), size} }

// Submit starts r: see nbd.Device. What would change the snapshot is refused.
func (x *View) Submit(r *nbd.Request) {
	switch {
	case r.Op == nbd.OpFlush: // nothing to flush
		r.Complete(nil)
	case r.Op == nbd.OpWrite, r.Op == nbd.OpWriteZeroes, r.Op == nbd.OpTrim:
		r.Complete(nbd.EPERM)
	case r.Offset > x.size || r.Length > x.size-r.Offset:
		r.Complete(nbd.EINVAL)
	default:
		x.v.begin(r, x.snap)
	}
}

// Size is the disk's when the snapshot was taken.
func (x *View) Size() uint64 { return x.size }

// Info is part of nbd.Handle.
func (x *View) Info() nbd.Info { return nbd.Info{MultiConn: true, ReadOnly: true} }

// Close is part of nbd.Handle.
func (x *View) Close() error { return nil }

// missing tells that a snapshot that is read, or compared with, is not there any more.
func missing(snap id.Raw, context nbd.ContextKey, err error) error {
	switch {
	case !errors.Is(err, errs.ErrNotFound):
	case snap != (id.Raw{}):
		return fmt.Errorf("%w: %w", nbd.ErrHangup, err) // deleted: who comes again hears of it
	case context != (nbd.ContextKey{}):
		return fmt.Errorf("compare: %w: %w", &nbd.Error{Errno: nbd.EINVAL, Text: "the snapshot to compare with is deleted"}, err)
	}
	return err
}
