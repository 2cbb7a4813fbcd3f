package client

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// ChangedContext begins the name of the NBD meta context in which a blockd tells what of a disk, or
// of one of its snapshots, differs from a snapshot, whose name or id follows.
const ChangedContext = "ashlar:changed:"

// Change is a range of bytes, whole blocks of 4 KiB, that differs.
type Change struct {
	Offset, Length uint64
	Zero           bool // it reads as zeros now
}

// Changes calls each for every range of an export, in order and as long as they get, that may differ from
// a snapshot of the same disk, which is named by name or id. What is not named is the same, byte for byte. The export
// is an NBD address, of the disk or of disk@snapshot; a disk that is written meanwhile is compared piece by
// piece, so for one moment's difference take a snapshot and compare that. o may say how to connect.
// Errors: errs.ErrNotFound (no such export or snapshot), those of nbd.Dial, those of each.
func Changes(ctx context.Context, uri, since string, o nbd.ClientOptions, each func(Change) error) (err error) {
	o.Context = ChangedContext + since
	c, err := nbd.Dial(ctx, uri, o)
	if err != nil {
		return fmt.Errorf("changes since %s: %w", since, err)
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // a status under way fails
	defer func() { _ = c.Close() }()                         // nothing was written
	var last Change
	for at, size := uint64(0), c.Size(); at < size; {
		extents, err := c.BlockStatus(at, size-at, 0)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("changes since %s: %w", since, err)
		}
		for _, e := range extents {
			n := min(e.Length, size-at)
			x := Change{Offset: at, Length: n, Zero: e.State&nbd.StateZero != 0}
			if at += n; e.State&nbd.StateChanged == 0 || n == 0 {
				continue
			}
			if last.Length > 0 && last.Offset+last.Length == x.Offset && last.Zero == x.Zero {
				last.Length += x.Length
				continue
			}
			if last.Length > 0 {
				if err := each(last); err != nil {
					return err
				}
			}
			last = x
		}
		if len(extents) == 0 {
			return fmt.Errorf("changes since %s: no answer at %d: %w", since, at, errs.ErrUnavailable)
		}
	}
	if last.Length > 0 {
		return each(last)
	}
	return nil
}
