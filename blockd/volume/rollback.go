package volume

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Frozen tells that the volume was opened to be rolled back: nobody may use it until Thaw.
func (v *Volume) Frozen() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.frozen
}

// RollBack makes the volume what it was at a snapshot; what it is now is in the safety snapshot
// then. Only one that was opened for it, so that nobody writes to it. When it returns nil metad
// has a checkpoint that says so. After an error it is to be asked again.
func (v *Volume) RollBack(ctx context.Context, r cluster.Rollback) error {
	if !v.Frozen() {
		return fmt.Errorf("roll back to snapshot %s: volume %s was not opened for it: %w", r.To, v.id, errs.ErrConflict)
	}
	if err := v.TakeSnapshot(ctx, r.Safety); err != nil {
		return fmt.Errorf("roll back to snapshot %s: %w", r.To, err)
	}
	var err error
	v.step(func(now time.Duration, fx *core.Effects) {
		err = v.core.Rollback(now, core.Rollback{To: id.Raw(r.To), Safety: id.Raw(r.Safety)}, fx)
	})
	if err == nil {
		select {
		case <-v.rolled:
			v.log.Info("rolled back", "snapshot", r.To.String(), "safety", r.Safety.String())
			return nil
		case <-v.failed:
			err = v.Err()
		case <-ctx.Done():
			err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
		}
	}
	return fmt.Errorf("roll back to snapshot %s: %w", r.To, err)
}

// Thaw lets the volume be used: metad knows that it is rolled back.
func (v *Volume) Thaw() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frozen {
		v.frozen = false
		v.core.Thaw()
	}
}

// carryRolled wakes who waits for a rollback.
func (v *Volume) carryRolled(fx *core.Effects) {
	if !fx.RolledBack {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.rolled:
	default:
		close(v.rolled)
	}
}
