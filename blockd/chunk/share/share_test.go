package share

import (
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// load keeps depth operations of one class and volume at the store.
type load struct {
	class  storeproto.Class
	volume id.Volume
	bytes  int
	depth  int
	done   int
	flying int
}

// disk serves operations in the order of their slots, or at random.
type disk struct {
	core   *Core[*load]
	flying []*load
	random *rand.Rand
}

func newDisk(cfg Config, loads ...*load) *disk {
	d := &disk{core: New[*load](cfg), random: rand.New(rand.NewPCG(3, 4))}
	for _, l := range loads {
		for range l.depth {
			d.enter(l)
		}
	}
	return d
}

func (d *disk) enter(l *load) {
	if d.core.Enter(l.class, l.volume, l.bytes, l) {
		d.begin(l)
	}
}

func (d *disk) begin(l *load) {
	l.flying++
	d.flying = append(d.flying, l)
}

// serve ends n operations, each of which is followed by another of its load.
func (d *disk) serve(n int) {
	for range n {
		i := d.random.IntN(len(d.flying))
		l := d.flying[i]
		d.flying[i] = d.flying[len(d.flying)-1]
		d.flying = d.flying[:len(d.flying)-1]
		l.flying--
		l.done++
		for _, next := range d.core.Leave(l.class, nil) {
			d.begin(next)
		}
		d.enter(l)
	}
}

var testConfig = Config{Slots: 8, Most: [storeproto.Classes]int{storeproto.ClassRepair: 2, storeproto.ClassClean: 2, storeproto.ClassScrub: 1}}

// Without this what nobody waits for would crowd out what somebody does.
func TestClassesShareByWeight(t *testing.T) {
	var loads []*load
	for k := range storeproto.Class(storeproto.Classes) {
		loads = append(loads, &load{class: k, volume: id.Volume{1}, bytes: 64 << 10, depth: 32})
	}
	newDisk(testConfig, loads...).serve(20_000)
	for k := 1; k < storeproto.Classes; k++ {
		a, b := loads[k-1], loads[k]
		want := float64(Weights[a.class]) / float64(Weights[b.class])
		if got := float64(a.done) / float64(b.done); got < want*0.8 || got > want*1.25 {
			t.Errorf("%s gets %.1f times as much as %s, want %.1f", a.class, got, b.class, want)
		}
	}
}

// Without this a flood of the urgent would stop repair and cleaning for good: then margin and
// room would run out.
func TestNoClassStarves(t *testing.T) {
	flood := &load{class: storeproto.ClassDemand, volume: id.Volume{1}, bytes: 4096, depth: 500}
	pack := &load{class: storeproto.ClassPack, volume: id.Volume{1}, bytes: 1 << 20, depth: 50}
	scrub := &load{class: storeproto.ClassScrub, volume: id.Volume{2}, bytes: 256 << 10, depth: 1}
	newDisk(testConfig, flood, pack, scrub).serve(50_000)
	if scrub.done < 20 {
		t.Errorf("%d scrubs in 50,000 operations", scrub.done)
	}
}

// Without this background work would sit on all the slots when a client comes.
func TestBackgroundLeavesSlots(t *testing.T) {
	repair := &load{class: storeproto.ClassRepair, bytes: 1 << 20, depth: 50}
	clean := &load{class: storeproto.ClassClean, bytes: 1 << 20, depth: 50}
	scrub := &load{class: storeproto.ClassScrub, bytes: 1 << 20, depth: 50}
	d := newDisk(testConfig, repair, clean, scrub)
	for range 1000 {
		d.serve(1)
		if repair.flying > 2 || clean.flying > 2 || scrub.flying > 1 {
			t.Fatalf("%d, %d and %d slots are held by background work", repair.flying, clean.flying, scrub.flying)
		}
	}
	if !d.core.Enter(storeproto.ClassDemand, id.Volume{9}, 4096, &load{}) {
		t.Error("a client's read waits although slots are free")
	}
}

// Without this one disk that wants much would take it all from one that wants little.
func TestVolumesOfAClassTakeTurns(t *testing.T) {
	greedy := &load{volume: id.Volume{1}, bytes: 4096, depth: 300}
	second := &load{volume: id.Volume{2}, bytes: 4096, depth: 20}
	modest := &load{volume: id.Volume{3}, bytes: 4096, depth: 1}
	d := newDisk(testConfig, greedy, second, modest)
	d.serve(10_000)
	if ratio := float64(second.done) / float64(greedy.done); ratio < 0.9 || ratio > 1.1 {
		t.Errorf("%d and %d operations of two disks that want more than there is", greedy.done, second.done)
	}
	// The modest one waits for a slot and no longer: it has one request, the disk eight slots.
	if modest.done < 10_000/20 {
		t.Errorf("%d of 10,000 operations are of the disk with one request at a time", modest.done)
	}
	large, small := &load{volume: id.Volume{1}, bytes: 1 << 20, depth: 50}, &load{volume: id.Volume{2}, bytes: 64 << 10, depth: 50}
	newDisk(testConfig, large, small).serve(10_000)
	if ratio := float64(large.done) * (1<<20 + costBase) / (float64(small.done) * (64<<10 + costBase)); ratio < 0.9 || ratio > 1.1 {
		t.Errorf("disks with large and small requests get %.2f of each other's bytes", ratio)
	}
}

// While there is room nothing waits and nothing is kept: all it costs is a count.
func TestUncontendedGoesAtOnce(t *testing.T) {
	c := New[int](testConfig)
	if n := testing.AllocsPerRun(1000, func() {
		if !c.Enter(storeproto.ClassDemand, id.Volume{1}, 4096, 1) {
			t.Fatal("waits")
		}
		if len(c.Leave(storeproto.ClassDemand, nil)) != 0 {
			t.Fatal("somebody waited")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Nothing is lost and nothing invented, and operations of one class and volume keep their order.
func TestEverythingGoesOnceInOrder(t *testing.T) {
	type op struct {
		k storeproto.Class
		v byte
		n int
	}
	random := rand.New(rand.NewPCG(5, 6))
	c := New[op](testConfig)
	var flying []op
	next := make(map[[2]byte]int)
	begun := make(map[[2]byte]int)
	begin := func(o op) {
		key := [2]byte{byte(o.k), o.v}
		if begun[key] != o.n {
			t.Fatalf("%v began, want number %d", o, begun[key])
		}
		begun[key]++
		flying = append(flying, o)
	}
	end := func() {
		i := random.IntN(len(flying))
		o := flying[i]
		flying[i] = flying[len(flying)-1]
		flying = flying[:len(flying)-1]
		for _, x := range c.Leave(o.k, nil) {
			begin(x)
		}
	}
	for range 20_000 {
		if random.IntN(2) == 0 || len(flying) == 0 {
			o := op{k: storeproto.Class(random.IntN(storeproto.Classes)), v: byte(random.IntN(5))}
			key := [2]byte{byte(o.k), o.v}
			o.n = next[key]
			next[key]++
			if c.Enter(o.k, id.Volume{o.v}, random.IntN(1<<20), o) {
				begin(o)
			}
		} else {
			end()
		}
		if len(flying) > testConfig.Slots {
			t.Fatalf("%d at the disk", len(flying))
		}
	}
	for len(flying) > 0 {
		end()
	}
	for key, n := range next {
		if begun[key] != n || !c.Idle() {
			t.Fatalf("%d of %d began, idle %v", begun[key], n, c.Idle())
		}
	}
}

func BenchmarkUncontended(b *testing.B) {
	c := New[*load](testConfig)
	l := &load{}
	for b.Loop() {
		c.Enter(storeproto.ClassDemand, l.volume, 4096, l)
		c.Leave(storeproto.ClassDemand, nil)
	}
}
