package server

import (
	"context"
	"fmt"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/record"
)

// ArchiveHolds tells what must not go from the archive: manifests of which disks still have something there only, bases of uploads, what is
// being copied, uploads under way. What disks need is said by their records, and by their checkpoints too: a
// metad that was restored from a backup of before a disk has a record that does not know where it came from, and
// a checkpoint, from the stores, that does. If one cannot be read nothing may go.
func (x *archiver) ArchiveHolds(ctx context.Context, _ *api.ArchiveHoldsRequest) (*api.ArchiveHoldsReply, error) {
	if err := x.s.fresh(ctx); err != nil {
		return nil, x.s.fail(err)
	}
	r, err := x.s.ruling()
	if err != nil {
		return nil, x.s.fail(err)
	}
	out := &api.ArchiveHoldsReply{Manifests: r.archivesOf().copied()}
	x.s.node.View(func(m *state.Machine) {
		for _, v := range m.Volumes() {
			var needed []string
			if needed, err = manifestsOf(v); err != nil {
				return
			}
			out.Manifests = append(out.Manifests, needed...)
			for _, s := range v.Snapshots {
				a := &s.Archived
				if !a.Pending() && a.State != cluster.ArchiveFailed {
					continue
				}
				out.Uploads = append(out.Uploads, a.Upload[:])
				if !a.Base.IsZero() {
					out.Manifests = append(out.Manifests, manifestKey(v.ID, a.Base))
				}
			}
		}
	})
	if err != nil {
		return nil, x.s.fail(err)
	}
	return out, nil
}

// manifestsOf are those of which a disk has something only there.
func manifestsOf(v *state.Volume) (keys []string, err error) {
	if v.Restored != nil {
		keys = append(keys, v.Restored.Manifest)
	}
	if v.Checkpoint == nil || len(v.Checkpoint.Opaque) == 0 {
		return keys, nil
	}
	k, err := record.DecodeCheckpoint("checkpoint of disk "+v.Name, v.Checkpoint.Opaque)
	if err != nil {
		return nil, fmt.Errorf("what disk %s needs from the archive is not known: %w", v.Name, err)
	}
	if k.Archive != nil && (v.Restored == nil || k.Archive.Manifest != v.Restored.Manifest) {
		keys = append(keys, k.Archive.Manifest)
	}
	return keys, nil
}
