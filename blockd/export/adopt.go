package export

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Adopt opens a disk that another host has handed off to this one, and keeps it.
func (x *Exports) Adopt(ctx context.Context, v id.Volume) error {
	d, err := x.disk(v)
	if err != nil {
		return err
	}
	_, _, refused, err := x.own(ctx, d, client.AcquireHandoff)
	if err == nil && refused != nil {
		err = fmt.Errorf("%s has it: %w", refused.Owner, errs.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("take disk %s over: %w", v, err)
	}
	return nil
}
