package volume

import (
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// verdict says whether a block can be read.
type verdict uint8

const (
	readable verdict = iota
	away             // stores that are down, or did not answer, could make it so
	lost
	doubtful // a store has found a shard of it wrong: only a read can tell
)

// shardAt names one shard of one generation, as its store lists it.
type shardAt struct {
	store      cluster.StoreRef
	segment    id.Segment
	generation id.Generation
	index      uint8
}

// witness is what stores say they have of a volume, and which of them did not say.
type witness struct {
	have  map[shardAt]bool
	heard map[cluster.StoreRef]bool
}

// fate is how the shards of one segment fare.
type fate struct {
	where      core.Where
	here, gone []bool // by slot; neither: it may come back
	doubt      bool
	kept       *segment.Kept // of a generation that has dropped slots; nil: nobody could say
}

// judge looks at one segment: a shard is here if a store that would be asked for it has it.
// It is gone if every such store is lost, out, another memory now, or says that it has it
// not; a store that is only down may come back with it.
func judge(t *cluster.Topology, w *witness, s id.Segment, where core.Where) *fate {
	n := int(where.K) + int(where.M)
	f := &fate{where: where, here: make([]bool, n), gone: make([]bool, n)}
	p, known := t.PG(s.PG())
	for i := range n {
		f.gone[i] = known
		for _, r := range p.Holders(where.PGVersion, where.K, where.M, uint8(i)) {
			switch st, ok := t.Store(r.Store); {
			case !ok, st.Incarnation != r.Incarnation, st.State == cluster.StoreLost, st.State == cluster.StoreOut:
			case !st.State.Serves(), !w.heard[r]:
				f.gone[i] = false
			case w.have[shardAt{r, s, where.Generation, uint8(i)}]:
				f.here[i], f.gone[i] = true, false
			}
			if f.here[i] {
				break
			}
		}
	}
	return f
}

func count(bs []bool) (n int) {
	for _, b := range bs {
		if b {
			n++
		}
	}
	return n
}

// whole tells that every shard is here and nobody doubts one: none of its blocks need be looked for.
func (f *fate) whole() bool { return !f.doubt && count(f.here) >= int(f.where.K) }

// of judges one slot: it is read from its own shard, or rebuilt from any k.
func (f *fate) of(slot uint16) verdict {
	k, n := int(f.where.K), len(f.here)
	here := count(f.here)
	may := n - count(f.gone) // here, or perhaps later
	switch {
	case f.doubt && here > 0:
		return doubtful
	case here >= k:
		return readable
	case may >= k:
		if f.own(slot, f.here) {
			return readable
		}
		return away
	case f.where.Kept > 0 && f.kept == nil: // no header says where the slot lies
		if may > 0 {
			return away
		}
		return lost
	case f.own(slot, f.here):
		return readable
	case !f.own(slot, f.gone):
		return away
	}
	return lost
}

// own tells what is said of the slot's own shard.
func (f *fate) own(slot uint16, said []bool) bool {
	l := segment.Layout{K: f.where.K, Slots: f.where.Slots}
	if f.where.Kept > 0 {
		if f.kept == nil {
			return false
		}
		rank, ok := f.kept.Rank(slot)
		if !ok {
			return false
		}
		l.Slots, slot = f.kept.Count(), rank
	}
	if !l.Valid() || slot >= l.Slots {
		return false
	}
	shard, _ := l.Place(slot)
	return said[shard]
}
