package core

import (
	"fmt"
	"math"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Tombstone says that generations of a segment up to Generation are deleted.
type Tombstone struct {
	Volume     id.Volume
	Epoch      id.Epoch // of the owner that deleted
	Segment    id.Segment
	Generation id.Generation
}

// PGVersion is the newest version of a placement group.
type PGVersion struct {
	PG      id.PG
	Version uint32
}

type tombstone struct {
	epoch      id.Epoch
	generation id.Generation
	number     uint64 // in order of the deletions
}

type tombEntry struct {
	segment id.Segment
	number  uint64
}

func (t tombstone) moot(fence id.Epoch) bool { return t.epoch < fence && t.generation.Epoch < fence }

// Moot tells whether a fence at that epoch refuses all that t would: a put under
// an epoch below it is stale, and who owns the volume since knows of the deletion.
func (t Tombstone) Moot(fence id.Epoch) bool {
	return tombstone{epoch: t.Epoch, generation: t.Generation}.moot(fence)
}

// AdmitShard decides whether a put may begin. The same is asked again when its
// data is durable, by CommitShard.
func (c *Core) AdmitShard(h *storeproto.ShardHead, epoch id.Epoch) error {
	if c.dead != nil {
		return c.dead
	}
	if err := c.checkShard(h, epoch); err != nil {
		return err
	}
	if c.shardsFull {
		return fmt.Errorf("put shard of %s: %w", h.Segment, errs.ErrNoSpace)
	}
	return nil
}

func (c *Core) checkShard(h *storeproto.ShardHead, epoch id.Epoch) error {
	if epoch == storeproto.RepairEpoch {
		return c.checkDeleted(h)
	}
	if vol := c.volumes[h.Volume]; vol != nil && epoch < vol.fence {
		return fmt.Errorf("put shard of %s under %s, fenced at %s: %w", h.Segment, epoch, vol.fence, errs.ErrStaleEpoch)
	}
	if v := c.pgs[h.Segment.PG()]; h.PGVersion < v {
		return fmt.Errorf("put shard of %s for version %d of its group, which is at %d: %w", h.Segment, h.PGVersion, v, errs.ErrStaleEpoch)
	}
	if err := c.checkTold(h, epoch); err != nil {
		return err
	}
	return c.checkDeleted(h)
}

func (c *Core) checkDeleted(h *storeproto.ShardHead) error {
	if c.Deleted(h.Volume, h.Segment, h.Generation) {
		return fmt.Errorf("put shard of %s %s, deleted: %w", h.Segment, h.Generation, errs.ErrNotFound)
	}
	return nil
}

// CommitShard lets a put whose data is durable pass through the queue, where
// fences and deletions are, to become visible: ctl.Shard is the shell's.
func (c *Core) CommitShard(h *storeproto.ShardHead, epoch id.Epoch, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	op.vol = c.volumes[h.Volume]
	if op.Err = c.checkShard(h, epoch); op.Err == nil {
		op.Kind = OpShard
	}
	c.enqueue(op)
}

// DeleteShards admits tombstones: no put of what they name is committed after.
// Below the fence: ErrStaleEpoch.
func (c *Core) DeleteShards(d storeproto.DeleteShards, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	op.vol = c.volumes[d.Volume]
	if vol := op.vol; vol != nil && d.Epoch < vol.fence {
		op.Err = fmt.Errorf("delete shards under %s, fenced at %s: %w", d.Epoch, vol.fence, errs.ErrStaleEpoch)
		c.enqueue(op)
		return
	}
	if op.Err = d.CheckGroups(c.PGVersion); op.Err != nil {
		c.enqueue(op)
		return
	}
	vol := c.volume(d.Volume)
	op.vol = vol
	for _, s := range d.Segments {
		t := Tombstone{Volume: d.Volume, Epoch: d.Epoch, Segment: s.Segment, Generation: s.Generation}
		if have, ok := vol.tombstones[s.Segment]; ok && s.Generation.Less(have.generation) {
			t.Generation = have.generation
		}
		c.RestoreTombstone(t)
		ctl.Tombstones = append(ctl.Tombstones, t)
	}
	if len(ctl.Tombstones) > 0 {
		op.Kind = OpTombstones
	}
	ctl.Pruned = vol.limitTombstones(d.Volume, c.cfg.TombstonesMax)
	c.enqueue(op)
}

// limitTombstones forgets the oldest tombstones beyond max.
func (vol *volume) limitTombstones(v id.Volume, max int) (gone []Tombstone) {
	for len(vol.tombstones) > max {
		e := vol.tombOrder[0]
		vol.tombOrder = vol.tombOrder[1:]
		if t, ok := vol.tombstones[e.segment]; ok && t.number == e.number {
			delete(vol.tombstones, e.segment)
			gone = append(gone, Tombstone{Volume: v, Epoch: t.epoch, Segment: e.segment, Generation: t.generation})
		}
	}
	return gone
}

// Deleted tells whether a tombstone covers the generation.
func (c *Core) Deleted(v id.Volume, s id.Segment, g id.Generation) bool {
	vol := c.volumes[v]
	if vol == nil {
		return false
	}
	t, ok := vol.tombstones[s]
	all, purged := vol.tombstones[allSegments]
	return ok && !t.generation.Less(g) || purged && !all.generation.Less(g)
}

// allSegments is the segment of a tombstone over everything that a volume has: it was purged.
const allSegments id.Segment = 0

// PurgeShards admits a tombstone over all generations of a deleted volume up to epoch:
// no put of them, repairs included, is committed after, and no stream made by an owner of before
// who has not heard of it.
func (c *Core) PurgeShards(v id.Volume, epoch id.Epoch, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	t := Tombstone{Volume: v, Epoch: epoch, Segment: allSegments, Generation: id.Generation{Epoch: epoch, N: math.MaxUint32}}
	if have, ok := c.volume(v).tombstones[allSegments]; !ok || have.generation.Less(t.Generation) {
		c.RestoreTombstone(t)
		ctl.Tombstones = append(ctl.Tombstones, t)
		op.Kind = OpTombstones
	}
	c.enqueue(op)
}

// pruneTombstones forgets those that a durable fence has made moot. The shell
// does the same with what it persisted.
func (vol *volume) pruneTombstones(fence id.Epoch) {
	for s, t := range vol.tombstones {
		if t.moot(fence) {
			delete(vol.tombstones, s)
		}
	}
	if len(vol.tombstones) == 0 {
		vol.tombOrder = nil
	}
}

// SetPGVersions raises the versions of placement groups; lower ones change nothing.
func (c *Core) SetPGVersions(versions []PGVersion, ctl *Control) {
	op := c.newOp()
	op.Control = ctl
	if c.dead != nil {
		op.Err = c.dead
		c.reply(op)
		return
	}
	for _, v := range versions {
		if c.pgs[v.PG] < v.Version {
			c.pgs[v.PG] = v.Version
			ctl.PGs = append(ctl.PGs, v)
		}
	}
	if len(ctl.PGs) > 0 {
		op.Kind = OpPG
	}
	c.enqueue(op)
}

// PGVersion is the newest version known of a group, zero if none.
func (c *Core) PGVersion(pg id.PG) uint32 { return c.pgs[pg] }
