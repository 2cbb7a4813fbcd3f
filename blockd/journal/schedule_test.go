package journal

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// simLimits make time limits short, so that schedules meet them often.
var simLimits = Limits{
	ReplaceAfter: 60 * time.Millisecond, RetryAfter: 2 * time.Millisecond, AskAfter: 5 * time.Millisecond,
	NudgeAfter: 100 * time.Millisecond, RecoverWait: 3 * time.Second, LagBytes: 16 << 10, WindowBatches: 8, UnackedBatches: 24,
}

// tally counts over all schedules what they met, so that none of it goes untested.
type tally struct {
	opened, failed, adds, closes, copies, removes, acks, reads int
}

// Without this an interleaving nobody thought of could lose an acknowledged
// record: random schedules of every fault the journal is built for, each judged
// by a ledger of what was promised.
func TestRandomSchedulesLoseNothing(t *testing.T) {
	first, n := uint64(1), uint64(250)
	if s := os.Getenv("SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, n = v, 1
	} else if s := os.Getenv("SCHEDULES"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	if testing.Short() {
		n = min(n, 60)
	}
	var sum tally
	for seed := first; seed < first+n; seed++ {
		w := newWorld(t, seed, 3+int(seed%5))
		w.tracing = n == 1
		w.schedule()
		sum.add(w)
		if w.failed {
			t.Fatalf("rerun with SEED=%d", seed)
		}
	}
	t.Logf("%+v", sum)
	if n > 100 && (sum.closes < 10 || sum.copies < 1 || sum.removes < 5 || sum.failed < 1 || sum.opened < int(n)) {
		t.Errorf("the schedules do not meet what they should: %+v", sum)
	}
}

func (s *tally) add(w *world) {
	s.opened += len(w.ledger.covers)
	s.adds += w.metad.adds
	s.closes += w.metad.closes
	s.copies += w.metad.copies
	s.removes += w.metad.removes
	for _, p := range w.procs {
		s.acks += p.acks
		s.reads += p.readsDone
		if p.err != nil {
			s.failed++
		}
	}
}

// schedule runs one random history, then heals everything and demands service,
// unless more was lost than the journal survives.
func (w *world) schedule() {
	losses := w.rng.IntN(3) == 0 // disks may be lost for good
	w.faulty = w.rng.IntN(5) != 0
	hosts := []id.Host{"a", "b", "c"}
	numbers := map[id.Host]uint64{}
	spawn := func() *process {
		h := hosts[w.rng.IntN(len(hosts))]
		for _, p := range w.procs {
			if p.holder.Host == h {
				p.kill() // one life at a time
			}
		}
		numbers[h]++
		return w.spawn(h, numbers[h])
	}
	spawn().open(simLimits)
	calm := 1 + w.rng.IntN(40)
	steps := 60 + w.rng.IntN(300)
	for i := 0; i < steps && !w.failed; i++ {
		w.run(w.between(0, time.Duration(calm)*time.Millisecond))
		w.act(spawn, losses)
	}
	if w.failed {
		return
	}
	w.heal(spawn, losses)
}

// owner is the process that metad means.
func (w *world) owner() *process { return w.metad.owner }

func (w *world) act(spawn func() *process, losses bool) {
	r := w.rng
	p := w.procs[r.IntN(len(w.procs))]
	if r.IntN(3) > 0 {
		p = w.owner()
	}
	s := w.stores[r.IntN(len(w.stores))]
	switch x := r.IntN(100); {
	case x < 40:
		for range 1 + r.IntN(6) {
			p.write(1 + r.IntN(4))
		}
	case x < 55:
		for range 1 + r.IntN(3) {
			p.read()
		}
	case x < 65:
		if p.core != nil {
			acked := p.core.Acked(storeproto.Journal)
			if back := id.LSN(r.IntN(30)); back < acked {
				p.commit(acked - back)
			}
		}
	case x < 68:
		p.checkpoint()
	case x < 72:
		w.log("store %d slow", s.id[0])
		s.slow = w.between(0, 40*time.Millisecond)
		if r.IntN(2) == 0 {
			s.slow = 0
		}
	case x < 76:
		w.log("store %d restarts", s.id[0])
		s.restart()
	case x < 79:
		w.log("store %d crashes", s.id[0])
		s.crash()
	case x < 84:
		for _, s := range w.stores {
			if !s.up && !w.metad.lost[s.member()] {
				w.log("store %d starts", s.id[0])
				s.start()
				s.run()
				break
			}
		}
	case x < 86:
		w.log("store %d pauses", s.id[0])
		s.paused = true
		w.after(w.between(0, 300*time.Millisecond), s.resume)
	case x < 88:
		w.log("%s pauses", p.holder)
		p.paused = true
		w.after(w.between(0, 600*time.Millisecond), p.resume)
	case x < 90:
		for _, s := range w.stores {
			if l := p.links[s.id]; l != nil && r.IntN(3) == 0 {
				l.cut = !l.cut
			}
		}
	case x < 93:
		p.do(func() { w.hint(p, s) })
	case x < 96:
		w.takeover(spawn)
	case x < 97 && losses:
		w.lose(s)
	case x >= 98:
		w.split(spawn)
	}
}

// split cuts the network between the owner with one of its stores, which renews its grant
// there, and metad and all other stores with a new owner.
func (w *world) split(spawn func() *process) {
	old := w.owner()
	if old.core == nil || old.dead {
		return
	}
	members := old.core.newest().members
	with := members[w.rng.IntN(len(members))].Store
	p := spawn()
	if old.dead {
		return // the same host
	}
	w.log("%s is alone with store %d, %s has the others", old.holder, with[0], p.holder)
	for _, s := range w.stores {
		old.link(s.id).cut, p.link(s.id).cut = s.id != with, s.id == with
	}
	old.alone = true
	w.after(w.between(w.leaseTerm, 3*w.leaseTerm), func() {
		old.alone = false
		for _, s := range w.stores {
			old.link(s.id).cut, p.link(s.id).cut = false, false
		}
	})
	p.open(simLimits)
}

// hint tells a process what metad thinks of a store, right or wrong.
func (w *world) hint(p *process, s *simStore) {
	up := w.rng.IntN(2) == 0
	switch {
	case p.core != nil && up:
		p.core.StoreUp(p.now(), s.id, &p.fx)
	case p.core != nil:
		p.core.StoreDown(p.now(), s.id, &p.fx)
	case p.opener != nil && up:
		p.opener.StoreUp(p.now(), s.id, &p.fx)
	case p.opener != nil:
		p.opener.StoreDown(p.now(), s.id, &p.fx)
	}
}

// takeover gives the volume to another process, or to the same again.
func (w *world) takeover(spawn func() *process) {
	p := w.procs[w.rng.IntN(len(w.procs))]
	if w.rng.IntN(2) == 0 || p.dead {
		p = spawn()
	}
	p.open(simLimits)
}

// lose loses a disk for good, or synced records of it.
func (w *world) lose(s *simStore) {
	rows := w.sortedStreams(s.disk.rows)
	if w.rng.IntN(2) == 0 && len(rows) > 0 {
		for range 3 {
			s.rot(rows[w.rng.IntN(len(rows))])
		}
		return
	}
	if w.rng.IntN(2) == 0 && len(rows) > 0 {
		n := rows[w.rng.IntN(len(rows))]
		w.log("store %d loses records of %s %s", s.id[0], n.Ensemble, n.Kind)
		s.loseRecords(n)
	} else {
		w.log("store %d is wiped", s.id[0])
		w.metad.lost[s.member()] = w.rng.IntN(2) == 0
		s.wipe()
	}
	s.start()
	s.run()
}

// heal ends all faults: within a bounded time the volume must open and take writes.
func (w *world) heal(spawn func() *process, losses bool) {
	w.faulty = false
	w.log("all is healed")
	for _, s := range w.stores {
		s.slow = 0
		s.resume()
		if !s.up {
			s.start()
			s.run()
		}
	}
	for _, p := range w.procs {
		p.resume()
		p.alone = false
		for _, l := range p.links {
			l.cut = false
		}
		p.do(func() {
			for _, s := range w.stores {
				if p.core != nil {
					p.core.StoreUp(p.now(), s.id, &p.fx)
				} else if p.opener != nil {
					p.opener.StoreUp(p.now(), s.id, &p.fx)
				}
			}
		})
	}
	p := w.owner()
	if p.dead || p.err != nil || p.fenced || w.rng.IntN(2) == 0 {
		p = spawn()
		p.open(simLimits)
	}
	w.until(10*time.Second, func() bool { return p.core != nil || p.err != nil })
	if p.core == nil {
		if !losses {
			w.fail("%s does not open though all is well: %v, opener %s", p.holder, p.err, showOpener(p.opener))
		}
		return
	}
	acks := p.acks
	before := p.core.Acked(storeproto.Journal)
	w.until(10*time.Second, func() bool {
		p.write(1)
		w.run(time.Millisecond)
		return p.acks > acks && p.core.Acked(storeproto.Journal) > before
	})
	if p.acks == acks {
		w.fail("%s takes no writes though all is well: %+v", p.holder, p.core.Status())
	}
	w.settle(p)
}

// settle demands that in peace the list shrinks to one ensemble, reads need no
// round, and everything acknowledged is on two stores.
func (w *world) settle(p *process) {
	ok := w.until(10*time.Second, func() bool {
		p.commit(p.core.Acked(storeproto.Journal))
		w.run(5 * time.Millisecond)
		p.checkpoint()
		w.run(20 * time.Millisecond)
		return len(w.metad.list.Ensembles) == 1 && p.core.MayRead(p.now())
	})
	if !ok && !w.failed {
		w.fail("%s does not come to rest: %s, %+v, asker %+v", p.holder, showList(w.metad.list), p.core.Status(), p.core.asker)
	}
}

func showOpener(o *Opener) string {
	if o == nil {
		return "none"
	}
	return fmt.Sprintf("ready %v runs %v %v waiting for: %v, %+v, asker %+v", o.core.opening.ready, o.runs[0].done, o.runs[1].done, o.waitingFor(), o.core.Status(), o.core.asker)
}
