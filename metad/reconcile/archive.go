package reconcile

import (
	"fmt"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// ArchiveHolds are what must not go from the archive as far as the state says.
type ArchiveHolds struct {
	Disks []string // manifests of which disks still have something there only; some may be named twice
	Bases []ArchivedSnapshot
	// Uploads are those under way, and those that failed and may go on.
	Uploads []id.Raw
}

// ArchivedSnapshot is a snapshot that is uploaded against.
type ArchivedSnapshot struct {
	Volume   id.Volume
	Snapshot id.Snapshot
}

// HoldsOf gives them. What disks need is said by their records, and by their checkpoints too: a metad that was restored
// from a backup of before a disk has a record that does not know where it came from, and a checkpoint, from the stores,
// that does. If one cannot be read nothing may go: then there is an error. A deleted disk needs nothing, though its
// record may wait for a store that is away for as long as that is.
func HoldsOf(m *state.Machine) (h ArchiveHolds, err error) {
	for _, v := range m.Volumes() {
		if v.Deleted {
			continue
		}
		needed, err := ManifestsOf(v)
		if err != nil {
			return ArchiveHolds{}, err
		}
		h.Disks = append(h.Disks, needed...)
		for _, s := range v.Snapshots {
			a := &s.Archived
			if !a.Pending() && a.State != cluster.ArchiveFailed {
				continue
			}
			h.Uploads = append(h.Uploads, a.Upload)
			if !a.Base.IsZero() {
				h.Bases = append(h.Bases, ArchivedSnapshot{v.ID, a.Base})
			}
		}
	}
	return h, nil
}

// ManifestsOf are those of which a disk has something only in the archive.
func ManifestsOf(v *state.Volume) (keys []string, err error) {
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

// Lent gives the record of a volume for its owner: with what its ancestors were allotted of archives, if it is a clone
// of disks that are still being brought in. Who opens it before an ancestor is whole may look there, too, and afterwards
// finds all of it in stores.
func Lent(m *state.Machine, v *cluster.Volume) *cluster.Volume {
	c := *v
	for _, a := range v.Origin.Chain() {
		if p, ok := m.Volume(a.Volume); ok && p.Restored != nil {
			c.Lent = append(c.Lent, *p.Restored.Clone())
		}
	}
	return &c
}

// restoreGroups bounds the groups of one allotment.
const restoreGroups = 64

// GoodGroups are those that new segments go to now.
func GoodGroups(t *cluster.Topology) (out []id.PG) {
	for i := range t.PGs {
		if g := &t.PGs[i]; g.Preferred && g.Healthy && len(out) < restoreGroups {
			out = append(out, g.Number)
		}
	}
	return out
}
