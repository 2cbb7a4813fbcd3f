package journal

import (
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Member is one store of an ensemble, in the incarnation it had when it was chosen.
type Member = cluster.StoreRef

// Ensemble is one entry of a volume's list in metad.
type Ensemble struct {
	ID id.Ensemble
	// From is the first LSN that counts here, To the last; To < From: none counts.
	// From 0: not yet known, it follows from the To of the ensemble before. To is
	// valid when Closed.
	From, To [storeproto.Kinds]id.LSN
	Closed   bool
	Members  []Member // three, or two where the cluster has no more; of a found one who told of it
	Holders  []Member // named by the close: each holds both streams whole
	// LossAccepted: an operator lets openings go on without the answers and records
	// that this ensemble lost.
	LossAccepted bool
	// Found: a restored metad did not know of it, stores had it. It counts whatever its epoch.
	Found bool
}

// quorum is how many members make a record acknowledged, a grant or a round count.
const quorum = 2

// fenceQuorum is how many fence answers meet every quorum of an open ensemble:
// two of three, one of two. Of one that was found the members are those that told of it: a
// third may have been lost, or was given no record before they told, and an extra may be among them. So what was
// acknowledged may be on any one of them alone, and an owner of before may still have a quorum with each.
func (e *Ensemble) fenceQuorum() int {
	if e.Found {
		return max(len(e.Members), 1)
	}
	return max(len(e.Members)-quorum+1, 1)
}

// asked are the stores whose answers a recovery needs: the members of an open
// ensemble, the holders of a closed one.
func (e *Ensemble) asked() []Member {
	if e.Closed {
		return e.Holders
	}
	return e.Members
}

func (e *Ensemble) need() int {
	if e.Closed {
		return 1
	}
	return e.fenceQuorum()
}

// List is a volume's ensembles as metad has them, oldest first. Every change is a
// compare-and-set on {epoch, Version}.
//
// The ensembles in force are those of the first one's epoch, and those that a rebuilt
// metad found on stores. Others, of higher epochs, are targets of openings that never
// finished: nothing was ever acknowledged there, and the next grant or ReplaceList
// removes them.
type List struct {
	Version   uint64
	Ensembles []Ensemble
	// Complete: metad knows that the owner of its present epoch replaced the list. A list that an
	// opening found empty has one ensemble, the opening's own, before and after that.
	Complete bool
}

// ListOf reads the list of metad's record.
func ListOf(v *cluster.Volume) List {
	l := List{Version: v.ListVersion, Complete: v.OpenComplete}
	for i := range v.List {
		c := v.List[i].Clone()
		e := Ensemble{ID: c.ID, Closed: c.Closed, Members: c.Stores, Holders: c.Holders, LossAccepted: c.LossAccepted, Found: c.Found}
		e.From = [storeproto.Kinds]id.LSN{storeproto.Journal: c.From, storeproto.Meta: c.MetaFrom}
		e.To = [storeproto.Kinds]id.LSN{storeproto.Journal: c.To, storeproto.Meta: c.MetaTo}
		l.Ensembles = append(l.Ensembles, e)
	}
	return l
}

// Clone copies the list with everything it refers to.
func (l List) Clone() List {
	l.Ensembles = slices.Clone(l.Ensembles)
	for i := range l.Ensembles {
		e := &l.Ensembles[i]
		e.Members, e.Holders = slices.Clone(e.Members), slices.Clone(e.Holders)
	}
	return l
}

// InForce is the part of the list that an opening recovers: see cluster.InForce.
func (l List) InForce() []Ensemble { return l.split(true) }

// targets are those of openings that never finished.
func (l List) targets() []Ensemble { return l.split(false) }

func (l List) split(inForce bool) (out []Ensemble) {
	for i := range l.Ensembles {
		if e := &l.Ensembles[i]; (e.ID.Epoch == l.Ensembles[0].ID.Epoch || e.Found) == inForce {
			out = append(out, *e)
		}
	}
	return out
}

func (l List) find(e id.Ensemble) *Ensemble {
	for i := range l.Ensembles {
		if l.Ensembles[i].ID == e {
			return &l.Ensembles[i]
		}
	}
	return nil
}
