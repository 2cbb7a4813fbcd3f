package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

var update = flag.Bool("update", false, "write the golden files anew")

// script draws commands that make sense often enough to get deep.
type script struct {
	t *rapid.T
	m *Machine // to look at, never to change
}

func (s *script) pick(what string, n int) int {
	if n == 0 {
		return 0
	}
	return rapid.IntRange(0, n-1).Draw(s.t, what)
}

func (s *script) volume() *Volume {
	vs := s.m.Volumes()
	if len(vs) == 0 {
		return &Volume{}
	}
	return vs[s.pick("volume", len(vs))]
}

// epoch is mostly the present one.
func (s *script) epoch(v *Volume) id.Epoch {
	if s.pick("stale", 6) == 0 && v.Epoch > 0 {
		return v.Epoch - 1
	}
	return v.Epoch
}

func (s *script) at(v *Volume) At {
	a := At{Volume: v.ID, Epoch: s.epoch(v), Version: v.ListVersion}
	if s.pick("old version", 6) == 0 {
		a.Version--
	}
	return a
}

func (s *script) ensemble(v *Volume) cluster.Ensemble {
	if len(v.List) == 0 {
		return cluster.Ensemble{ID: id.Ensemble{Epoch: 1, N: 1}}
	}
	return v.List[s.pick("ensemble", len(v.List))]
}

func (s *script) store() cluster.StoreRef {
	r := storeRef(s.pick("host", 4)+1, s.pick("store", 2)+1)
	r.Incarnation[0] = byte(s.pick("incarnation", 8)/7 + 1)
	return r
}

func (s *script) holder() id.Holder {
	h := s.pick("host", 4) + 1
	x, _ := s.m.Host(hostName(h))
	return holder(h, max(x.HolderNumber, 1))
}

// later is a command of a later level, or what makes it known.
func (s *script) later() Command {
	if s.pick("raise", 2) == 0 {
		return &SetLevel{Level: uint16(1 + s.pick("level", int(LevelNewest)))}
	}
	if s.pick("cordon", 3) == 0 {
		return &CordonHost{Host: s.holder().Host, On: s.pick("on", 2) == 0}
	}
	if s.pick("remove", 6) == 0 {
		h := s.holder()
		return &RemoveHost{Host: h.Host, Number: h.Number, AtMS: int64(1 + s.pick("at", 9))}
	}
	v, n := s.volume(), id.Snapshot{1 + byte(s.pick("snapshot", 3))}
	if s.pick("of lineage", 4) == 0 {
		return s.flattenOr(v, s.lineage)
	}
	switch s.pick("of a snapshot", 25) {
	case 21, 22, 23, 24:
		return s.ofTrash(v, n)
	case 15, 16, 17:
		return s.ofImages(v, n)
	case 18, 19:
		return &RetireVolume{Volume: v.ID, Epoch: s.epoch(v), Forced: s.pick("force", 2) == 0, Snapshots: SnapshotsOfDeleted(s.pick("mode", 4)), NowMS: 11}
	case 20:
		if s.pick("protect", 2) == 0 {
			return &SetProtection{Volume: v.ID, On: s.pick("on", 2) == 0}
		}
		return &VolumeEmptied{Volume: v.ID, Epoch: s.epoch(v)}
	case 13, 14:
		return s.ofPolicies(v, n)
	case 11:
		return &CreateSnapshots{Members: s.group(v, n), NowMS: 9}
	case 12:
		return &EndSnapshots{Members: s.group(v, n), OK: s.pick("ok", 2) == 0, Name: fmt.Sprintf("s%d", s.pick("name", 3))}
	case 8:
		return &CreateRestored{Create: CreateVolume{ID: id.Volume{byte(s.pick("id", 40))}, Name: fmt.Sprintf("v%d", s.pick("name", 9)), Size: 1 << 30,
			RequestID: fmt.Sprint(s.pick("request", 3))}, Manifest: "m", Segments: uint32(s.pick("segments", 3)), PGs: []id.PG{id.PG(s.pick("pg", 3))}}
	case 9:
		return &RestoreWhole{Volume: v.ID, Epoch: s.epoch(v)}
	case 10:
		return &SetHydrate{Volume: v.ID, Rate: 9}
	case 0, 1:
		return &CreateSnapshot{Volume: v.ID, ID: n, Name: fmt.Sprintf("s%d", s.pick("name", 3)), NowMS: 9}
	case 2:
		return &SnapshotTaken{Volume: v.ID, ID: n}
	case 3:
		return &DeleteSnapshot{Volume: v.ID, ID: n}
	case 4:
		return &SnapshotGone{Volume: v.ID, Epoch: s.epoch(v), ID: n}
	case 5:
		return &QueueArchive{Volume: v.ID, ID: n, Upload: id.Raw{byte(s.pick("upload", 3))}}
	case 6:
		return &LeaseArchive{Volume: v.ID, ID: n, Worker: "s", Epoch: uint64(s.pick("lease", 3))}
	case 7:
		return &EndArchive{Volume: v.ID, ID: n, Epoch: uint64(s.pick("lease", 3)), State: cluster.ArchiveState(s.pick("state", 6)), Manifest: "m", Reason: "r"}
	}
	return &AddEvents{Events: []Event{{AtMS: 1, Severity: Severity(s.pick("severity", 5)), Kind: "k", About: "disk", Text: "x",
		Origin: EventOrigin{Holder: s.holder(), N: uint64(s.pick("n", 4))}}}}
}

// ofPolicies draws something about a policy.
func (s *script) ofPolicies(v *Volume, n id.Snapshot) Command {
	name, x := fmt.Sprintf("p%d", s.pick("policy", 2)), id.Raw{1 + byte(s.pick("id", 2))}
	due := time.UnixMilli(1000 * int64(s.pick("due", 5))).UTC()
	switch s.pick("of a policy", 8) {
	case 6, 7:
		return &SetPolicyHook{Policy: name, Hook: PolicyHook{Volume: v.ID, Host: "h", Hook: "x", Timeout: time.Second * time.Duration(s.pick("timeout", 3))}, Off: s.pick("off", 4) == 0}
	case 0:
		return &DeletePolicy{Name: name}
	case 1:
		return &ApplyPolicy{Name: name, Volumes: []id.Volume{v.ID}, Off: s.pick("off", 3) == 0}
	case 2:
		return &PolicyBegins{Policy: x, Due: due, Made: []policy.Made{{Volume: v.ID, Snapshot: n, Due: due}}, Skipped: []string{"", "late"}[s.pick("skipped", 2)]}
	case 3:
		return &PolicyRan{Policy: x, Run: PolicyRun{Due: due, Taken: 1, Failed: 1, Failures: []RunFailure{{v.ID, "x"}}}}
	case 4:
		return &PolicyForgets{Policy: x, Snapshots: []id.Snapshot{n}}
	}
	return &SetPolicy{ID: x, Name: name, Rules: policy.Rules{At: []uint16{5}, Days: policy.EveryDay, Keep: 1 + s.pick("keep", 3)}, NowMS: 7, New: s.pick("new", 2) == 0}
}

// group draws the snapshots of one or two disks.
func (s *script) group(v *Volume, n id.Snapshot) []GroupMember {
	w := s.volume()
	return []GroupMember{{v.ID, n, s.epoch(v)}, {w.ID, n, s.epoch(w)}}[:1+s.pick("members", 2)]
}

func (s *script) command() Command {
	v := s.volume()
	switch s.pick("command", 21) {
	case 19, 20:
		return s.later()
	case 0:
		h := s.holder()
		c := &RegisterHost{Holder: h, Zone: fmt.Sprintf("z%d", s.pick("zone", 2))}
		c.Holder.Number += uint64(s.pick("life", 2))
		for i := range 2 {
			r := storeRef(int(h.Host[1]-'0'), i+1)
			r.Incarnation[0] = byte(s.pick("incarnation", 8)/7 + 1)
			c.Stores = append(c.Stores, RegisterStore{StoreRef: r, Capacity: 1 << 30, MayMove: s.pick("move", 2) == 0})
		}
		return c
	case 1, 2:
		return &CreateVolume{ID: id.Volume{byte(s.pick("id", 256))}, Name: fmt.Sprintf("d%d", s.pick("name", 6)), Size: uint64(1+s.pick("size", 4)) << 20}
	case 3:
		if rate := 50 * uint64(s.pick("rate", 4)); rate > 0 {
			return &SetQoS{Volume: v.ID, Change: cluster.QoSChange{IOPS: &rate, IOPSBurst: new(uint64)}}
		}
		return &ResizeVolume{Volume: v.ID, Size: uint64(1+s.pick("size", 8)) << 20}
	case 4:
		return &DeleteVolume{Volume: v.ID, Epoch: s.epoch(v), Forced: s.pick("force", 2) == 0}
	case 5, 6:
		c := &Acquire{Volume: v.ID, By: s.holder()}
		if s.pick("silent", 2) == 0 {
			c.Gone = v.Owner
		}
		return c
	case 7:
		return &Release{Volume: v.ID, Epoch: s.epoch(v), By: v.Owner}
	case 8, 9:
		c := &AddEnsemble{At: s.at(v), Want: 3, Fallback: 2, Seed: uint64(s.pick("seed", 100)), Better: s.pick("better", 4) == 0}
		for _, x := range s.m.Stores() {
			if s.pick("up", 4) > 0 {
				c.Candidates = append(c.Candidates, EnsembleCandidate{StoreRef: x.StoreRef, Load: uint64(s.pick("load", 3))})
			}
		}
		return c
	case 10:
		e := s.ensemble(v)
		from, meta := id.LSN(1+s.pick("from", 5)), id.LSN(1+s.pick("meta", 5))
		return &CloseEnsemble{At: s.at(v), Ensemble: e.ID, From: from, To: from + id.LSN(s.pick("to", 5)), MetaFrom: meta, MetaTo: meta + id.LSN(s.pick("to", 5)),
			Holders: e.Stores[:min(2, len(e.Stores))]}
	case 11:
		return &RemoveEnsembles{At: s.at(v), Ensembles: []id.Ensemble{s.ensemble(v).ID}, Released: id.LSN(s.pick("released", 12))}
	case 12:
		return &ReplaceList{At: s.at(v), Keep: s.ensemble(v).ID}
	case 13:
		if s.pick("forget", 4) == 0 {
			return &ForgetSpans{Volume: v.ID, Epoch: s.epoch(v), Below: s.epoch(v)}
		}
		return &AllocRange{Volume: v.ID, Epoch: s.epoch(v)}
	case 14:
		return &CommitCheckpoint{Volume: v.ID, Epoch: s.epoch(v), Checkpoint: cluster.Checkpoint{Epoch: s.epoch(v), Meta: id.LSN(s.pick("meta", 12)), Opaque: []byte("x")}}
	case 15:
		c := &EnsurePlacement{Seed: uint64(s.pick("seed", 100))}
		for _, x := range s.m.Stores() {
			if s.pick("up", 4) > 0 {
				c.Healthy = append(c.Healthy, x.StoreRef)
			}
		}
		return c
	case 16, 17:
		return s.mending()
	default:
		return s.rare(v)
	}
}

func (s *script) rare(v *Volume) Command {
	switch s.pick("rare", 3) {
	case 0:
		return &LoseStore{Store: s.store()}
	case 1:
		return &AcceptLoss{Volume: v.ID, Ensemble: s.ensemble(v).ID, By: "ann"}
	}
	return &ConfirmPurge{Store: s.store(), Volume: v.ID}
}

// mending is a command that moves groups or lets stores leave.
func (s *script) mending() Command {
	var refs []cluster.StoreRef
	for _, x := range s.m.Stores() {
		refs = append(refs, x.StoreRef)
	}
	kind := s.pick("mending", 5)
	if kind == 0 || len(s.m.PGs()) == 0 {
		return &MarkStore{Store: s.store(), Leaving: s.pick("leaving", 2) == 0, Out: s.pick("out", 2) == 0}
	}
	p := s.m.PGs()[s.pick("group", len(s.m.PGs()))]
	at := p.Current().Version - uint32(s.pick("stale", 8)/7)
	switch kind {
	case 1:
		if c := s.m.PlanMove(p.Number, refs, uint64(s.pick("seed", 100))); c != nil {
			return c
		}
	case 2:
		return &ForgetVersions{PG: p.Number, At: at}
	case 3:
		return &RemoveStore{Store: s.store()}
	}
	c := &MoveGroup{PG: p.Number, At: at, Stores: slices.Clone(p.Current().Stores)}
	if len(refs) > 0 {
		c.Stores[s.pick("slot", len(c.Stores))] = refs[s.pick("to", len(refs))]
	}
	return c
}

// history is the model: what may never be taken back.
type history struct {
	epochs    map[id.Volume]id.Epoch
	owners    map[id.Volume]map[id.Epoch]id.Holder
	ensembles map[id.Volume]map[id.Ensemble][]cluster.StoreRef
	sequence  id.Sequence
	volumes   map[id.Volume]bool // ever seen
	gone      map[id.Volume]bool
	groups    map[id.PG][]cluster.PGVersion
}

// TestModel plays random logs against the promises: epochs only rise, an epoch has one
// owner for ever, ensemble ids and sequences and volume ids are given once, a refused
// command changes nothing, groups are permanent; and two machines that apply the same
// log, one of them through a snapshot, are the same to the byte.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := New(), New()
		init := &Init{ClusterID: [16]byte{1}, Settings: DefaultSettings}
		a.Apply(1, init)
		b.Apply(1, init)
		h := &history{epochs: map[id.Volume]id.Epoch{}, owners: map[id.Volume]map[id.Epoch]id.Holder{},
			ensembles: map[id.Volume]map[id.Ensemble][]cluster.StoreRef{}, sequence: 1,
			volumes: map[id.Volume]bool{}, gone: map[id.Volume]bool{}, groups: map[id.PG][]cluster.PGVersion{}}
		steps := rapid.IntRange(1, 70).Draw(rt, "steps")
		for i := range steps {
			s := &script{t: rt, m: a}
			c := s.command()
			before := a.Snapshot()
			index := uint64(i + 2)
			ra, rb := a.Apply(index, c), b.Apply(index, c)
			if fmt.Sprint(ra.Err) != fmt.Sprint(rb.Err) || ra.First != rb.First {
				rt.Fatalf("%T: results differ: %v and %v", c, ra.Err, rb.Err)
			}
			if ra.Err != nil {
				after := *a
				after.index = index - 1
				if !bytes.Equal(before, after.Snapshot()) {
					rt.Fatalf("%T was refused (%v) and changed the state", c, ra.Err)
				}
			}
			if i%10 == 0 {
				var err error
				if b, err = Restore(b.Snapshot()); err != nil {
					rt.Fatal(err)
				}
			}
			if !bytes.Equal(a.Snapshot(), b.Snapshot()) {
				rt.Fatalf("after %T the machines differ", c)
			}
			h.check(rt, a, c, ra)
		}
	})
}

// needed: what a clone began with is there, and of a deleted disk that is kept something is needed.
func needed(t *rapid.T, m *Machine, v *Volume) {
	if o := v.Origin; o != nil && !v.Deleted {
		p, ok := m.Volume(o.Volume)
		if !ok || p.Deleted {
			t.Fatalf("volume %s is there and what it began with is not", v.ID)
		}
		if s, ok := p.FindSnapshot(o.Snapshot.String()); !ok || s.State == cluster.SnapshotDeleting {
			t.Fatalf("the snapshot that volume %s reads is %s", v.ID, s.State)
		}
	}
	if v.Kept != nil && !v.Deleted && !v.Trashed() && !slices.ContainsFunc(v.Snapshots, func(s cluster.Snapshot) bool { return s.Needed() }) {
		t.Fatalf("volume %s is kept for nobody", v.ID)
	}
}

func (h *history) check(t *rapid.T, m *Machine, c Command, r Result) {
	if _, ok := c.(*AllocRange); ok && r.Err == nil {
		if r.First < h.sequence {
			t.Fatalf("sequence %d was given again, %d was next", r.First, h.sequence)
		}
		h.sequence = r.First + id.Sequence(r.Count)
	}
	present := make(map[id.Volume]bool)
	for _, v := range m.Volumes() {
		present[v.ID] = true
		if h.gone[v.ID] {
			t.Fatalf("volume %s came back", v.ID)
		}
		h.volumes[v.ID] = true
		h.volume(t, m, v)
		needed(t, m, v)
	}
	for v := range h.volumes {
		h.gone[v] = !present[v]
	}
	for _, p := range m.PGs() {
		old := h.groups[p.Number]
		if forget, ok := c.(*ForgetVersions); ok && r.Err == nil && forget.PG == p.Number {
			old = old[len(old)-1:]
		}
		if len(p.Versions) < len(old) {
			t.Fatalf("group %d lost a version", p.Number)
		}
		for i := range old {
			if fmt.Sprint(old[i]) != fmt.Sprint(p.Versions[i]) {
				t.Fatalf("group %d version %d changed", p.Number, i)
			}
		}
		h.groups[p.Number] = p.Versions
	}
}

func (h *history) volume(t *rapid.T, m *Machine, v *Volume) {
	if v.Epoch < h.epochs[v.ID] {
		t.Fatalf("volume %s fell to %s", v.ID, v.Epoch)
	}
	h.epochs[v.ID] = v.Epoch
	if h.owners[v.ID] == nil {
		h.owners[v.ID], h.ensembles[v.ID] = map[id.Epoch]id.Holder{}, map[id.Ensemble][]cluster.StoreRef{}
	}
	if v.Owner != (id.Holder{}) {
		if was, ok := h.owners[v.ID][v.Epoch]; ok && was != v.Owner {
			t.Fatalf("volume %s at %s had owner %s, now %s", v.ID, v.Epoch, was, v.Owner)
		}
		h.owners[v.ID][v.Epoch] = v.Owner
	}
	for i, e := range v.List {
		if i > 0 && !v.List[i-1].ID.Less(e.ID) {
			t.Fatalf("volume %s: the list is not in order: %v", v.ID, v.List)
		}
		if e.Closed && i == len(v.List)-1 {
			t.Fatalf("volume %s: the newest ensemble is closed", v.ID)
		}
		if was, ok := h.ensembles[v.ID][e.ID]; ok && fmt.Sprint(was) != fmt.Sprint(e.Stores) {
			t.Fatalf("volume %s: ensemble %s changed its stores", v.ID, e.ID)
		}
		h.ensembles[v.ID][e.ID] = e.Stores
	}
	for _, s := range v.Snapshots {
		if s.State == cluster.SnapshotHidden && m.Children(s.ID) == 0 || s.State == cluster.SnapshotDeleting && m.Children(s.ID) > 0 {
			t.Fatalf("snapshot %s is %s and has %d clones", s.ID, s.State, m.Children(s.ID))
		}
	}
	if o := v.Origin; o != nil && !v.Deleted {
		if p, _ := m.Volume(o.Volume); p == nil || p.Deleted {
			t.Fatalf("volume %s began with a snapshot of %s, which is gone", v.ID, o.Volume)
		} else if _, ok := p.FindSnapshot(o.Snapshot.String()); !ok {
			t.Fatalf("volume %s began with snapshot %s, which is gone", v.ID, o.Snapshot)
		}
	}
	for _, s := range v.Purging() {
		if !m.Alive(s) {
			t.Fatalf("volume %s waits for a lost store", v.ID)
		}
	}
	if !v.Deleted && len(v.Purging()) > 0 || v.Deleted && len(v.Purging()) == 0 {
		t.Fatalf("volume %s: deleted %v, waits for %d", v.ID, v.Deleted, len(v.Purging()))
	}
}

// The golden log covers every command; its snapshot is the format's witness.
func goldenLog() []Command {
	return slices.Concat(goldenFirst(), goldenTime(), goldenRestored(), goldenImages(), goldenKept(), goldenFlatten(), goldenTrash(), goldenArchives(), goldenRemoved())
}

// goldenFirst is the part before LevelTime.
func goldenFirst() []Command {
	ref := func(h, s int) cluster.StoreRef { return storeRef(h, s) }
	log := []Command{&Init{ClusterID: [16]byte{0xA5, 1: 0x5A}, Settings: DefaultSettings}, &SetLevel{Level: LevelEvents}}
	for h := 1; h <= 3; h++ {
		log = append(log, &RegisterHost{Holder: holder(h, 1), DataAddress: "10.0.0.1:7001", Zone: "z1", Exports: true, NBDUnixPath: "/run/nbd", NBDTCP: "10.0.0.1:10809", NBDTLS: true,
			Stores: []RegisterStore{{StoreRef: ref(h, 1), Capacity: 1 << 40}, {StoreRef: ref(h, 2), Capacity: 1 << 40, MayMove: true}}})
	}
	all := []cluster.StoreRef{ref(1, 1), ref(1, 2), ref(2, 1), ref(2, 2), ref(3, 1), ref(3, 2)}
	var candidates []EnsembleCandidate
	for _, r := range all {
		candidates = append(candidates, EnsembleCandidate{StoreRef: r, Load: 2})
	}
	v, gone := id.Volume{1}, id.Volume{2}
	rate, bytes := uint64(5000), uint64(64<<20)
	at := func(n uint64) At { return At{Volume: v, Epoch: 1, Version: n} }
	return append(log,
		&EnsurePlacement{Healthy: all, Seed: 42},
		&CreateVolume{ID: v, Name: "disk", Size: 1 << 30, RequestID: "r", NowMS: 1700000000000},
		&CreateVolume{ID: gone, Name: "gone", Size: 1 << 30, QoS: cluster.QoS{IOPS: 300, IOPSBurst: 3000, Bytes: 1 << 20, BytesBurst: 2 << 20}},
		&ResizeVolume{Volume: v, Size: 2 << 30},
		&DeleteVolume{Volume: gone, Forced: true},
		&ConfirmPurge{Store: ref(1, 1), Volume: gone},
		&Acquire{Volume: v, By: holder(1, 1)},
		&AddEnsemble{At: at(0), Candidates: candidates, Want: 3, Fallback: 2, Seed: 7},
		&ReplaceList{At: at(1), Keep: id.Ensemble{Epoch: 1, N: 1}},
		&AllocRange{Volume: v, Epoch: 1},
		&ForgetSpans{Volume: v, Epoch: 1, Below: 1},
		&CommitCheckpoint{Volume: v, Epoch: 1, Checkpoint: cluster.Checkpoint{Epoch: 1, Meta: 9, Covered: 11, Opaque: []byte("roots")}},
		&AddEnsemble{At: at(2), Candidates: candidates, Want: 3, Fallback: 2, Seed: 8},
		&CloseEnsemble{At: at(3), Ensemble: id.Ensemble{Epoch: 1, N: 1}, From: 1, To: 10, MetaFrom: 1, MetaTo: 9, Holders: nil},
		&RemoveEnsembles{At: at(4), Ensembles: []id.Ensemble{{Epoch: 1, N: 1}}, Released: 10},
		&Acquire{Volume: v, By: holder(2, 1), Gone: holder(1, 1)},
		&LoseStore{Store: ref(3, 2)},
		&AcceptLoss{Volume: v, Ensemble: id.Ensemble{Epoch: 1, N: 2}, By: "ann", NowMS: 1700000000001},
		&Release{Volume: v, Epoch: 2, By: holder(2, 1)},
		&SetMember{Member{ID: "m1", API: "10.0.0.1:7100", Raft: "10.0.0.1:7101"}},
		&SetMember{Member{ID: "m2", API: "10.0.0.2:7100", Raft: "10.0.0.2:7101"}},
		&DropMember{ID: "m2"},
		&AddToken{Token: testToken(1, 2, "metad", "blockd"), NowMS: 10},
		&UseToken{ID: TokenID{1}, Hash: [32]byte{1, 1}, Use: use("h9", 1, 20, "blockd")},
		&RevokeToken{ID: TokenID{1}},
		&TellInventory{Store: ref(1, 1), Volumes: []Sighting{{Volume: v, Fence: 3, LastSequence: 9, Shards: 2, Size: 1 << 30,
			Checkpoint: &cluster.Checkpoint{Epoch: 1, Meta: 9, Covered: 11, Opaque: []byte("roots")}, Streams: []StreamSighting{{Ensemble: id.Ensemble{Epoch: 1, N: 1}, Tail: 5, Meta: 6}}}},
			Groups: []GroupSighting{{PG: 1, Version: 1, K: 4, M: 2, Index: 3}}, Known: []KnownGroup{{PG: 1, Version: cluster.PGVersion{Version: 1, K: 1, M: 1, Stores: all[:2]}}}, Last: true},
		&FinishRebuild{Without: []id.Store{ref(1, 1).Store}},
		&ChangeTrust{Next: Trust{Phase: TrustSpread, CAs: [][]byte{[]byte("the old CA"), []byte("the new CA")}}},
		&AddEvents{Events: []Event{
			{AtMS: 1700000000123, Severity: Warning, Kind: "store_down", About: "store", Subject: "st-1", Text: "its host is silent"},
			{AtMS: 1700000000124, Severity: Info, Kind: "disk_open", About: "disk", Subject: "golden", Text: "took 1s", By: "b1", Origin: EventOrigin{Holder: holder(1, 1), N: 7}},
		}},
		&RegisterHost{Holder: holder(4, 1), Stores: []RegisterStore{{StoreRef: ref(4, 1), Capacity: 1 << 40}, {StoreRef: ref(4, 2), Capacity: 1 << 40}}},
		&MoveGroup{PG: 1, At: 1, Stores: []cluster.StoreRef{ref(1, 1), ref(1, 2), ref(2, 1), ref(4, 1), ref(3, 1), ref(4, 2)}},
		&MarkStore{Store: ref(4, 1), Leaving: true, Out: true},
		&ForgetVersions{PG: 1, At: 2},
		&RemoveStore{Store: ref(3, 2)},
		&SetQoS{Volume: v, Change: cluster.QoSChange{IOPS: &rate, Bytes: &bytes, BytesBurst: &bytes}},
		&SetLevel{Level: LevelCordon},
		&CordonHost{Host: hostName(1), On: true},
		&CordonHost{Host: hostName(2), On: true},
		&CordonHost{Host: hostName(1)},
		&SetLevel{Level: LevelSnapshots},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{1}, Name: "before", NowMS: 1700000000200},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{1}},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{2}, Name: "gone"},
		&DeleteSnapshot{Volume: v, ID: id.Snapshot{2}},
		&Acquire{Volume: v, By: holder(1, 1)},
		&SnapshotGone{Volume: v, Epoch: 3, ID: id.Snapshot{2}},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{3}, Name: "asked", NowMS: 1700000000201},
	)
}

// goldenTime is the part of LevelTime.
func goldenTime() []Command {
	v := id.Volume{1}
	return []Command{
		&SetLevel{Level: LevelTime},
		&CreateClone{CreateVolume: CreateVolume{ID: id.Volume{5}, Name: "clone", Size: 4 << 30, RequestID: "c", NowMS: 1700000000300}, Origin: originOf(v, id.Snapshot{1}, 77)},
		&DeleteSnapshot{Volume: v, ID: id.Snapshot{1}}, // it is hidden
		&SetBalancing{Paused: true},
		&CreateSnapshots{Members: []GroupMember{{Volume: v, ID: id.Snapshot{9}}}, NowMS: 1700000000301},
		&EndSnapshots{Members: []GroupMember{{Volume: v, ID: id.Snapshot{9}, Epoch: 3}}, OK: true, Name: "together"},
		&CreateSnapshots{Members: []GroupMember{{Volume: id.Volume{5}, ID: id.Snapshot{10}}}, NowMS: 1700000000302},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{3}},
		&QueueArchive{Volume: v, ID: id.Snapshot{3}, Upload: id.Raw{9}},
		&LeaseArchive{Volume: v, ID: id.Snapshot{3}, Worker: "s1"},
		&EndArchive{Volume: v, ID: id.Snapshot{3}, Epoch: 1, State: cluster.ArchiveDone, Bytes: 77, Manifest: "manifests/x/y"},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{4}, Name: "later", NowMS: 1700000000301},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{4}},
		&QueueArchive{Volume: v, ID: id.Snapshot{4}, Upload: id.Raw{10}},
		&LeaseArchive{Volume: v, ID: id.Snapshot{4}, Worker: "s2"},
		&EndArchive{Volume: v, ID: id.Snapshot{4}, Epoch: 1, State: cluster.ArchiveFailed, Reason: "no bucket"},
		&CreateSnapshot{Volume: v, ID: id.Snapshot{11}, Name: "back"},
		&SnapshotTaken{Volume: v, ID: id.Snapshot{11}},
		&RollbackVolume{Volume: v, Epoch: 3, To: id.Snapshot{11}, Safety: id.Snapshot{12}, Name: "before-rollback", NowMS: 1700000000400},
		&Acquire{Volume: v, By: holder(2, 1)},
		&VolumeRolledBack{Volume: v, Epoch: 5, Safety: id.Snapshot{12}},
		&RollbackVolume{Volume: v, Epoch: 5, To: id.Snapshot{12}, Safety: id.Snapshot{13}, Name: "again", NowMS: 1700000000500},
		&SetPolicy{ID: id.Raw{4}, Name: "nightly", Rules: policy.Rules{At: []uint16{120, 840}, Days: 62, Retain: 7 * 24 * time.Hour, Keep: 9}, NowMS: 1700000000303, New: true},
		&ApplyPolicy{Name: "nightly", Volumes: []id.Volume{v}},
		&PolicyBegins{Policy: id.Raw{4}, Due: time.Unix(1700000400, 0).UTC(), Made: []policy.Made{{Volume: v, Snapshot: id.Snapshot{11}, Due: time.Unix(1700000400, 0).UTC()}}},
		&PolicyRan{Policy: id.Raw{4}, Run: PolicyRun{Due: time.Unix(1700000400, 0).UTC(), Failed: 1, Failures: []RunFailure{{v, "away"}}}},
		&PolicyBegins{Policy: id.Raw{4}, Due: time.Unix(1700003600, 0).UTC(), Skipped: "late"},
		&TellLineage{Volumes: []LineageSighting{{Volume: v, Epoch: 3, Meta: 70, Origin: new(originOf(id.Volume{2}, id.Snapshot{8}, 66)), Snapshots: []SnapshotSighting{{ID: id.Snapshot{1}, Size: 1 << 30}}}}},
		&RecodeGroup{PG: 1, At: 2, K: 2, M: 1, Stores: []cluster.StoreRef{storeRef(1, 1), storeRef(2, 1), storeRef(4, 2)}},
		&ForgetCodes{PG: 1, At: 3},
	}
}

// TestGoldenLog: a log written by an older version must be read, and come to the same
// state, for ever.
func TestGoldenLog(t *testing.T) {
	m := New()
	var text strings.Builder
	for i, c := range goldenLog() {
		// A close has to name stores of the ensemble that placement chose.
		if x, ok := c.(*CloseEnsemble); ok {
			v, _ := m.Volume(x.At.Volume)
			x.Holders = v.List[0].Stores[:2]
		}
		r := m.Apply(uint64(i+1), c)
		if r.Err != nil && !errors.Is(r.Err, errs.ErrConflict) {
			t.Fatalf("%T: %v", c, r.Err)
		}
		fmt.Fprintf(&text, "%T %x\n", c, Encode(c))
	}
	fmt.Fprintf(&text, "snapshot\n%s", hex.Dump(m.Snapshot()))
	path := filepath.Join("testdata", "golden.txt")
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text.String() {
		t.Fatalf("the bytes of the log or the snapshot changed; if that is meant, raise the version, see FORMAT.md, and run with -update")
	}
}

// FuzzCommand: the log's bytes may be anything. What decodes has one encoding and can
// be applied.
func FuzzCommand(f *testing.F) {
	for _, c := range goldenLog() {
		f.Add(Encode(c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			if !errors.Is(err, errs.ErrCorrupt) && !errors.Is(err, errs.ErrInvalid) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		d, err := Decode(Encode(c))
		if err != nil || !bytes.Equal(Encode(d), Encode(c)) {
			t.Fatalf("%T does not survive: %v", c, err)
		}
		w := New()
		for i, g := range goldenLog()[:12] {
			w.Apply(uint64(i+1), g)
		}
		w.Apply(100, c)
		if _, err := Restore(w.Snapshot()); err != nil {
			t.Fatalf("after %T the snapshot does not restore: %v", c, err)
		}
	})
}

// FuzzSnapshot: what restores has the canonical form.
func FuzzSnapshot(f *testing.F) {
	m := New()
	f.Add(m.Snapshot())
	for i, c := range goldenLog() {
		m.Apply(uint64(i+1), c)
	}
	f.Add(m.Snapshot())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Restore(seal(b))
		if err != nil {
			return
		}
		again, err := Restore(m.Snapshot())
		if err != nil || !bytes.Equal(again.Snapshot(), m.Snapshot()) {
			t.Fatalf("a restored state does not survive: %v", err)
		}
	})
}

// seal puts the right checksum at the end, so that the fuzzer gets past it.
func seal(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	b = bytes.Clone(b)
	body := b[:len(b)-4]
	return binary.LittleEndian.AppendUint32(body[:len(body):len(body)], codec.CRC(body))
}
