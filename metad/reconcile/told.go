package reconcile

import (
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// What a store tells of its volumes while the state is rebuilt, taken out of the checkpoints that it found.

// Told is what the checkpoints of an inventory say of where volumes come from, and of the archives that they lie in.
func Told(c *state.TellInventory) (*state.TellLineage, *state.TellArchives, error) {
	lineages, archives := &state.TellLineage{}, &state.TellArchives{}
	for _, s := range c.Volumes {
		if s.Checkpoint == nil {
			continue
		}
		k, err := record.DecodeCheckpoint("checkpoint of "+s.Volume.String(), s.Checkpoint.Opaque)
		if err != nil {
			return nil, nil, err
		}
		if k.Origin != nil || len(k.Snapshots) > 0 {
			x := state.LineageSighting{Volume: s.Volume, Epoch: k.Epoch, Meta: k.Meta, Origin: k.Origin}
			for _, y := range k.Snapshots {
				x.Snapshots = append(x.Snapshots, state.SnapshotSighting{ID: id.Snapshot(y.ID), Size: uint64(y.Blocks) * block.Size})
			}
			lineages.Volumes = append(lineages.Volumes, x)
		}
		if a := k.Archive; a != nil {
			archives.Volumes = append(archives.Volumes, state.ArchiveSighting{Volume: s.Volume, Epoch: k.Epoch, Meta: k.Meta,
				Archive: cluster.Restored{Manifest: a.Manifest, Segments: a.Segments, First: a.First, PGs: a.PGs}})
		}
	}
	return lineages, archives, nil
}
