package sim

import (
	"bytes"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// menu is what goes wrong. What passes (crashes, cuts, pauses, slowness) may come at any
// time and together. What stays (a lost disk, damaged bytes) keeps to what the cluster
// promises to survive: it hits one store at a time, the victim, and the next one only
// when everything that the last one had is whole again elsewhere.
type menu struct {
	w      *World
	calm   bool
	filled bool   // stores may be full
	victim *store // its bytes are not to be relied on
	rotten bool   // its log lost something, and it must be replaced
	leaves *store // being drained
	scrubs int
	late   int // faults that were drawn in vain
}

func (m *menu) init(w *World) { m.w, m.calm = w, true }

// begin lets faults happen from now on.
func (m *menu) begin() {
	if m.w.cfg.Calm {
		return
	}
	m.calm = false
	m.next()
}

func (m *menu) next() {
	m.w.after(m.w.between(10*time.Millisecond, 90*time.Millisecond), "a fault", func() {
		if !m.calm {
			m.act()
			m.next()
		}
	})
}

// fault is an entry of the menu: how often it is drawn, and what it does; false: it
// cannot be done now.
type fault struct {
	kind   Kind
	weight int
	do     func(*menu) bool
}

var faults = []fault{
	{PowerLoss, 4, func(m *menu) bool { return m.crash(m.anyUp(), true, m.away()) }},
	{PowerLossAtIO, 4, (*menu).crashAtIO},
	{PowerLossOfAll, 1, (*menu).crashAll},
	{ProcessKill, 4, func(m *menu) bool { return m.crash(m.anyUp(), false, m.away()) }},
	{SyncError, 2, (*menu).syncError},
	{StoreLost, 2, (*menu).lose},
	{StoreOut, 1, func(m *menu) bool { return m.crash(m.anyUp(), true, 2*outAfter) }},
	{LogDamage, 3, (*menu).damageLog},
	{ShardFlipped, 4, func(m *menu) bool { return m.rot(flip) }},
	{ShardLost, 3, func(m *menu) bool { return m.rot(blank) }},
	{ShardMisdirected, 3, (*menu).misdirect},
	{StoreFull, 2, (*menu).fill},
	{BucketAway, 3, (*menu).bucketAway},
	{WorkerKilled, 4, (*menu).killWorker},
	{SlowDisk, 4, (*menu).slowDisk},
	{SlowNetwork, 4, (*menu).slowNetwork},
	{OneWayCut, 5, (*menu).cut},
	{Partition, 3, (*menu).partition},
	{Pause, 4, func(m *menu) bool { return m.pause(m.anyUp(), m.w.between(5*time.Millisecond, leaseTerm)) }},
	{Zombie, 4, (*menu).zombie},
	{ClockJump, 2, (*menu).jump},
	{MetadClockJump, 2, (*menu).jumpMetad},
	{MetadAway, 3, (*menu).metadAway},
	{MetadLeader, 2, (*menu).leader},
	{MetadRestored, 8, (*menu).restoreMetad},
	{Takeover, 5, (*menu).takeover},
	{Handoff, 4, (*menu).handoff},
	{Drain, 5, (*menu).drain},
	{Scrub, 1, (*menu).scrub},
	{Abandon, 1, (*menu).abandon},
}

// act lets one thing go wrong.
func (m *menu) act() {
	m.mind()
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	x := m.w.rng.IntN(total)
	for _, f := range faults {
		if x -= f.weight; x >= 0 {
			continue
		}
		if m.w.cfg.Only != 0 && m.w.cfg.Only != f.kind {
			return
		}
		if f.do(m) {
			m.w.cover.add(f.kind)
			m.w.log("fault: %s", f.kind)
		} else {
			m.late++
		}
		return
	}
}

// mind lets go of a victim whose bytes nobody needs any more.
func (m *menu) mind() {
	if v := m.victim; v != nil && !m.rotten && (v.gone() || v.img.right()) && m.w.safe() {
		m.victim = nil
	}
	if m.leaves != nil {
		m.left()
	}
}

// choose gives the one store that may be harmed for good now; nil if none may.
func (m *menu) choose() *store {
	if m.victim != nil && !m.victim.gone() {
		return m.victim
	}
	if m.victim != nil || m.leaves != nil || !m.w.safe() {
		return nil
	}
	all := m.w.allStores()
	m.victim = all[m.w.rng.IntN(len(all))]
	return m.victim
}

func (m *menu) anyUp() *host {
	var up []*host
	for _, h := range m.w.hosts {
		if h.up {
			up = append(up, h)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[m.w.rng.IntN(len(up))]
}

// away is how long a host is down.
func (m *menu) away() time.Duration {
	if m.w.rng.IntN(3) == 0 {
		return m.w.between(heartbeatTimeout, 3*heartbeatTimeout)
	}
	return m.w.between(5*time.Millisecond, heartbeatTimeout)
}

// crowded tells whether so many hosts are down that hardly anything could happen.
func (m *menu) crowded() bool {
	down := 0
	for _, h := range m.w.hosts {
		if !h.up || h.paused {
			down++
		}
	}
	return down > 0 && m.w.rng.IntN(4) > 0
}

func (m *menu) crash(h *host, power bool, away time.Duration) bool {
	if h == nil || m.crowded() {
		return false
	}
	h.crash(power)
	h.back(away)
	return true
}

func (m *menu) crashAtIO() bool {
	h := m.anyUp()
	if h == nil || m.crowded() {
		return false
	}
	st := h.stores[m.w.rng.IntN(len(h.stores))]
	st.crashIn = 1 + m.w.rng.IntN(40)
	return true
}

func (m *menu) crashAll() bool {
	for _, h := range m.w.hosts {
		if h.up {
			h.crash(true)
			h.back(m.away())
		}
	}
	return true
}

func (m *menu) syncError() bool {
	h := m.anyUp()
	if h == nil || m.crowded() {
		return false
	}
	st := h.stores[m.w.rng.IntN(len(h.stores))]
	if !st.up || st.died != "" {
		return false
	}
	st.fs.err = errDisk
	return true
}

// died hears of a store whose disk failed: somebody restarts its host after a while.
func (m *menu) died(st *store) {
	m.w.after(m.w.between(100*time.Millisecond, 2*outAfter), st.name+" is looked at", func() {
		if st.died != "" && st.h.up && !st.gone() {
			st.h.crash(false)
			st.h.back(5 * time.Millisecond)
		}
	})
}

// lose replaces the victim's disk: everything on it is gone.
func (m *menu) lose() bool {
	st := m.choose()
	if st == nil || !st.h.up || !m.w.safe() {
		return false // what is being moved may hang on this store: README.md, "Not there"
	}
	m.w.replace(st)
	m.rotten = false
	if m.w.rng.IntN(2) == 0 { // an operator says that it does not come back
		md := m.w.metad
		if s, ok := md.m.Store(st.ref.Store); ok && !md.silent() && reconcile.Losable(md.m, md.refresh(), s) == nil {
			md.apply(&state.LoseStore{Store: st.ref})
		}
	}
	return true
}

// replace puts another disk into a store's place; its host starts anew.
func (w *World) replace(st *store) {
	h := st.h
	h.crash(true)
	i := slices.Index(h.stores, st)
	next := newStore(h)
	next.skew = h.skew
	h.stores[i] = next
	w.log("%s is replaced by %s", st.name, next.name)
	h.back(5 * time.Millisecond)
}

// gone tells whether a store's disk was taken out.
func (st *store) gone() bool { return !slices.Contains(st.h.stores, st) }

// damageLog lets the victim's host lose power, and the disk turn out to have lost,
// flipped or misplaced some of what it had told synced.
func (m *menu) damageLog() bool {
	st := m.choose()
	if st == nil || !st.h.up || m.w.metad.restored && !m.w.safe() {
		return false // a list that stores told of may hang on this one alone: README.md, "Not there"
	}
	h := st.h
	h.crash(true)
	old := st.fs.old()
	if len(old) > 0 {
		s := old[m.w.rng.IntN(len(old))]
		switch m.w.rng.IntN(3) {
		case 0:
			s.set(nil)
		case 1:
			b := bytes.Clone(s.f.safe[s.page].data)
			b[m.w.rng.IntN(len(b))] ^= 1 << m.w.rng.IntN(8)
			s.set(b)
		default:
			t := old[m.w.rng.IntN(len(old))]
			t.set(bytes.Clone(s.f.safe[s.page].data))
		}
		m.rotten = true
	}
	h.back(m.away())
	return len(old) > 0
}

func flip(m *menu, b []byte) { b[m.w.rng.IntN(len(b))] ^= 1 << m.w.rng.IntN(8) }

func blank(_ *menu, b []byte) { clear(b) }

// victimShards are the shards of the one store that may be harmed, in order.
func (m *menu) victimShards() (*store, []storeproto.ShardName) {
	st := m.choose()
	if st == nil || len(st.img.shards) == 0 {
		return nil, nil
	}
	return st, st.img.names()
}

func (m *menu) rot(how func(*menu, []byte)) bool {
	st, names := m.victimShards()
	if st == nil {
		return false
	}
	sh := st.img.shards[names[m.w.rng.IntN(len(names))]]
	at := m.w.rng.IntN(int(sh.head.Blocks)) * storeproto.BlockSize
	sh.data = bytes.Clone(sh.data)
	how(m, sh.data[at:at+storeproto.BlockSize])
	return m.spoiled(sh)
}

// spoiled notes that a shard may be wrong; false if it is what it was.
func (m *menu) spoiled(sh *shard) bool {
	sh.wrong = !sh.right()
	return sh.wrong
}

// misdirect writes a block of one shard over one of another.
func (m *menu) misdirect() bool {
	st, names := m.victimShards()
	if st == nil || len(names) < 2 {
		return false
	}
	a, b := st.img.shards[names[m.w.rng.IntN(len(names))]], st.img.shards[names[m.w.rng.IntN(len(names))]]
	from := m.w.rng.IntN(int(a.head.Blocks)) * storeproto.BlockSize
	to := m.w.rng.IntN(int(b.head.Blocks)) * storeproto.BlockSize
	b.data = bytes.Clone(b.data)
	copy(b.data[to:to+storeproto.BlockSize], a.data[from:from+storeproto.BlockSize])
	return m.spoiled(b)
}

func (m *menu) fill() bool {
	all := m.w.allStores()
	some := all[m.w.rng.IntN(len(all)):]
	if m.w.rng.IntN(2) == 0 {
		some = all
	}
	for _, st := range some {
		st.setFull(true)
	}
	m.filled = true
	m.w.after(m.w.between(100*time.Millisecond, 700*time.Millisecond), "there is room again", func() {
		for _, st := range some {
			st.setFull(false)
		}
	})
	return true
}

func (m *menu) slowDisk() bool {
	all := m.w.allStores()
	st := all[m.w.rng.IntN(len(all))]
	st.slow = m.w.between(2*time.Millisecond, 400*time.Millisecond)
	m.w.after(m.w.between(50*time.Millisecond, 600*time.Millisecond), st.name+" is fast again", func() { st.slow = 0 })
	return true
}

// anyWay is a direction between two hosts, or one and metad.
func (m *menu) anyWay() way {
	names := []id.Host{metadHost}
	for _, h := range m.w.hosts {
		names = append(names, h.name)
	}
	from := m.w.rng.IntN(len(names))
	to := (from + 1 + m.w.rng.IntN(len(names)-1)) % len(names)
	return way{names[from], names[to]}
}

func (m *menu) slowNetwork() bool {
	x := m.anyWay()
	m.w.net.slow[x] = m.w.between(time.Millisecond, 60*time.Millisecond)
	m.w.after(m.w.between(50*time.Millisecond, 800*time.Millisecond), "the network is fast again", func() { delete(m.w.net.slow, x) })
	return true
}

func (m *menu) cut() bool {
	x := m.anyWay()
	m.w.net.cut[x] = true
	m.w.after(m.w.between(20*time.Millisecond, 900*time.Millisecond), "a cut ends", func() { delete(m.w.net.cut, x) })
	return true
}

// partition leaves an owner alone with one store host, without metad, and lets another
// host take its disk.
func (m *menu) partition() bool {
	d := m.w.disks[m.w.rng.IntN(len(m.w.disks))]
	o := d.owner()
	if o == nil {
		return false
	}
	with := m.w.hosts[m.w.rng.IntN(len(m.w.hosts))]
	var cuts []way
	for _, h := range m.w.hosts {
		if h != o.h && h != with {
			cuts = append(cuts, way{o.h.name, h.name}, way{h.name, o.h.name})
		}
	}
	cuts = append(cuts, way{o.h.name, metadHost}, way{metadHost, o.h.name})
	for _, x := range cuts {
		m.w.net.cut[x] = true
	}
	m.w.after(m.w.between(leaseTerm, heartbeatTimeout+4*leaseTerm), "a partition ends", func() {
		for _, x := range cuts {
			delete(m.w.net.cut, x)
		}
	})
	return true
}

func (m *menu) pause(h *host, d time.Duration) bool {
	if h == nil || h.paused || m.crowded() {
		return false
	}
	h.pause()
	life := h.number
	m.w.after(d, string(h.name)+" goes on", func() {
		if h.number == life {
			h.resume()
		}
	})
	return true
}

// zombie pauses an owner for so long that it is replaced, and lets it go on.
func (m *menu) zombie() bool {
	d := m.w.disks[m.w.rng.IntN(len(m.w.disks))]
	o := d.owner()
	if o == nil {
		return false
	}
	return m.pause(o.h, m.w.between(heartbeatTimeout+leaseTerm, heartbeatTimeout+6*leaseTerm))
}

// jump moves a host's clock forward, as a long suspension does: grants run out early. The
// clocks of stores only run at one rate, which is what read leases rest on.
func (m *menu) jump() bool {
	h := m.anyUp()
	if h == nil {
		return false
	}
	h.skew += m.w.between(leaseTerm/4, 4*leaseTerm)
	return true
}

func (m *menu) jumpMetad() bool {
	m.w.metad.skew += m.w.between(heartbeatTimeout/2, 2*heartbeatTimeout)
	return true
}

func (m *menu) bucketAway() bool {
	b := m.w.bucket
	if b.away {
		return false
	}
	b.away = true
	m.w.after(m.w.between(20*time.Millisecond, time.Second), "the archive is back", func() { b.away = false })
	return true
}

func (m *menu) killWorker() bool {
	x := m.w.workers[m.w.rng.IntN(len(m.w.workers))]
	if !x.up {
		return false
	}
	x.kill()
	m.w.after(m.w.between(5*time.Millisecond, 2*workerSilent), x.name+" is back", x.boot)
	return true
}

func (m *menu) metadAway() bool {
	md := m.w.metad
	if md.silent() {
		return false
	}
	md.away = true
	m.w.after(m.w.between(50*time.Millisecond, 1500*time.Millisecond), "metad is back", func() { md.away = false })
	return true
}

func (m *menu) leader() bool {
	if m.w.metad.silent() {
		return false
	}
	m.w.metad.reign()
	return true
}

func (m *menu) takeover() bool {
	d := m.w.disks[m.w.rng.IntN(len(m.w.disks))]
	h := m.anyUp()
	if h == nil || !h.registered || h.paused {
		return false
	}
	if m.w.rng.IntN(2) == 0 { // metad finds the owner gone though it is not
		if v, ok := m.w.metad.m.Volume(d.id); ok && v.Owner != (id.Holder{}) {
			m.w.metad.skew += 2 * heartbeatTimeout
		}
	}
	h.acquire(d, toServe)
	return true
}

func (m *menu) handoff() bool {
	d := m.w.disks[m.w.rng.IntN(len(m.w.disks))]
	o := d.owner()
	if o == nil || o.h.paused {
		return false
	}
	o.drain()
	return true
}

// abandon takes an owner away for long, and the clients of its disk with it: nobody asks for
// the disk, and what its journal has must be rescued.
func (m *menu) abandon() bool {
	d := m.w.disks[m.w.rng.IntN(len(m.w.disks))]
	o := d.owner()
	if o == nil || !m.crash(o.h, true, 3*outAfter) {
		return false
	}
	d.asked = m.w.now() + 3*outAfter
	return true
}

// drain has a store emptied, if metad finds that possible.
func (m *menu) drain() bool {
	md := m.w.metad
	if m.victim != nil || m.leaves != nil || md.silent() || !m.w.safe() {
		return false
	}
	all := m.w.allStores()
	st := all[m.w.rng.IntN(len(all))]
	s, ok := md.m.Store(st.ref.Store)
	if !ok || reconcile.Drainable(md.m, md.refresh(), s) != nil {
		return false
	}
	m.leaves = st
	md.apply(&state.MarkStore{Store: st.ref, Leaving: true, Out: s.Out})
	return true
}

// left replaces a drained store once metad has let go of it.
func (m *menu) left() {
	if _, there := m.w.metad.m.Store(m.leaves.ref.Store); there || !m.leaves.h.up {
		return
	}
	st := m.leaves
	m.leaves = nil
	m.w.replace(st)
}

// cleaned counts what an engine that ends has cleaned.
func (m *menu) cleaned(s core.Stats) { m.w.cover.Cleaned += s.SegmentsRewritten + s.SegmentsMerged }

// whole tells that everything has all the margin that there can be: every group's stores are
// there, one version each, and no journal hangs on a memory that is gone.
func (w *World) whole() bool { return w.margin(w.placeless) }

// safe is whole, and no group waits for a store to take the place of one that is gone.
func (w *World) safe() bool {
	found := func(d *disk) bool { // all its stores are needed
		v, ok := w.metad.m.Volume(d.id)
		return ok && slices.ContainsFunc(v.List, func(e cluster.Ensemble) bool { return e.Found })
	}
	return w.metad.restore == nil && !slices.ContainsFunc(w.disks, found) && w.margin(func(state.PG) bool { return false })
}

func (w *World) margin(excused func(state.PG) bool) bool {
	m := w.metad.m
	for _, p := range m.PGs() {
		waits := slices.ContainsFunc(p.Current().Stores, w.missing)
		if waits && !excused(p) {
			return false
		}
		if len(p.Versions) > 1 && !(waits && p.TwoCodes()) { // a better code needs all the stores of it
			return false
		}
	}
	for _, d := range w.disks {
		v, ok := m.Volume(d.id)
		if !ok || len(v.List) != 1 || slices.ContainsFunc(v.List[0].Stores, w.missing) {
			return false
		}
	}
	return true
}

// placeless tells whether a group is wider than there are stores now: it waits for another.
func (w *World) placeless(p state.PG) bool {
	healthy := reconcile.Healthy(w.metad.top, nil)
	return len(healthy) < len(p.Current().Stores) && w.metad.m.PlanMove(p.Number, healthy, 0) == nil
}

// missing tells whether a memory is gone for good.
func (w *World) missing(r cluster.StoreRef) bool {
	st := w.store(r.Store)
	return st == nil || st.ref != r
}
