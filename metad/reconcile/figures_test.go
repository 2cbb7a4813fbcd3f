package reconcile

import (
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

func use(pairs ...int) (out []cluster.VolumeUse) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, cluster.VolumeUse{Volume: id.Volume{byte(pairs[i])}, Bytes: uint64(pairs[i+1])})
	}
	return out
}

// Without this the room of a disk that is gone from a store would be counted for ever, or
// one page would wipe out what another told.
func TestUseIsTakenPageByPage(t *testing.T) {
	var u volumeUse
	u = u.take(&cluster.VolumeUsePage{Uses: use(1, 10, 3, 30, 5, 50)})
	u = u.take(&cluster.VolumeUsePage{After: id.Volume{5}, Uses: use(7, 70), Last: true})
	u = u.take(&cluster.VolumeUsePage{Uses: use(1, 11, 4, 44)}) // 3 is gone; 5 and 7 come later
	for v, want := range map[byte]uint64{1: 11, 3: 0, 4: 44, 5: 50, 7: 70, 9: 0} {
		if got := u.of(id.Volume{v}); got != want {
			t.Errorf("volume %d takes %d, want %d", v, got, want)
		}
	}
	u = u.take(&cluster.VolumeUsePage{After: id.Volume{4}, Last: true})
	if u.of(id.Volume{4}) != 44 || u.of(id.Volume{5}) != 0 || u.of(id.Volume{7}) != 0 {
		t.Errorf("after an empty last page: %v", u)
	}
	u = u.take(&cluster.VolumeUsePage{Last: true})
	if len(u) != 0 {
		t.Errorf("a store that has nothing: %v", u)
	}
}

// Without this the remaining time of cleaning would jump with each heartbeat, or be counted
// from a counter that began anew.
func TestPaceFollowsACounter(t *testing.T) {
	var p pace
	at := time.Duration(0)
	n := uint64(1 << 30) // what was done before is no rate
	for range 60 {
		p = p.next(at, n)
		at += time.Second
		n += 5 << 20
	}
	if mb := p.perSecond / (1 << 20); mb < 4.9 || mb > 5.1 {
		t.Errorf("a steady 5 MiB/s are %.2f", mb)
	}
	before := p
	if p = p.next(at-time.Second+time.Millisecond, n); p != before {
		t.Error("two heartbeats at once changed the pace")
	}
	for range 60 {
		p = p.next(at, n)
		at += time.Second
	}
	if p.perSecond > 1<<16 {
		t.Errorf("nothing happens and the pace is %.0f", p.perSecond)
	}
	if p = p.next(at, 3); p.perSecond != 0 {
		t.Errorf("a counter that began anew: %.0f", p.perSecond)
	}
}

// Without this the health line would not say how much hangs on the next failure.
func TestHealthSaysHowMuchIsAtRisk(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.beat(1, 2, 3)
	s.place()
	fill := func(hosts ...int) {
		for _, h := range hosts {
			b := Beat{Holder: holder(h)}
			for _, x := range s.m.Stores() {
				if x.Host != holder(h).Host {
					continue
				}
				sb := StoreBeat{StoreRef: x.StoreRef, Capacity: 1000, Used: 100}
				for _, p := range s.m.PGs() {
					sb.Groups = append(sb.Groups, cluster.GroupUse{PG: p.Number, Bytes: 100})
				}
				b.Stores = append(b.Stores, sb)
			}
			s.l.Beat(s.now, b)
		}
	}
	fill(1, 2, 3)
	groups := len(s.m.PGs())
	all := uint64(groups * 400) // 4+2
	if r := s.health(); r.Risk != (Risk{Margin: 2}) {
		t.Fatalf("nothing is wrong: %+v", r.Risk)
	}
	v := s.disk("x", 1)
	if r := s.health(); r.Risk.Margin != 1 {
		t.Fatalf("the journal of %s needs two of three stores: %+v", v.Name, r.Risk)
	}
	s.dead[ref(3, 2)] = "gone"
	s.beat(3)
	fill(1, 2)
	if r := s.health(); r.Risk.Reduced != all || r.Risk.None != 0 {
		t.Fatalf("one store is gone: %+v, want %d reduced", r.Risk, all)
	}
	s.now += 3 * second
	fill(1, 2) // host 3 is silent
	if r := s.health(); r.Risk.None != all || r.Risk.Reduced != 0 || r.Risk.Margin != 0 {
		t.Fatalf("a host is gone: %+v, want %d without margin", r.Risk, all)
	}
	s.now += 3 * second
	fill(1)
	if r := s.health(); r.Risk.Unreadable != all || r.Risk.Margin != 0 {
		t.Fatalf("two hosts are gone: %+v", r.Risk)
	}
}
