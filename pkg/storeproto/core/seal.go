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
//
// It learns the stores of placement groups by version, too. An owner may hear of a version from the lost
// metad when the stores have told. What it packs there would lie where nobody looks once it is
// gone, so a store that has told takes shards only of versions that it told of.

// Seal begins a time in which no streams are created and of each placement group no shards of versions above the one
// that told gives; 0: none. Streams that there are go on, and so do repairs, which only add copies. The core keeps told,
// which must not change.
func (c *Core) Seal(told map[id.PG]uint32) { c.sealed, c.told = true, told }

// Sealed tells whether Unseal is wanted.
func (c *Core) Sealed() bool { return c.sealed }

// Unseal ends it. From now on, for the life of the core, owners of epochs below the one that floors gives of their
// volume are held to it still. The core keeps floors, which must not change.
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

// checkTold refuses a shard in a place of which a restored metad would not hear.
func (c *Core) checkTold(h *storeproto.ShardHead, epoch id.Epoch) error {
	pg := h.Segment.PG()
	if h.PGVersion <= c.told[pg] {
		return nil
	}
	if c.sealed {
		return fmt.Errorf("put shard of %s for version %d of its group, but metad is being restored and was told of %d: %w", h.Segment, h.PGVersion, c.told[pg], errs.ErrUnavailable)
	}
	if floor := c.floors[h.Volume]; epoch < floor {
		return fmt.Errorf("put shard of %s under %s for version %d of its group, but a restored metad grants from %s: %w", h.Segment, epoch, h.PGVersion, floor, errs.ErrStaleEpoch)
	}
	return nil
}
