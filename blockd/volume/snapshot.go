package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// TakeSnapshot marks the volume: what was submitted before is in the snapshot, what is
// submitted after TakeSnapshot has returned is not. When it returns nil the mark is durable
// on two stores, and every later owner has the snapshot. The same id again is the same
// snapshot. After another error it may be there or not.
func (v *Volume) TakeSnapshot(ctx context.Context, s id.Snapshot) error {
	return v.TakeHeld(ctx, s, 0)
}

// TakeHeld is TakeSnapshot with a hold behind the mark: nothing that comes after it is acknowledged or read before
// ReleaseHold, or until hold has passed. An error of class errs.ErrConflict: there is a hold already.
func (v *Volume) TakeHeld(ctx context.Context, s id.Snapshot, hold time.Duration) error {
	done := make(chan error, 1)
	fx := effects.Get().(*core.Effects)
	v.mu.Lock()
	if v.closed || v.opener != nil {
		v.mu.Unlock()
		effects.Put(fx)
		return fmt.Errorf("take snapshot %s: %w", s, errs.ErrStaleEpoch)
	}
	v.core.Submit(v.cfg.Clock.Now(), &core.Op{Kind: core.OpMark, Snapshot: id.Raw(s), Hold: hold, User: done}, fx)
	v.unlock(fx)
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("take snapshot %s: %w", s, err)
	}
	v.log.Info("snapshot taken", "snapshot", s.String())
	return nil
}

// ReleaseHold ends the hold of TakeHeld, and tells whether it stood until now.
func (v *Volume) ReleaseHold(s id.Snapshot) (stood bool) {
	v.step(func(now time.Duration, fx *core.Effects) {
		stood = v.opener == nil && v.core.ReleaseHold(now, id.Raw(s), fx)
	})
	return stood
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
