package mutants

// OfTime are mutants of snapshots in groups, clones that are flattened, the trash and the archive. They run in
// the worlds too (InWorlds).
var OfTime = []Mutant{
	{
		Name: "let go what comes behind the mark of a group", File: "blockd/volume/core/hold.go",
		Old: "func (c *Core) holding() bool { return c.keep.until != 0 && c.assigned >= c.keep.mark }",
		New: "func (c *Core) holding() bool { return false }",
	},
	{
		Name: "forget what a clone began with while snapshots read it", File: "blockd/volume/core/flatten.go",
		Old: "	if !c.snapshotsFlat(now, fx) {",
		New: "	if !c.snapshotsFlat(now, fx) && len(c.snaps.list) == 0 {",
	},
	{
		Name: "purge a disk of the trash with its last snapshot", File: "metad/state/kept.go",
		Old: "	if v.Kept == nil || v.Trashed() || slices.ContainsFunc(",
		New: "	if v.Kept == nil || slices.ContainsFunc(",
	},
	{
		Name: "bring a disk back from the trash without its snapshots", File: "metad/state/trash.go",
		Old: "			s.State, s.Trash = cluster.SnapshotReady, nil\n",
		New: "			s.State, s.Trash = cluster.SnapshotDeleting, nil\n",
	},
	{
		Name: "reclaim what manifests name", File: "snapshotd/archive/gc.go",
		Old: "	return x.holds.Uploads[up] || x.needed[i.Key] ||",
		New: "	return x.holds.Uploads[up] ||",
	},
	{
		Name: "reclaim what a disk is brought in from", File: "metad/reconcile/archive.go",
		Old: "		h.Disks = append(h.Disks, needed...)\n",
		New: "		_ = needed\n",
	},
	{
		Name: "take the first segment above the base for one of the base", File: "blockd/volume/plan.go",
		Old: "		if s.Sequence() > w.base {",
		New: "		if s.Sequence() > w.base+1 {",
	},
	{
		Name: "count all that came from the archive as live", File: "blockd/volume/core/hydrate.go",
		Old: "		if ok {\n			a.live++\n		}",
		New: "		if ok || a.at%2 == 0 {\n			a.live++\n		}",
	},
	{
		Name: "forget at a checkpoint what is still in the archive", File: "blockd/volume/core/foreign.go",
		Old: "	if c.archive.Archive == nil || len(c.archive.Left) == 0 {\n		return nil\n	}\n	a :=",
		New: "	if c.archive.Archive == nil || len(c.archive.Left) < 2 {\n		return nil\n	}\n	a :=",
	},
	{
		Name: "read pages of an archived map by ids of the disk it was", File: "blockd/restore/fetch.go",
		Old: "		if s.Entry.Kind() != segment.MapPage {",
		New: "		if s.Entry.Kind() != segment.MapPage || s.Entry.Level() > 0 {",
	},
	{
		Name: "hand out the sequences of an archive again", File: "metad/state/restored.go",
		Old: "	m.nextSequence += id.Sequence(c.Segments)\n",
		New: "	m.nextSequence += id.Sequence(c.Segments / 2)\n",
	},
}
