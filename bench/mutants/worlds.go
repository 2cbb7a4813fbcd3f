package mutants

import "slices"

// InWorlds are mutants that bench/sim must notice: each breaks a rule of the whole, and the
// checkers of the simulated cluster see what comes of it. World is left empty; they all run
// in the worlds of WorldSeeds. What needs a rarer schedule than so few worlds have is left to
// the worlds of its room (All): bench/sim/RESULTS.md names it.
var InWorlds = slices.Concat(taken(
	"acknowledge when one store has it",
	"take appends of the epoch before the fence",
	"answer before the log is synced",
	"serve before the run is on two stores again",
	"release the journal when the commit is sent",
	"let a commit overtake an older one",
	"count a segment whose shards were not all put",
	"delete what was dead before metad has the checkpoint",
	"let overlapping writes pass a long one",
	"move a block over a newer write",
	"call live what the map has not any more",
	"delete a generation that metad's checkpoint names",
	"give up a failed generation by its segment's name",
	"use a generation's name again",
	"reap what the table names",
	"give segment names twice",
	"forget what stores found after the backup",
), OfTime, []Mutant{
	{
		Name: "answer a fence before it is durable", File: "pkg/storeproto/core/fence.go",
		Old: "		if !f.durable || len(f.waits) > 0 {",
		New: "		if len(f.waits) > 0 {",
	},
	{
		Name: "give the present epoch to the next owner as well", File: "metad/state/apply.go",
		Old: "	v.Epoch++\n",
		New: "	v.Epoch = max(v.Epoch, 1)\n",
	},
	{
		Name: "forget a group's old stores before the new ones are whole", File: "metad/reconcile/mend.go",
		Old: "		if Whole(l, p) {",
		New: "		if len(p.Versions) > 1 {",
	},
	{
		Name: "let the head free what a snapshot has", File: "blockd/volume/core/snapshot.go",
		Old: "func (c *Core) dropped(loc id.Location) {\n	s := loc.Segment()\n	if s.Sequence() > c.snaps.watermark {",
		New: "func (c *Core) dropped(loc id.Location) {\n	s := loc.Segment()\n	if s.Sequence() > 0 {",
	},
	{
		Name: "free with a snapshot what the one before it has", File: "blockd/volume/core/snapdrop.go",
		Old: "		if x := l.Segment(); x.Sequence() > w.doomed.above {",
		New: "		if x := l.Segment(); x.Sequence() > c.floor() {",
	},
	{
		Name: "pack what came after a mark with what came before", File: "blockd/volume/core/pack.go",
		Old: "		if m.mark != nil {\n			return // no id for what is after a mark until that is passed\n		}\n",
		New: "",
	},
	{
		Name: "forget a code that stores still have something of", File: "metad/reconcile/recode.go",
		Old: "ok && left.Shards == 0 {",
		New: "ok || left.Shards == 0 {",
	},
	{
		Name: "reuse the slots of a segment that failed", File: "blockd/volume/core/pack.go",
		Old: "	seq, _ := c.ids.take()\n	j.Segment, j.marks = id.MakeSegment(seq, g.pg), c.snaps.taken",
		New: "	if j.Segment == 0 {\n		seq, _ := c.ids.take()\n		j.Segment = id.MakeSegment(seq, g.pg)\n	}\n	j.marks = c.snaps.taken",
	},
	{
		Name: "delete a snapshot that clones began with", File: "metad/state/disksnaps.go",
		Old: "	if m.Held(c.ID) {\n		hide(",
		New: "	if c.ID.IsZero() {\n		hide(",
	},
	{
		Name: "forget at a checkpoint what the disk began with", File: "blockd/volume/core/checkpoint.go",
		Old: "Origin: c.origin, Parent:",
		New: "Parent:",
	},
	{
		Name: "count what an ancestor has", File: "blockd/volume/core/origin.go",
		Old: "func (c *Core) floor() id.Sequence { return c.origin.Floor() }",
		New: "func (c *Core) floor() id.Sequence { return 0 }",
	},
	{
		Name: "go on from the safety snapshot after a rollback", File: "blockd/volume/core/rollback.go",
		Old: "	c.snaps.parent = to.ID\n",
		New: "",
	},
	{
		Name: "call a rollback done before metad has the checkpoint", File: "blockd/volume/core/rollback.go",
		Old: "fx.RolledBack = fx.RolledBack || c.check.committed >= r.cut",
		New: "fx.RolledBack = true",
	},
	{
		Name: "purge a deleted disk whose snapshots are needed", File: "metad/state/kept.go",
		Old: "	if v.Kept == nil || v.Trashed() || slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.Needed() }) {",
		New: "	if v.Kept == nil || v.Trashed() {",
	},
	{
		Name: "forget of a deleted disk only what older owners left", File: "pkg/storeproto/core/shard.go",
		Old: "	t := Tombstone{Volume: v, Epoch: epoch, Segment: allSegments, Generation: id.Generation{Epoch: epoch, N: math.MaxUint32}}",
		New: "	t := Tombstone{Volume: v, Epoch: epoch, Segment: allSegments, Generation: id.Generation{Epoch: epoch - min(epoch, 2), N: math.MaxUint32}}",
	},
})

// WorldSeeds is how many worlds are tried, and pass as the source stands.
const WorldSeeds = 32

// taken are mutants of All; one without a name stands for what is not there.
func taken(names ...string) (out []Mutant) {
	for _, name := range names {
		i := slices.IndexFunc(All, func(m Mutant) bool { return m.Name == name })
		if i < 0 {
			out = append(out, Mutant{})
			continue
		}
		m := All[i]
		m.World = World{}
		out = append(out, m)
	}
	return out
}
