package core

import (
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// A metad that is restored from a backup learns from the stores which ensembles there are. An owner
// that lives on may have been granted one in which nothing was written yet: nobody tells of it. If
// its streams were created when the stores have told, what is acknowledged there would be lost with
// that owner. So a store is sealed before it tells, and unsealed with the epochs that all
// volumes have by then: owners of before have lower ones, and get no new streams any more.

// Seal begins a time in which no streams are created. Those that there are go on.
func (c *Core) Seal() { c.sealed = true }

// Sealed tells whether Unseal is wanted.
func (c *Core) Sealed() bool { return c.sealed }

// Unseal ends it. From now on, for the life of the core, a stream of a volume is created only under
// the epoch that floors gives or a later one. The core keeps floors, which must not change.
func (c *Core) Unseal(floors map[id.Volume]id.Epoch) { c.sealed, c.floors = false, floors }

// checkSeal refuses a new stream of which a restored metad would not hear.
func (c *Core) checkSeal(a *storeproto.Append) error {
	if c.sealed {
		return fmt.Errorf("append to a new stream, but metad is being restored and was told of all there are: %w", errs.ErrUnavailable)
	}
	if floor := c.floors[a.Stream.Volume]; a.Epoch < floor {
		return fmt.Errorf("append to a new stream under %s, but a restored metad grants from %s: %w", a.Epoch, floor, errs.ErrStaleEpoch)
	}
	return nil
}
