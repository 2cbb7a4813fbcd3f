package state

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A state that comes from a backup, or from a member that may have missed what a majority
// committed, is behind the cluster it speaks for: epochs were granted, sequences handed
// out, lists changed and disks made that it does not know. It is marked, and while it is,
// it grants, changes and deletes nothing. Each store tells what it has; the highest of
// everything is taken when an operator says that all have told.
//
// What nobody can tell is jumped over: a grant whose fence reached no store, a range of
// which nothing was written.

const (
	// epochJump is more than the grants that were made, after the last fence that a store
	// saw, by a cluster that then lost its metads.
	epochJump = 1 << 16
	// rangeJump is how many ranges may have been handed out and never written, beside a few
	// for each volume.
	rangeJump          = 1 << 12
	rangeJumpPerVolume = 4
	listVersionJump    = 1 << 16
	// groupVersionJump is more than the moves of a group since the backup of which stores heard, and of which no shard
	// and no host tells.
	groupVersionJump = 1 << 16
	// sizeUnknown is the size of a disk of which no checkpoint and no owner tells it: thin,
	// so that too large costs nothing and too small would hide bytes.
	sizeUnknown = 1 << 40

	sightingsMax = 1 << 20 // of one part
)

// Rebuild is how far a rebuilding is, or how the last one ended.
type Rebuild struct {
	ID   [16]byte // drawn for this rebuilding
	Done bool
	Told []cluster.StoreRef // in order
	// Found are the names given to disks that were on stores and not in the state; Gone
	// those of disks that were in the state, and were deleted since.
	Found, Gone []string

	volumes map[id.Volume]*seen
	groups  map[groupVersion]*cluster.PGVersion
	// lineages are what the highest checkpoint of a volume that was told says of it.
	lineages map[id.Volume]*LineageSighting
	// archives are what the highest checkpoints that lie in an archive say of it.
	archives map[id.Volume]*ArchiveSighting
}

// groupVersion names what was told of a version of a group. Hosts tell it whole (layer
// known); stores tell of the slots whose shards they have, and when two have the same, as
// after a repair, the second is in the next layer.
type groupVersion struct {
	pg      id.PG
	version uint32
	layer   uint8
}

const known = 255

// seen is what all stores together have of a volume.
type seen struct {
	fence      id.Epoch
	sequence   id.Sequence
	shards     uint64
	size       uint64
	checkpoint *cluster.Checkpoint
	ensembles  map[id.Ensemble][]tail
}

type tail struct {
	store         cluster.StoreRef
	journal, meta id.LSN
}

// Sighting is what one store has of a volume.
type Sighting struct {
	Volume       id.Volume
	Fence        id.Epoch
	LastSequence id.Sequence
	Shards       uint64
	Size         uint64 // 0: not known there
	Checkpoint   *cluster.Checkpoint
	Streams      []StreamSighting
}

// StreamSighting is how far the streams of an ensemble go on one store.
type StreamSighting struct {
	Ensemble   id.Ensemble
	Tail, Meta id.LSN
}

// GroupSighting is a version of a group under which a store's shard was coded.
type GroupSighting struct {
	PG      id.PG
	Version uint32
	K, M    uint8
	Index   uint8
}

// KnownGroup is a version of a group that some host knows whole.
type KnownGroup struct {
	PG      id.PG
	Version cluster.PGVersion
}

// Commands of a rebuilding.
type (
	// TellInventory is a part of what one store has.
	TellInventory struct {
		Store   cluster.StoreRef
		Volumes []Sighting
		Groups  []GroupSighting
		Known   []KnownGroup
		Last    bool
	}
	// FinishRebuild takes what was told for all there is, but for these stores.
	FinishRebuild struct{ Without []id.Store }
)

// Reopen marks a state that may be behind its cluster. The members are forgotten: the one
// that has this state begins alone.
func (m *Machine) Reopen(rebuild [16]byte) {
	m.rebuild = &Rebuild{ID: rebuild, volumes: make(map[id.Volume]*seen), groups: make(map[groupVersion]*cluster.PGVersion),
		lineages: make(map[id.Volume]*LineageSighting), archives: make(map[id.Volume]*ArchiveSighting)}
	clear(m.members)
}

// Rebuild is nil if this state never was behind its cluster. The caller does not change it.
func (m *Machine) Rebuild() *Rebuild { return m.rebuild }

// Rebuilding tells whether nothing may be granted, changed or deleted now.
func (m *Machine) Rebuilding() bool { return m.rebuild != nil && !m.rebuild.Done }

// Untold are the known stores that have not told what they have.
func (m *Machine) Untold() (out []Store) {
	if !m.Rebuilding() {
		return nil
	}
	for _, s := range m.Stores() {
		if !s.Lost && !m.rebuild.told(s.Store) {
			out = append(out, s)
		}
	}
	return out
}

func (r *Rebuild) told(s id.Store) bool {
	return slices.ContainsFunc(r.Told, func(x cluster.StoreRef) bool { return x.Store == s })
}

// duringRebuild tells whether a command may be carried out while the state is behind.
func duringRebuild(c Command) bool {
	switch c.(type) {
	case *TellInventory, *TellLineage, *TellArchives, *FinishRebuild, *LoseStore, *SetMember, *DropMember, *AddToken, *RevokeToken, *UseToken, *SetLevel, *AddEvents, *ChangeTrust:
		return true
	}
	return false
}

func (m *Machine) tellInventory(c *TellInventory) Result {
	if !m.Rebuilding() {
		return refuse(errs.ErrConflict, "the state is not being rebuilt")
	}
	if c.Store.Store.IsZero() || c.Store.Incarnation.IsZero() {
		return refuse(errs.ErrInvalid, "an inventory of no store")
	}
	r := m.rebuild
	for _, s := range c.Volumes {
		r.see(c.Store, s)
	}
	for _, g := range c.Groups {
		r.seeGroup(c.Store, g)
	}
	for _, k := range c.Known {
		v := k.Version
		v.Stores = slices.Clone(v.Stores)
		r.groups[groupVersion{k.PG, v.Version, known}] = &v
	}
	if c.Last && !slices.Contains(r.Told, c.Store) {
		r.Told = append(r.Told, c.Store)
		slices.SortFunc(r.Told, compareRefs)
	}
	return Result{}
}

// see takes the higher of everything.
func (r *Rebuild) see(store cluster.StoreRef, s Sighting) {
	v := r.volumes[s.Volume]
	if v == nil {
		v = &seen{ensembles: make(map[id.Ensemble][]tail)}
		r.volumes[s.Volume] = v
	}
	v.fence, v.sequence, v.size = max(v.fence, s.Fence), max(v.sequence, s.LastSequence), max(v.size, s.Size)
	v.shards = max(v.shards, s.Shards)
	if c := s.Checkpoint; c != nil && (v.checkpoint == nil || c.Above(*v.checkpoint)) {
		v.checkpoint = c
	}
	for _, x := range s.Streams {
		at := slices.IndexFunc(v.ensembles[x.Ensemble], func(t tail) bool { return t.store == store })
		if at >= 0 {
			v.ensembles[x.Ensemble][at] = tail{store, x.Tail, x.Meta}
			continue
		}
		v.ensembles[x.Ensemble] = append(v.ensembles[x.Ensemble], tail{store, x.Tail, x.Meta})
	}
}

// seeGroup puts a store in its place. Places that no shard tells of stay empty: a store
// that nobody has.
func (r *Rebuild) seeGroup(store cluster.StoreRef, g GroupSighting) {
	for layer := uint8(0); layer < known; layer++ {
		key := groupVersion{g.PG, g.Version, layer}
		v := r.groups[key]
		if v == nil {
			v = &cluster.PGVersion{Version: g.Version, K: g.K, M: g.M, Stores: make([]cluster.StoreRef, int(g.K)+int(g.M))}
			r.groups[key] = v
		}
		if v.K != g.K || v.M != g.M || int(g.Index) >= len(v.Stores) || v.Stores[g.Index] == store {
			return
		}
		if v.Stores[g.Index] == (cluster.StoreRef{}) {
			v.Stores[g.Index] = store
			return
		}
	}
}

func (m *Machine) finishRebuild(c *FinishRebuild) Result {
	if !m.Rebuilding() {
		return Result{} // the answer was lost
	}
	for _, s := range m.Untold() {
		if !slices.Contains(c.Without, s.Store) {
			return refuse(errs.ErrConflict, "store %s on %s has not told what it has", s.Store, s.Host)
		}
	}
	first := m.nextSequence
	m.jumpSequence()
	m.takeGroups()
	for _, x := range slices.SortedFunc(maps.Keys(m.rebuild.volumes), func(a, b id.Volume) int { return bytes.Compare(a[:], b[:]) }) {
		if bytes.Compare(x[:], m.lastVolume[:]) > 0 {
			m.lastVolume = x
		}
		if _, known := m.volumes[x]; !known {
			m.adopt(x, m.rebuild.volumes[x])
		}
	}
	for _, v := range m.Volumes() {
		m.raise(v.clone(), m.rebuild.volumes[v.ID], first)
	}
	m.settleHidden()
	m.rebuild.Done, m.rebuild.volumes, m.rebuild.groups, m.rebuild.lineages, m.rebuild.archives = true, nil, nil, nil, nil
	return Result{}
}

// jumpSequence leaves out every range that may have been handed out.
func (m *Machine) jumpSequence() {
	next := max(m.nextSequence, m.rebuild.allotted())
	volumes := len(m.volumes)
	for x, s := range m.rebuild.volumes {
		next = max(next, s.sequence+1)
		if _, known := m.volumes[x]; !known {
			volumes++
		}
	}
	next += id.Sequence(m.settings.RangeCount) * id.Sequence(rangeJump+rangeJumpPerVolume*volumes)
	m.nextSequence = min(next, id.SequenceMax)
}

// adopt makes a record of a disk that was made after the backup. One of which only the
// fence is left was deleted.
func (m *Machine) adopt(x id.Volume, s *seen) {
	if s.shards == 0 && len(s.ensembles) == 0 || len(m.volumes) >= VolumesMax {
		return
	}
	v := &Volume{}
	v.ID, v.Name, v.Size, v.Created = x, "recovered-"+x.String(), sizeUnknown, time.UnixMilli(0).UTC()
	if s.size != 0 {
		v.Size = s.size
	}
	m.names[v.Name] = x
	m.rebuild.Found = append(m.rebuild.Found, v.Name)
	m.put(v)
}

// raise takes for one volume what the stores have; s is nil if no store knows it.
func (m *Machine) raise(v *Volume, s *seen, first id.Sequence) {
	if s == nil {
		s = &seen{}
	}
	backup := v.Epoch
	v.Epoch = max(v.Epoch, s.fence)
	for e := range s.ensembles {
		v.Epoch = max(v.Epoch, e.Epoch)
	}
	if !v.Deleted && v.Checkpoint != nil && s.fence > backup && s.shards == 0 && len(s.ensembles) == 0 {
		// It had data, was fenced after the backup, and nothing of it is anywhere.
		m.rebuild.Gone = append(m.rebuild.Gone, v.Name)
		if m.names[v.Name] == v.ID { // the name of a deleted disk may be another's
			delete(m.names, v.Name)
		}
		m.drop(v)
		return
	}
	// An epoch may have been granted of which no store has heard.
	v.Epoch += epochJump
	v.Size = max(v.Size, s.size)
	if c := s.checkpoint; c != nil && (v.Checkpoint == nil || c.Above(*v.Checkpoint)) {
		v.Checkpoint = c
	}
	m.takeLineage(v)
	m.takeArchive(v)
	m.bringBack(v)
	v.leaveBranch()
	if v.Rollback != nil {
		v.endRollback() // it may be done, and the disk written since: it is not to happen again
	}
	v.ungroup()
	m.takeEnsembles(v, s)
	v.ListVersion += listVersionJump
	v.lastN = 0
	// Nobody knows who served it: a fence waits for everybody.
	v.Owner, v.OpenComplete, v.Prior = id.Holder{}, false, nil
	for _, h := range m.Hosts() {
		v.Prior = append(v.Prior, h.Host)
	}
	if len(v.Spans) < SpansMax {
		v.Spans = append(v.Spans, cluster.Span{Epoch: v.Epoch, First: first, End: m.nextSequence})
	}
	v.Epoch++ // that span's epoch is over
	m.put(v)
}

// foundMax bounds the list of a volume that was rebuilt.
const foundMax = EnsemblesMax / 2

// takeEnsembles adds to the list what is on stores and younger than it, open and marked
// as found: recovery then looks at the union of all. Which of them were the list, and
// which the targets of openings that broke off, nobody knows; what the former have and
// the latter lack, the union has. So it is with the target of an opening that was under way
// when the backup was taken: it may have become the list since, and hold what was acknowledged.
//
// What is older than the highest checkpoint is not looked at: that checkpoint's epoch replaced the
// list, and what counted of it was in the list that it put there. What the older has beyond is
// what was discarded then, and its stores may be gone long since.
func (m *Machine) takeEnsembles(v *Volume, s *seen) {
	var since id.Epoch
	if v.Checkpoint != nil {
		since = v.Checkpoint.Epoch
	}
	v.List = slices.DeleteFunc(v.List, func(e cluster.Ensemble) bool { return e.ID.Epoch < since })
	for i := range v.List {
		if e := &v.List[i]; e.ID.Epoch != v.List[0].ID.Epoch {
			e.Found = true
		}
	}
	var last id.Ensemble
	if e, ok := v.Newest(); ok {
		last = e.ID
	}
	for _, e := range slices.SortedFunc(maps.Keys(s.ensembles), compareEnsembles) {
		if compareEnsembles(e, last) <= 0 || e.Epoch < since {
			continue
		}
		tails := slices.Clone(s.ensembles[e])
		slices.SortFunc(tails, func(a, b tail) int {
			return cmp.Or(cmp.Compare(b.journal, a.journal), cmp.Compare(b.meta, a.meta), compareRefs(a.store, b.store))
		})
		x := cluster.Ensemble{ID: e, Found: true}
		for _, t := range tails[:min(len(tails), EnsembleWidthMax)] {
			x.Stores = append(x.Stores, t.store)
		}
		v.List = append(v.List, x)
	}
	if n := len(v.List); n > foundMax {
		v.List = v.List[n-foundMax:] // the opening must be able to add its own
	}
}

func compareEnsembles(a, b id.Ensemble) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.N, b.N))
}
