package sim

import (
	"fmt"
	"slices"

	jlog "ashlar.dev/blockd/chunk/log"
	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/storeproto"
	score "ashlar.dev/pkg/storeproto/core"
)

// Check names an invariant. README.md says which of the architecture's it is and how it is tried.
type Check string

// The checkers. All are on in every world.
const (
	CheckRegister  Check = "every block is a register"
	CheckTwo       Check = "acknowledged means durable on two stores"
	CheckRun       Check = "a recovered run has all that was acknowledged"
	CheckFence     Check = "nothing older is taken after a fence was answered"
	CheckPersist   Check = "what is told is persisted"
	CheckReleased  Check = "released only after a durable commit"
	CheckDrop      Check = "no stream of the list is dropped"
	CheckNames     Check = "no name is given twice"
	CheckReachable Check = "nothing reachable is deleted"
	CheckReads     Check = "reads are right with up to m shards gone"
	CheckWhole     Check = "in the end every segment has all its shards"
	CheckSpace     Check = "dead space comes back"
	CheckMetadDown Check = "I/O goes on with metad down"
	CheckMetad     Check = "the log and its snapshots are one state"
	CheckOnce      Check = "every request ends once"
	CheckHeal      Check = "what can heal heals"
	CheckWire      Check = "bytes on their way do not change"
	CheckRescue    Check = "a journal that nobody looks after is rescued"
	CheckMend      Check = "only wrong shards are replaced, by right ones"
	CheckTrash     Check = "what is in the trash comes back as it was, until its time is over"
	CheckArchive   Check = "what is archived is whole, and stays as long as somebody needs it"
	CheckSnapshots Check = "a snapshot never changes, and goes only when it is dropped"
	CheckClones    Check = "a clone begins as its snapshot was, which stays as long as it does"
	CheckRollback  Check = "a disk goes back to a snapshot, and what it was is kept"
	CheckDeleted   Check = "nothing is left of a deleted disk"
	CheckRestore   Check = "a restored metad knows all that served"
	CheckWorld     Check = "the world itself"
)

// Checks are all of them.
var Checks = []Check{CheckRegister, CheckTwo, CheckRun, CheckFence, CheckPersist, CheckReleased, CheckDrop, CheckNames, CheckReachable,
	CheckReads, CheckWhole, CheckSpace, CheckMetadDown, CheckMetad, CheckOnce, CheckHeal, CheckWire, CheckRescue, CheckMend, CheckSnapshots, CheckClones,
	CheckRollback, CheckDeleted, CheckRestore, CheckWorld}

// ledger is what was promised, and by whom.
type ledger struct {
	w        *World
	sums     map[batchName]sentBatch           // every batch ever sent
	copies   map[batchName]map[id.Store]bool   // where it was durable
	counted  map[storeStream]id.LSN            // as far as copies has what a store told
	at       map[recordName]batchName          // the batch that begins at an LSN of an epoch
	acks     map[id.Volume]map[id.Epoch]id.LSN // the highest that was acknowledged
	runs     map[id.Volume]map[id.Epoch]id.LSN // where the run of an opening ended
	covers   map[id.Volume]map[id.LSN]map[id.Store]bool
	covered  map[id.Volume]id.LSN // by a commit that two stores have
	answered map[id.Store]map[id.Volume]id.Epoch
	next     id.Sequence
	owners   map[id.Sequence]allotment // by first
	firsts   []id.Sequence
	put      map[segmentName]*core.PackJob
}

type batchName struct {
	volume id.Volume
	kind   storeproto.Kind
	epoch  id.Epoch
	first  id.LSN
	count  uint32
}

// sentBatch is what a batch was, and how long what the log has of it is.
type sentBatch struct {
	sum           uint32
	head, payload int64
}

type storeStream struct {
	store  id.Store
	stream storeproto.Stream
}

type recordName struct {
	volume id.Volume
	epoch  id.Epoch
	first  id.LSN
}

type allotment struct {
	volume id.Volume
	epoch  id.Epoch
	end    id.Sequence
}

type segmentName struct {
	segment    id.Segment
	generation id.Generation
}

func (l *ledger) init(w *World) {
	*l = ledger{w: w, sums: make(map[batchName]sentBatch), copies: make(map[batchName]map[id.Store]bool), counted: make(map[storeStream]id.LSN), at: make(map[recordName]batchName),
		acks: make(map[id.Volume]map[id.Epoch]id.LSN), runs: make(map[id.Volume]map[id.Epoch]id.LSN),
		covers: make(map[id.Volume]map[id.LSN]map[id.Store]bool), covered: make(map[id.Volume]id.LSN),
		answered: make(map[id.Store]map[id.Volume]id.Epoch), owners: make(map[id.Sequence]allotment), put: make(map[segmentName]*core.PackJob)}
}

func nameOf(s storeproto.Stream, b *storeproto.Batch) batchName {
	return batchName{s.Volume, s.Kind, b.Epoch, b.First, b.Count}
}

// sent: a batch leaves an engine; its name stands for its content.
func (l *ledger) sent(e *engine, a *storeproto.Append) {
	n := nameOf(a.Stream, a.Batch)
	if have, ok := l.sums[n]; ok && have.sum != a.Batch.Sum {
		l.w.fail(CheckNames, "%s sends batch %+v with another content", e.name, n)
	}
	b := a.Batch
	l.sums[n] = sentBatch{b.Sum, int64(storeproto.HeaderSize + len(b.Meta) + 4*len(b.Sums)), int64(len(b.Sums) * jlog.Block)}
	if n.kind == storeproto.Journal {
		l.at[recordName{n.volume, n.epoch, n.first}] = n
	}
}

// durable: a store is about to tell that op is.
func (l *ledger) durable(st *store, op *score.Op) {
	switch op.Kind {
	case score.OpAppend:
		l.appendDurable(st, op)
	case score.OpDrop:
		l.dropped(st, op)
	}
}

func (l *ledger) appendDurable(st *store, op *score.Op) {
	a := op.Append
	n := nameOf(a.Stream, a.Batch)
	l.copy(st, n)
	if a.Stream.Kind == storeproto.Meta {
		l.metaDurable(st, a)
		return
	}
	l.safe(st, n, op.Pos)
	if a.Released >= op.Stream.Row().Base && a.Released > l.covered[n.volume] {
		l.w.fail(CheckReleased, "%s is told to forget up to %d of %s; commits that two stores have cover %d", st.name, a.Released, l.w.disk(n.volume).name, l.covered[n.volume])
	}
}

// copy notes that a store has a batch.
func (l *ledger) copy(st *store, n batchName) {
	if l.copies[n] == nil {
		l.copies[n] = make(map[id.Store]bool)
	}
	l.copies[n][st.ref.Store] = true
}

// safe demands that a batch of the journal is on the store's disk.
func (l *ledger) safe(st *store, n batchName, at score.Position) {
	file, b := fmt.Sprintf("log/%06d.log", at.File), l.sums[n]
	if !st.fs.isSafe(file, int64(at.Head), b.head) || !st.fs.isSafe(file, int64(at.Payload), b.payload) {
		l.w.fail(CheckPersist, "%s tells batch %+v durable, and a loss of power would take it", st.name, n)
	}
}

// metaDurable looks at what the meta stream releases, and notes what it covers.
func (l *ledger) metaDurable(st *store, a *storeproto.Append) {
	l.covering(st, a.Stream.Volume, a.Batch)
	committed := id.LSN(0)
	if x, ok := l.w.metad.m.Volume(a.Stream.Volume); ok && x.Checkpoint != nil {
		committed = x.Checkpoint.Meta
	}
	if a.Released > committed {
		l.w.fail(CheckReleased, "%s is told to forget meta records up to %d, metad's checkpoint is at %d", st.name, a.Released, committed)
	}
}

// covering notes what the commits and checkpoints of a durable batch cover.
func (l *ledger) covering(st *store, v id.Volume, b *storeproto.Batch) {
	records, err := record.ReadMeta("meta batch", b.Meta, b.First, b.Count)
	if err != nil {
		l.w.fail(CheckWire, "%s has a meta batch that cannot be read: %v", st.name, err)
	}
	for _, r := range records {
		covered := id.LSN(0)
		if r.Commit != nil {
			covered = r.Commit.Covered
		} else if r.Checkpoint != nil {
			covered = r.Checkpoint.Covered
		}
		if covered <= l.covered[v] {
			continue
		}
		if l.covers[v] == nil {
			l.covers[v] = make(map[id.LSN]map[id.Store]bool)
		}
		if l.covers[v][covered] == nil {
			l.covers[v][covered] = make(map[id.Store]bool)
		}
		l.covers[v][covered][st.ref.Store] = true
		if len(l.covers[v][covered]) >= 2 {
			l.covered[v] = covered
		}
	}
}

// dropped: streams that metad's list names are needed by the next opening.
func (l *ledger) dropped(st *store, op *score.Op) {
	for _, row := range op.Control.Dropped {
		v, ok := l.w.metad.m.Volume(row.Stream.Volume)
		if !ok || v.Deleted {
			continue
		}
		e, listed := v.Ensemble(row.Stream.Ensemble)
		asked := e.Stores
		if e.Closed {
			asked = e.Holders
		}
		if listed && !l.w.metad.left[ensembleName{v.ID, e.ID}] && e.ID.Epoch == v.List[0].ID.Epoch && slices.Contains(asked, st.ref) {
			l.w.fail(CheckDrop, "%s drops %s %s, which the list of %s names", st.name, e.ID, row.Stream.Kind, l.w.disk(v.ID).name)
		}
	}
}

// fenced: a store is about to answer a fence.
func (l *ledger) fenced(st *store, f *storeproto.Fence) {
	if have := st.img.fences[f.Volume].Epoch; have < f.Epoch {
		l.w.fail(CheckPersist, "%s answers the fence at %s with %s persisted", st.name, f.Epoch, have)
	}
	if l.answered[st.ref.Store] == nil {
		l.answered[st.ref.Store] = make(map[id.Volume]id.Epoch)
	}
	l.answered[st.ref.Store][f.Volume] = max(l.answered[st.ref.Store][f.Volume], f.Epoch)
}

// appended: a store is about to tell an append durable.
func (l *ledger) appended(st *store, a *storeproto.Append) {
	if at := l.answered[st.ref.Store][a.Stream.Volume]; a.Epoch < at {
		l.w.fail(CheckFence, "%s takes an append of %s after it answered the fence at %s", st.name, a.Epoch, at)
	}
	s, at := st.core.Stream(a.Stream), storeStream{st.ref.Store, a.Stream}
	if s == nil {
		return
	}
	s.Batches(l.counted[at]+1, func(b score.Batch) bool {
		if b.First <= a.Batch.First {
			l.found(st, a.Stream, b)
		}
		return b.First < a.Batch.First
	})
	l.counted[at] = max(l.counted[at], a.Batch.Last())
}

// found: a success tells that a store has all up to there, also what got through before a crash
// of which it never said so.
func (l *ledger) found(st *store, stream storeproto.Stream, b score.Batch) {
	n := batchName{stream.Volume, stream.Kind, b.Epoch, b.First, b.Count}
	if l.copies[n][st.ref.Store] || l.sums[n].sum != b.Sum {
		return
	}
	l.copy(st, n)
	if n.kind == storeproto.Journal {
		l.safe(st, n, b.Pos)
	} else if have := st.img.metas[stream][b.First]; have != nil {
		l.covering(st, n.volume, have)
	}
}

// stepped looks at what an engine has acknowledged since.
func (l *ledger) stepped(e *engine) {
	if !e.counted || e.dead {
		return
	}
	acked := e.core.Stats().JournalAcked
	v := e.disk.id
	for e.acked < acked {
		n, ok := l.at[recordName{v, e.epoch, e.acked + 1}]
		if !ok || len(l.copies[n]) < 2 {
			l.w.fail(CheckTwo, "%s acknowledges record %d, which %d stores have", e.name, e.acked+1, len(l.copies[n]))
			return
		}
		e.acked += id.LSN(n.count)
		for epoch, end := range l.runs[v] {
			if epoch > e.epoch && end < e.acked {
				l.w.fail(CheckFence, "%s acknowledges record %d, and %s was opened up to %d", e.name, e.acked, epoch, end)
			}
		}
	}
	if l.acks[v] == nil {
		l.acks[v] = make(map[id.Epoch]id.LSN)
	}
	l.acks[v][e.epoch] = max(l.acks[v][e.epoch], acked)
}

// opened: the run has everything acknowledged, and nothing that was never sent.
func (l *ledger) opened(e *engine, o *journal.Opened) {
	v := e.disk.id
	end := o.Next[storeproto.Journal] - 1
	for epoch, acked := range l.acks[v] {
		if epoch < e.epoch && acked > end {
			l.w.fail(CheckRun, "%s is opened up to record %d, %s acknowledged up to %d", e.name, end, epoch, acked)
		}
	}
	for k, run := range [][]*storeproto.Batch{storeproto.Journal: o.Journal, storeproto.Meta: o.Meta} {
		next, last := id.LSN(0), id.Epoch(0)
		for _, b := range run {
			n := batchName{v, storeproto.Kind(k), b.Epoch, b.First, b.Count}
			if have, ok := l.sums[n]; !ok || have.sum != b.Sum {
				l.w.fail(CheckRun, "%s recovers batch %+v that nobody sent", e.name, n)
			}
			if next != 0 && b.First != next || b.Epoch < last {
				l.w.fail(CheckRun, "%s recovers batch %+v where %d is due", e.name, n, next)
			}
			next, last = b.Last()+1, b.Epoch
		}
	}
	if l.runs[v] == nil {
		l.runs[v] = make(map[id.Epoch]id.LSN)
	}
	l.runs[v][e.epoch] = end
	e.acked, e.counted = end, true
	l.w.log("%s recovers up to %d", e.name, end)
}

func (l *ledger) ended(*engine, error) {}

func (l *ledger) drained(*engine) {}

func (l *ledger) removed(*store, *shard) {}

// allotted: metad hands sequences out, each once.
func (l *ledger) allotted(v id.Volume, e id.Epoch, first id.Sequence, count uint32) {
	if first < l.next {
		l.w.fail(CheckNames, "metad hands out sequence %d again", first)
	}
	l.next = first + id.Sequence(count)
	l.owners[first] = allotment{v, e, l.next}
	l.firsts = append(l.firsts, first)
}

// packing: an engine gives a segment a name.
func (l *ledger) packing(e *engine, j *core.PackJob) {
	n := segmentName{j.Segment, j.Entry.Generation}
	if have := l.put[n]; have != nil && have != j {
		l.w.fail(CheckNames, "%s gives the name %s %s again", e.name, j.Segment, j.Entry.Generation)
	}
	l.put[n] = j
	if j.Entry.Generation.Epoch != e.epoch {
		l.w.fail(CheckNames, "%s makes generation %s", e.name, j.Entry.Generation)
	}
	s := j.Segment.Sequence()
	i, _ := slices.BinarySearch(l.firsts, s+1)
	if i == 0 || l.owners[l.firsts[i-1]].volume != e.disk.id || s >= l.owners[l.firsts[i-1]].end {
		l.w.fail(CheckNames, "%s uses sequence %d, which is not its disk's", e.name, s)
	}
}
