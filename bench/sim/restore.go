package sim

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
	score "ashlar.dev/pkg/storeproto/core"
)

// Metad is lost and restored from a backup that is some seconds old. All stores tell what they
// have, at whatever moment their hosts come to it, and the owners, whom nobody stops, go on
// meanwhile. Then whoever is asked must be there: every disk that ever served, every clone with
// what it began with, every snapshot that somebody was told is taken.

// restoring is a state that is being rebuilt.
type restoring struct {
	m    *state.Machine
	told map[cluster.StoreRef]bool
}

// backups keeps one that is out of date, mostly.
func (m *metad) backups() {
	m.w.after(m.w.between(300*time.Millisecond, 4*time.Second), "metad is backed up", func() {
		m.backUp()
		m.backups()
	})
}

func (m *metad) backUp() {
	if m.restore == nil {
		m.backup = m.m.Snapshot()
	}
}

// silent tells that nobody gets an answer.
func (m *metad) silent() bool { return m.away || m.restore != nil }

// restoreMetad puts the backup in the place of the state, at most once in a world.
func (m *menu) restoreMetad() bool {
	md := m.w.metad
	rolling := slices.ContainsFunc(m.w.disks, func(d *disk) bool { return d.held || d.leaves })
	lost := m.victim != nil && (m.rotten || m.victim.gone())
	if md.backup == nil || md.silent() || md.restored || m.leaves != nil || rolling || lost {
		return false
	}
	x, err := state.Restore(md.backup)
	if err != nil {
		m.w.fail(CheckMetad, "a backup is not restored: %v", err)
		return false
	}
	x.Reopen([16]byte{1})
	md.restored, md.restore = true, &restoring{m: x, told: make(map[cluster.StoreRef]bool)}
	md.rebuild()
	return true
}

// rebuild has stores tell what they have, until all have.
func (m *metad) rebuild() {
	w, r := m.w, m.restore
	waits := false
	for _, st := range w.allStores() {
		switch {
		case r.told[st.ref]:
		case !st.up || st.died != "" || st.h.paused || w.oneIn(3):
			waits = true
		default:
			inventory := st.tell()
			lineages, archives, err := reconcile.Told(inventory)
			if err != nil {
				w.fail(CheckWire, "%s: %v", st.name, err)
				return
			}
			if len(lineages.Volumes) > 0 {
				m.applyTo(r.m, lineages)
			}
			if len(archives.Volumes) > 0 {
				m.applyTo(r.m, archives)
			}
			m.applyTo(r.m, inventory)
			r.told[st.ref] = true
			st.core.Seal(st.newest())
			w.log("%s tells what it has", st.name)
		}
	}
	if waits {
		w.after(20*time.Millisecond, "stores tell what they have", m.rebuild)
		return
	}
	f := &state.FinishRebuild{}
	for _, s := range r.m.Untold() {
		f.Without = append(f.Without, s.Store)
	}
	m.applyTo(r.m, f)
	before := m.m
	m.m, m.restore = r.m, nil
	for _, st := range w.allStores() {
		if st.up && st.died == "" {
			st.core.Unseal(m.floors())
		}
	}
	m.reign()
	w.log("metad is restored: %+v", m.m.Rebuild().Found)
	for _, d := range slices.Clone(w.disks) {
		m.forgotten(before, d)
		d.restored()
	}
	for _, d := range slices.Clone(w.disks) {
		if v, ok := m.m.Volume(d.id); ok && !v.Deleted {
			d.restoredTrash(v)
		}
		d.askAgain()
	}
}

// newest is the newest version of each placement group that the store's host knows, and so tells of.
func (st *store) newest() map[id.PG]uint32 {
	if t := st.h.top; t != nil {
		return cluster.NewestVersions(t.PGs)
	}
	return nil
}

// floors are the epochs of all volumes, which a host's stores are given when it registers, and by the
// first answer to its heartbeats after a restoration.
func (m *metad) floors() map[id.Volume]id.Epoch {
	out := make(map[id.Volume]id.Epoch)
	for _, v := range m.m.Volumes() {
		out[v.ID] = v.Epoch
	}
	return out
}

// forgotten notes the ensembles that the state names again, though they had left the list since the backup.
func (m *metad) forgotten(before *state.Machine, d *disk) {
	was, _ := before.Volume(d.id)
	is, ok := m.m.Volume(d.id)
	if !ok || was == nil {
		return
	}
	for _, e := range is.List {
		_, had := was.Ensemble(e.ID)
		if !had {
			m.left[ensembleName{d.id, e.ID}] = true
		}
		m.w.log("%s: the list has %s, found %t, closed %t, had %t", d.name, e.ID, e.Found, e.Closed, had)
	}
}

// ensembleName names an ensemble in the world.
type ensembleName struct {
	volume   id.Volume
	ensemble id.Ensemble
}

// applyTo commits a command of a rebuilding; it must be taken.
func (m *metad) applyTo(x *state.Machine, c state.Command) {
	c, err := state.Decode(state.Encode(c))
	if err != nil {
		m.w.fail(CheckMetad, "a command of a rebuilding is not read back: %v", err)
		return
	}
	m.index++
	if r := x.Apply(m.index, c); r.Err != nil {
		m.w.fail(CheckRestore, "%T: %v", c, r.Err)
	}
}

// restored looks for a disk in the state that was restored.
func (d *disk) restored() {
	v, ok := d.w.metad.m.Volume(d.id)
	switch {
	case ok && !v.Deleted:
		f := d.from
		switch {
		case d.forgotAllotment(v) && d.served == 0, d.held && d.allotted != nil && v.Restored == nil:
			if r := d.w.metad.apply(&state.DeleteVolume{Volume: d.id, Epoch: v.Epoch}); r.Err != nil {
				d.w.fail(CheckRestore, "%s: %v", d.name, r.Err)
			}
			d.end()
		case d.forgotAllotment(v):
			d.w.fail(CheckRestore, "nobody knows any more that %s lies in an archive", d.name)
		case f == nil || v.Origin != nil && v.Origin.Snapshot == f.id:
		case d.served == 0: // it was being opened for the first time: who made it finds an empty disk of another name
			if r := d.w.metad.apply(&state.DeleteVolume{Volume: d.id, Epoch: v.Epoch}); r.Err != nil {
				d.w.fail(CheckRestore, "%s: %v", d.name, r.Err)
			}
			d.end()
		default:
			d.w.fail(CheckRestore, "nobody knows any more that %s began with snapshot %s: %+v", d.name, f, v.Origin)
		}
	case d.served > 0:
		d.w.fail(CheckRestore, "%s is lost", d.name)
	default: // nobody ever opened it
		d.w.log("%s is forgotten", d.name)
		d.end()
	}
}

// askAgain asks for what metad cannot know: snapshots that were asked for, or deleted, since the backup.
func (d *disk) askAgain() {
	m := d.w.metad
	v, _ := m.m.Volume(d.id)
	for _, s := range v.Snapshots {
		if d.snap(s.ID) == nil { // it was deleted
			d.snaps = append(d.snaps, &snap{id: s.ID, begun: d.model.Reading(), model: d.model, seen: make(map[uint64]cells), dropped: true})
		}
	}
	for _, s := range d.snaps {
		if !d.retired && !slices.ContainsFunc(v.Snapshots, func(x cluster.Snapshot) bool { return x.ID == s.id }) {
			if s.clones > 0 {
				d.w.fail(CheckRestore, "nobody knows snapshot %s any more, which %d clones began with", s, s.clones)
			}
			if r := m.apply(&state.CreateSnapshot{Volume: d.id, ID: s.id, NowMS: 1}); r.Err != nil {
				d.w.fail(CheckRestore, "%s: snapshot %s is refused when it is asked for again: %v", d.name, s, r.Err)
			}
		}
		if s.dropped {
			d.forgetArchive(s)
			d.drop(s)
		}
	}
}

// tell gives what a store has, as its blockd finds it out.
func (st *store) tell() *state.TellInventory {
	out := &state.TellInventory{Store: st.ref, Last: true}
	all := make(map[id.Volume]*state.Sighting)
	of := func(v id.Volume) *state.Sighting {
		if all[v] == nil {
			all[v] = &state.Sighting{Volume: v}
		}
		return all[v]
	}
	for v, f := range st.img.fences {
		of(v).Fence = f.Epoch
	}
	st.tellStreams(of)
	groups := make(map[state.GroupSighting]bool)
	for n, sh := range st.img.shards {
		s := of(sh.head.Volume)
		s.Shards++
		s.LastSequence = max(s.LastSequence, n.Segment.Sequence())
		groups[state.GroupSighting{PG: n.Segment.PG(), Version: sh.head.PGVersion, K: sh.head.K, M: sh.head.M, Index: n.Index}] = true
	}
	for _, v := range slices.SortedFunc(maps.Keys(all), func(a, b id.Volume) int { return bytes.Compare(a[:], b[:]) }) {
		out.Volumes = append(out.Volumes, *all[v])
	}
	out.Groups = slices.SortedFunc(maps.Keys(groups), func(a, b state.GroupSighting) int {
		return cmp.Or(cmp.Compare(a.PG, b.PG), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Index, b.Index), cmp.Compare(a.K, b.K), cmp.Compare(a.M, b.M))
	})
	if t := st.h.top; t != nil {
		for _, p := range t.PGs {
			for _, v := range p.Versions {
				out.Known = append(out.Known, state.KnownGroup{PG: p.Number, Version: v})
			}
		}
	}
	return out
}

// tellStreams adds how far streams go, and the highest checkpoint that they have. Also those are told of that are not durable
// yet: they will be, and something may be acknowledged there.
func (st *store) tellStreams(of func(id.Volume) *state.Sighting) {
	st.streams(func(x *score.Stream) {
		n := x.Row().Stream
		s := of(n.Volume)
		i := slices.IndexFunc(s.Streams, func(y state.StreamSighting) bool { return y.Ensemble == n.Ensemble })
		if i < 0 {
			i = len(s.Streams)
			s.Streams = append(s.Streams, state.StreamSighting{Ensemble: n.Ensemble})
		}
		if n.Kind == storeproto.Journal {
			s.Streams[i].Tail = x.Durable()
			return
		}
		s.Streams[i].Meta = x.Durable()
		for _, first := range slices.Sorted(maps.Keys(st.img.metas[n])) {
			st.tellCheckpoints(s, st.img.metas[n][first])
		}
	})
}

func (st *store) tellCheckpoints(s *state.Sighting, b *storeproto.Batch) {
	records, err := record.ReadMeta("meta stream", b.Meta, b.First, b.Count)
	if err != nil {
		st.w.fail(CheckWire, "%s has a meta batch that cannot be read: %v", st.name, err)
	}
	for _, r := range records {
		if c := r.Checkpoint; c != nil {
			s.Size = max(s.Size, uint64(c.Blocks)*block.Size)
			next := cluster.Checkpoint{Epoch: c.Epoch, Meta: c.Meta, Covered: c.Covered, Opaque: record.EncodeCheckpoint(c)}
			if s.Checkpoint == nil || next.Above(*s.Checkpoint) {
				s.Checkpoint = &next
			}
		}
	}
}
