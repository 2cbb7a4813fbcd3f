package mutants

import "slices"

// InWorlds are mutants that bench/sim must notice: each breaks a rule of the whole, and the
// checkers of the simulated cluster see what comes of it. World is left empty; they all run
// in the worlds of WorldSeeds.
var InWorlds = append(taken(
	"acknowledge when one store has it",
	"take appends of the epoch before the fence",
	"answer before the log is synced",
	"take a late put of a deleted shard",
	"answer a fence while grants of before a start may stand",
	"confirm an epoch below the fence",
	"count a grant from its answer",
	"read with one grant",
	"serve before the run is on two stores again",
	"recover what a closed ensemble has beyond its end",
	"recover a tail of an older epoch",
	"end the run where a store lost synced records",
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
	"clean a segment that index records name",
	"clean inside a commit",
	"reap what is put under the present epoch",
	"reap what the table names",
	"reap before the run is covered",
	"reap segments that only index records name",
	"forget spans though a store was not asked",
	"believe a store's bytes",
	"change a list that changed meanwhile",
	"give segment names twice",
), []Mutant{
	{
		Name: "answer a fence before it is durable", File: "pkg/storeproto/core/fence.go",
		Old: "		if !f.durable || len(f.waits) > 0 {",
		New: "		if len(f.waits) > 0 {",
	},
	{
		Name: "forget the fences at a start", File: "pkg/storeproto/core/restore.go",
		Old: "	vol.fence, vol.by, vol.naming = r.Epoch, r.By, r.Naming\n",
		New: "	vol.naming = r.Naming\n",
	},
	{
		Name: "forget the tombstones at a start", File: "pkg/storeproto/core/restore.go",
		Old: "	vol.tombstones[t.Segment] = tombstone{",
		New: "	_ = tombstone{",
	},
	{
		Name: "forget the copies of an ensemble that was left", File: "blockd/journal/change.go",
		Old: "		if h := c.holders(e); e.retired && len(h) >= quorum {\n			return Ask{Kind: AskClose, Ensemble: e.id, From: e.fromLSN, To: e.toLSN, Holders: h[:quorum]}",
		New: "		if h := c.holders(e); e.retired && len(h) >= 1 {\n			return Ask{Kind: AskClose, Ensemble: e.id, From: e.fromLSN, To: e.toLSN, Holders: append(h[:1:1], e.members[len(e.members)-1].Member)}",
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
		Name: "reuse the slots of a segment that failed", File: "blockd/volume/core/pack.go",
		Old: "	seq, _ := c.ids.take()\n	j.Segment, j.marks = id.MakeSegment(seq, g.pg), c.snaps.taken",
		New: "	if j.Segment == 0 {\n		seq, _ := c.ids.take()\n		j.Segment = id.MakeSegment(seq, g.pg)\n	}\n	j.marks = c.snaps.taken",
	},
	{
		Name: "leave a shard out that a repair cannot code at once", File: "blockd/repair/rebuild.go",
		Old: "	case err != nil && unknown != nil:\n		return fmt.Errorf(\"%v (%w)\", err, unknown)",
		New: "	case err != nil && unknown != nil:\n		return nil",
	},
}...)

// WorldSeeds is how many worlds are tried, and pass as the source stands.
const WorldSeeds = 12

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
