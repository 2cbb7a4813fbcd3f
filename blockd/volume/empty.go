package volume

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// Empty makes everything on the volume itself zeros; its snapshots stay as they are. Only of one that is deleted
// and kept for them. When it returns nil that is durable, and the space comes back behind.
// After an error it is to be asked again.
func (v *Volume) Empty(ctx context.Context) error {
	if !v.Deleted() || v.cfg.Record.Trashed() {
		return fmt.Errorf("empty volume %s: it is not deleted for good: %w", v.id, errs.ErrConflict)
	}
	done := make(chan error, 1)
	v.Submit(nbd.NewRequest(nbd.OpTrim, 0, 0, v.SizeBytes(), nil, nbd.CompleterFunc(func(r *nbd.Request, err error) {
		r.Recycle()
		done <- err
	})))
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("empty volume %s: %w", v.id, err)
	}
	v.log.Info("emptied, its snapshots stay")
	return nil
}

// Deleted tells that the volume was opened for its snapshots: nobody may use the disk itself.
func (v *Volume) Deleted() bool { return v.cfg.Record.Kept != nil }
