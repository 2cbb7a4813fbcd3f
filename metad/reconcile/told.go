package reconcile

import (
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// What a store tells of its volumes while the state is rebuilt, taken out of the checkpoints that it found.

// ToldLineages is what the checkpoints of an inventory say of where volumes come from.
func ToldLineages(c *state.TellInventory) (*state.TellLineage, error) {
	out := &state.TellLineage{}
	for _, s := range c.Volumes {
		if s.Checkpoint == nil {
			continue
		}
		k, err := record.DecodeCheckpoint("checkpoint of "+s.Volume.String(), s.Checkpoint.Opaque)
		if err != nil {
			return nil, err
		}
		if k.Origin == nil && len(k.Snapshots) == 0 {
			continue
		}
		x := state.LineageSighting{Volume: s.Volume, Epoch: k.Epoch, Meta: k.Meta, Origin: k.Origin}
		for _, y := range k.Snapshots {
			x.Snapshots = append(x.Snapshots, state.SnapshotSighting{ID: id.Snapshot(y.ID), Size: uint64(y.Blocks) * block.Size})
		}
		out.Volumes = append(out.Volumes, x)
	}
	return out, nil
}

// ToldArchives is what the checkpoints of an inventory say of the archives that their disks lie in.
func ToldArchives(c *state.TellInventory) (*state.TellArchives, error) {
	out := &state.TellArchives{}
	for _, s := range c.Volumes {
		if s.Checkpoint == nil {
			continue
		}
		k, err := record.DecodeCheckpoint("checkpoint of "+s.Volume.String(), s.Checkpoint.Opaque)
		if err != nil {
			return nil, err
		}
		if a := k.Archive; a != nil {
			out.Volumes = append(out.Volumes, state.ArchiveSighting{Volume: s.Volume, Epoch: k.Epoch, Meta: k.Meta,
				Archive: cluster.Restored{Manifest: a.Manifest, Segments: a.Segments, First: a.First, PGs: a.PGs}})
		}
	}
	return out, nil
}
