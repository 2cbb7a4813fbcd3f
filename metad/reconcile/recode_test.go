package reconcile

import (
	"slices"
	"testing"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// remains lets every store tell what it has in groups of two codes, as far as tells wants.
func (s *scene) remains(tells func(r cluster.StoreRef, p state.PG) (shards uint64, told bool)) {
	for _, h := range s.m.Hosts() {
		b := Beat{Holder: id.Holder{Host: h.Host, Number: 1}}
		for _, x := range s.m.Stores() {
			if x.Host != h.Host {
				continue
			}
			sb := StoreBeat{StoreRef: x.StoreRef, Capacity: 1000, Used: 100}
			for _, p := range s.m.PGs() {
				if n, told := tells(x.StoreRef, p); told && p.TwoCodes() {
					sb.Remains = append(sb.Remains, cluster.Remain{PG: p.Number, Version: p.Current().Version, Shards: n, Bytes: 10 * n})
				}
			}
			b.Stores = append(b.Stores, sb)
		}
		s.l.Beat(s.now, b)
	}
}

// twoHosts is a cluster that began with two hosts and has three now.
func twoHosts(t *testing.T) (*scene, *Mender) {
	s := newScene(t, 2, 2)
	s.apply(&state.SetLevel{Level: state.LevelTime})
	s.beat(1, 2)
	s.place()
	c := &state.RegisterHost{Holder: holder(3), DataAddress: "a:1", Exports: true}
	for i := 1; i <= 2; i++ {
		c.Stores = append(c.Stores, state.RegisterStore{StoreRef: ref(3, i), Capacity: 1000})
	}
	s.apply(c)
	s.beat(1, 2, 3)
	return s, &Mender{OutAfter: outAfter}
}

func (s *scene) codes() (out map[placement.Profile]int) {
	out = make(map[placement.Profile]int)
	for _, p := range s.m.PGs() {
		for _, v := range p.Versions {
			out[placement.Profile{K: v.K, M: v.M}]++
		}
	}
	return out
}

// A cluster of two hosts becomes one of three: its groups get the better code when the third has
// been there for a while, and keep the older one until every store has said that nothing of it is left.
func TestGroupsGetTheBetterCode(t *testing.T) {
	s, x := twoHosts(t)
	s.mended(x)
	if n := s.codes(); n[placement.OneTwo] != 4 || len(n) != 1 {
		t.Fatalf("at once: %v", n)
	}
	for range 20 {
		s.now += outAfter / 10
		s.remains(func(cluster.StoreRef, state.PG) (uint64, bool) { return 5, true })
		s.mended(x)
	}
	if n := s.codes(); n[placement.OneTwo] != 4 || n[placement.FourTwo] != 4 {
		t.Fatalf("%v", n)
	}
	if r := x.Recoding(s.m, s.l, s.top()); r.Groups != 4 || r.Left == 0 {
		t.Fatalf("%+v", r)
	}
	for _, p := range s.m.PGs() {
		if s.m.Scheme(p.Current()).Relaxed {
			t.Fatalf("group %d has %v", p.Number, p.Current().Stores)
		}
	}
	for name, tells := range map[string]func(cluster.StoreRef, state.PG) (uint64, bool){
		"one has some":  func(r cluster.StoreRef, _ state.PG) (uint64, bool) { return uint64(r.Store[1] - 1), true },
		"one is silent": func(r cluster.StoreRef, _ state.PG) (uint64, bool) { return 0, r.Store[1] == 1 },
	} {
		s.now += recodeEvery
		s.remains(tells)
		s.mended(x)
		if n := s.codes(); n[placement.OneTwo] != 4 {
			t.Fatalf("%s, and it is forgotten: %v", name, n)
		}
	}
	s.now += recodeEvery
	s.remains(func(cluster.StoreRef, state.PG) (uint64, bool) { return 0, true })
	s.mended(x)
	if n := s.codes(); n[placement.OneTwo] != 0 || n[placement.FourTwo] != 4 {
		t.Fatalf("nothing is left, but %v", n)
	}
}

// While the only store of a version that could tell is away for long nobody knows what it has.
func TestCodeIsKeptWhileNobodyCanTell(t *testing.T) {
	s, x := twoHosts(t)
	for range 20 {
		s.now += outAfter / 10
		s.remains(func(cluster.StoreRef, state.PG) (uint64, bool) { return 5, true })
		s.mended(x)
	}
	p := s.m.PGs()[0]
	for _, r := range p.Versions[0].Stores {
		s.apply(&state.MarkStore{Store: r, Out: true})
	}
	gone := p.Versions[0].Stores
	s.now += recodeEvery
	s.l = NewLiveness(s.now, s.m.Settings())
	s.remains(func(r cluster.StoreRef, _ state.PG) (uint64, bool) { return 0, !slices.Contains(gone, r) })
	if c := x.recoder.forget(s.m, s.l, p); c != nil {
		t.Fatal("all who could tell are out, and it is forgotten")
	}
	for _, r := range gone {
		s.apply(&state.LoseStore{Store: r})
	}
	if c := x.recoder.forget(s.m, s.l, p); c == nil {
		t.Fatal("all who could tell are lost for good, and it is kept for ever")
	}
}

// A store that said that it has something left, and went away for good a moment later, cannot be
// asked again. Its owner's deletion waits for it until the version is forgotten: were that to wait for
// its word, the group would keep two codes for as long as the leader reigns, and be moved no more.
func TestLastWordOfAStoreThatIsOutDoesNotKeepACode(t *testing.T) {
	s, x := twoHosts(t)
	for range 20 {
		s.now += outAfter / 10
		s.remains(func(cluster.StoreRef, state.PG) (uint64, bool) { return 5, true })
		s.mended(x)
	}
	p := s.m.PGs()[0]
	gone := p.Versions[0].Stores[0]
	s.now += recodeEvery
	s.remains(func(r cluster.StoreRef, _ state.PG) (uint64, bool) {
		if r == gone {
			return 1, true
		}
		return 0, true
	})
	if c := x.recoder.forget(s.m, s.l, p); c != nil {
		t.Fatal("one that is there has something, and it is forgotten")
	}
	s.apply(&state.MarkStore{Store: gone, Out: true})
	if c := x.recoder.forget(s.m, s.l, p); c == nil {
		t.Fatal("all others of its version have nothing, and it is kept for ever")
	}
}

// While a group has two codes a slot of the newer one may move. Were the older versions forgotten
// before the new holder has what was coded in between, nobody would fill that in any more, and who
// had it would reap it: segments that are a shard short, which nobody knows of.
func TestCodeIsKeptUntilMovedSlotsAreFilled(t *testing.T) {
	s, x := twoHosts(t)
	for range 20 {
		s.now += outAfter / 10
		s.remains(func(cluster.StoreRef, state.PG) (uint64, bool) { return 5, true })
		s.mended(x)
	}
	p := s.m.PGs()[0]
	moved := p.Current()
	moved.Version++
	moved.Stores = slices.Clone(moved.Stores)
	moved.Stores[1] = ref(9, 9)
	p.Versions = append(slices.Clone(p.Versions), moved)
	for h := 1; h <= 3; h++ {
		b := Beat{Holder: holder(h)}
		for _, y := range s.m.Stores() {
			if y.Host == b.Holder.Host {
				b.Stores = append(b.Stores, StoreBeat{StoreRef: y.StoreRef, Capacity: 1000, Remains: []cluster.Remain{{PG: p.Number, Version: moved.Version}}})
			}
		}
		s.l.Beat(s.now, b)
	}
	told := Beat{Holder: holder(9), Stores: []StoreBeat{{StoreRef: moved.Stores[1]}}}
	s.l.Beat(s.now, told)
	if c := x.recoder.forget(s.m, s.l, p); c != nil {
		t.Fatal("a slot of the present code is not filled, and where it was is forgotten")
	}
	told.Stores[0].Repairs = []RepairBeat{{PG: p.Number, Version: moved.Version, Whole: true}}
	s.l.Beat(s.now, told)
	if c := x.recoder.forget(s.m, s.l, p); c == nil {
		t.Fatal("all is filled and nothing is left, and it is kept")
	}
}

// A store that is away now and then gives its neighbours small groups, which serve each time: to
// code them anew in between would be work for nothing, and each time there would be more groups.
func TestShortOutageIsNoReasonToCodeAnew(t *testing.T) {
	s, x := twoHosts(t)
	for range 30 {
		s.now += outAfter / 2
		s.beat(1, 2, 3)
		s.mended(x)
		s.now += 4 * second
		s.beat(1, 2)
		s.mended(x)
	}
	if n := s.codes(); n[placement.FourTwo] != 0 {
		t.Errorf("%v", n)
	}
}

// What bears one loss less than it could is coded anew at once, and until then the health says so.
func TestLostMarginIsCodedAnewAtOnce(t *testing.T) {
	s := newScene(t, 1, 1, 1)
	s.apply(&state.SetLevel{Level: state.LevelTime})
	s.beat(1, 2, 3)
	s.place()
	for h := 4; h <= 6; h++ {
		s.apply(&state.RegisterHost{Holder: holder(h), DataAddress: "a:1", Stores: []state.RegisterStore{{StoreRef: ref(h, 1), Capacity: 1000}}})
	}
	b := Beat{Holder: holder(1), Stores: []StoreBeat{{StoreRef: ref(1, 1), Capacity: 1000, Groups: []cluster.GroupUse{{PG: 1, Bytes: 7}}}}}
	s.beat(2, 3, 4, 5, 6)
	s.l.Beat(s.now, b)
	if h := s.health(); h.Level != Degraded || h.Risk.Reduced != 14 {
		t.Errorf("%v %+v", h.Level, h.Risk)
	}
	s.mended(&Mender{OutAfter: outAfter})
	if n := s.codes(); n[placement.FourTwo] == 0 {
		t.Errorf("%v", n)
	}
}

// The code of a group never gets worse by it, nor does it bear fewer losses: 1+2 stays where 2+1 is best.
func TestCodeNeverBearsLess(t *testing.T) {
	s := newScene(t, 2, 1)
	s.apply(&state.SetLevel{Level: state.LevelTime})
	s.beat(1, 2)
	s.place()
	s.apply(&state.RegisterHost{Holder: holder(3), DataAddress: "a:1", Stores: []state.RegisterStore{{StoreRef: ref(3, 1), Capacity: 1000}}})
	x := &Mender{OutAfter: outAfter}
	for range 30 {
		s.now += outAfter / 10
		s.beat(1, 2, 3)
		s.mended(x)
	}
	if n := s.codes(); n[placement.OneTwo] == 0 || len(n) != 1 {
		t.Errorf("%v", n)
	}
	p := s.m.PGs()[0]
	worse := &state.RecodeGroup{PG: p.Number, At: p.Current().Version, K: 2, M: 1, Stores: []cluster.StoreRef{ref(1, 1), ref(2, 1), ref(3, 1)}}
	s.index++
	if s.m.Apply(s.index, worse).Err == nil {
		t.Error("it was given 2+1")
	}
}

// Disks that nobody has open are opened for it: only an owner codes anew.
func TestRecodingRescuesVolumesThatNobodyOwns(t *testing.T) {
	s, _ := twoHosts(t)
	v := s.disk("d", 1)
	s.apply(&state.Release{Volume: v.ID, Epoch: v.Epoch, By: holder(1)})
	var r Rescuer
	if all, _ := r.Plan(s.now, s.m, s.l, s.top()); len(all) != 0 {
		t.Fatal("it is opened for nothing")
	}
	s.now += 2 * second
	s.beat(2, 3)
	s.l.Beat(s.now, Beat{Holder: holder(1), Stores: []StoreBeat{{StoreRef: ref(1, 1), Remains: []cluster.Remain{{PG: 1, Version: 2, Shards: 1, Volumes: []id.Volume{v.ID}}}}, {StoreRef: ref(1, 2)}}})
	if all, _ := r.Plan(s.now, s.m, s.l, s.top()); len(all) != 1 {
		t.Fatalf("%v", all)
	}
}
