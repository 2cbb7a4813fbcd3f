package sim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// watchEvery is how often everything is counted again.
const watchEvery = 600 * time.Millisecond

// Live runs the world to its end: it works while things go wrong, until there was enough
// of both; then all that passes is healed and everything that was promised is demanded.
func (w *World) Live() error {
	for _, part := range []func(){w.warmUp, w.suffer, w.heal, w.rescue, w.withoutMetad, w.loseAllPower, w.giveBack} {
		if w.err == nil {
			part()
		}
	}
	w.close()
	return w.err
}

// Coverage is what the world had to bear.
func (w *World) Coverage() *Coverage {
	c := w.cover
	c.IOs, c.Messages, c.Steps = w.ios, w.messages, w.steps
	for _, d := range slices.Concat(w.disks, w.gone) {
		c.Requests += uint64(d.done)
	}
	return &c
}

// demand waits for cond, which must come true in a world without faults.
func (w *World) demand(check Check, limit time.Duration, what string, cond func() bool) {
	w.wanted = what
	if w.err == nil && !w.until(limit, cond) {
		w.fail(check, "%s, not after %v: %s", what, limit, w.state())
	}
}

func (w *World) warmUp() {
	w.demand(CheckHeal, 20*time.Second, "disks are served", w.served)
	w.watch()
	w.families()
	w.archivists()
	w.metad.backups()
	w.run(200 * time.Millisecond)
}

// patience is several times what a world needs for its I/Os and faults.
const patience = 10 * time.Minute

// suffer goes on until there were enough I/Os and faults. A world that comes to fewer proves less than it says.
func (w *World) suffer() {
	w.menu.begin()
	enough := w.until(cmp.Or(w.cfg.Patience, patience), func() bool {
		return w.ios >= w.cfg.IOs && (w.cfg.Calm || w.cfg.Only != 0 || w.cover.faults() >= w.cfg.Faults)
	})
	if w.err == nil && !enough {
		w.fail(CheckWorld, "only %d I/Os and %d faults: %s", w.ios, w.cover.faults(), w.state())
	}
}

// heal ends what passes and replaces what is spoiled: then all must become whole.
func (w *World) heal() {
	w.log("all is healed")
	w.menu.calm = true
	w.net.heal()
	w.metad.away, w.bucket.away = false, false
	for _, x := range w.workers {
		x.boot()
	}
	for _, h := range w.hosts {
		h.resume()
		died := false
		for _, st := range h.stores {
			st.slow, st.crashIn, st.fs.err = 0, 0, nil
			st.setFull(false)
			died = died || st.died != ""
		}
		if died {
			h.crash(false)
		}
		if !h.up {
			h.boot()
		}
	}
	if m := &w.menu; m.victim != nil && m.rotten && !m.victim.gone() {
		w.replace(m.victim)
	}
	// A cleaner that met a full store leaves it alone for half a minute, and codes nothing anew.
	w.waits = true
	w.demand(CheckHeal, 2*time.Minute, "everything is whole and served", w.paced(func() bool {
		if w.menu.leaves != nil {
			w.menu.left()
		}
		return w.menu.leaves == nil && w.whole() && w.served()
	}))
	w.demand(CheckDeleted, time.Minute, "disks that are to be deleted are", func() bool {
		return !slices.ContainsFunc(w.disks, func(d *disk) bool { return d.leaves })
	})
	w.demand(CheckHeal, 30*time.Second, "wrong shards are mended", w.paced(func() bool {
		return !slices.ContainsFunc(w.allStores(), func(st *store) bool { return !st.img.right() })
	}))
	w.run(4 * heartbeatInterval) // until then owners may have heard of stores that were full
	w.demand(CheckHeal, time.Minute, "owners know that there is room", func() bool { return !w.knowFull() })
	w.menu.filled = false
	w.demand(CheckHeal, time.Minute, "everything is whole and served", w.paced(func() bool { return w.whole() && w.served() }))
	w.demand(CheckHeal, time.Minute, "journals are on as many hosts as there are, and nowhere else", w.paced(func() bool { return w.spread() && w.whole() }))
	w.waits = false
	w.idle()
	w.demand(CheckHeal, time.Minute, "groups that were moved for balance since are whole", w.paced(w.whole))
	w.checkReachable()
	w.checkWhole()
}

// knowFull tells whether an owner takes a store for full, or would if there were no other.
func (w *World) knowFull() bool {
	return slices.ContainsFunc(w.disks, func(d *disk) bool {
		e := d.owner()
		return e != nil && e.core != nil && (e.core.Stats().Full || e.core.Stats().Refused)
	})
}

// spread tells whether the newest ensemble of every disk is on three hosts, or on all: one
// that was formed while hosts were away is replaced when they are back.
func (w *World) spread() bool {
	for _, d := range w.disks {
		v, ok := w.metad.m.Volume(d.id)
		if !ok || len(v.List) == 0 {
			return false
		}
		on := make(map[*host]bool)
		for _, r := range v.List[len(v.List)-1].Stores {
			if st := w.store(r.Store); st != nil {
				on[st.h] = true
			}
		}
		if len(on) < min(cluster.JournalHosts, len(w.hosts)) {
			return false
		}
	}
	return true
}

// paced asks cond, which is dear, once in some milliseconds only.
func (w *World) paced(cond func() bool) func() bool {
	var next time.Duration
	return func() bool {
		if w.now() < next {
			return false
		}
		next = w.now() + 3*time.Millisecond
		return cond()
	}
}

// served tells whether every disk has an owner that serves it under its newest epoch, and
// every host its place.
func (w *World) served() bool {
	if w.metad.restore != nil {
		return false
	}
	for _, h := range w.hosts {
		if !h.up || !h.registered {
			return false
		}
	}
	for _, d := range w.disks {
		if o := d.owner(); o == nil || o.epoch != w.epochOf(d) || o.frozen || d.held {
			return false
		}
	}
	return true
}

// idle waits until every request has ended.
func (w *World) idle() {
	w.quieten(true)
	w.demand(CheckOnce, time.Minute, "every request ends", func() bool {
		for _, d := range w.disks {
			if d.waiting > 0 {
				return false
			}
		}
		return true
	})
}

func (w *World) quieten(quiet bool) {
	for _, d := range w.disks {
		d.quiet = quiet
	}
}

// rescue takes, in some worlds, an owner away while no client asks for its disk: another
// host must pack what the journal has, and let the disk go.
func (w *World) rescue() {
	if w.cfg.Calm || w.rng.IntN(4) > 0 {
		return
	}
	d := w.disks[w.rng.IntN(len(w.disks))]
	o := d.owner()
	if o == nil {
		return
	}
	w.cover.add(Abandon)
	d.asked = w.now() + time.Hour
	o.h.crash(true)
	w.demand(CheckRescue, 30*time.Second, "a disk whose owner stays away is packed and let go", func() bool {
		v, _ := w.metad.m.Volume(d.id)
		return v.Epoch > o.epoch && v.Owner == (id.Holder{})
	})
	d.asked = w.now()
	o.h.boot()
	w.demand(CheckHeal, 20*time.Second, "disks are served", w.served)
}

// withoutMetad demands that reads and writes go on while metad is away, on disks that have
// had a moment with it: README.md, "Not there".
func (w *World) withoutMetad() {
	w.demand(CheckHeal, time.Minute, "owners have names for segments", func() bool {
		for _, d := range w.disks {
			if o := d.owner(); o == nil || !o.named || o.leaving {
				return false
			}
		}
		return true
	})
	w.metad.away = true
	var before []id64
	for _, d := range w.disks {
		before = append(before, id64{d, d.done})
	}
	w.quieten(false)
	w.run(2 * leaseTerm)
	w.idle()
	for _, b := range before {
		if b.d.done-b.n < 20 && !b.d.retired {
			w.fail(CheckMetadDown, "%s did %d requests without metad", b.d.name, b.d.done-b.n)
		}
	}
	w.metad.away = false
	w.demand(CheckHeal, 20*time.Second, "disks are served", w.served)
}

type id64 struct {
	d *disk
	n int
}

// readAll reads everything that was ever written.
func (w *World) readAll() {
	const chunk = 64 * block.Size
	for _, d := range w.disks {
		for off := uint64(0); off < uint64(d.blocks.Offset()) && w.err == nil; off += chunk {
			if !d.model.Touched(off, chunk) {
				continue
			}
			if err := w.readOne(d, off, chunk); err != nil && w.err == nil {
				w.fail(CheckReads, "%s: read at %d: %v", d.name, off, err)
			}
		}
	}
}

// readOne reads a range of a disk. An owner may let the disk go in this very moment: then
// the next one is asked.
func (w *World) readOne(d *disk, off, n uint64) error {
	return w.again(d, func() *operation { return d.read(d.owner(), off, n) })
}

// again makes a request of whoever owns the disk, until it is not refused because the owner lets the disk go.
func (w *World) again(d *disk, request func() *operation) error {
	for range 400 { // an owner that lets go waits for deletions for up to two seconds
		w.demand(CheckHeal, 20*time.Second, "disks are served", w.served)
		if w.err != nil {
			return w.err
		}
		o := request()
		w.demand(CheckOnce, time.Minute, "a request ends", func() bool { return o.ended })
		if !errors.Is(o.err, errs.ErrClosed) && !errors.Is(o.err, errs.ErrStaleEpoch) {
			return o.err
		}
		w.run(10 * time.Millisecond)
	}
	return errAgain
}

// loseAllPower cuts everybody off in the middle of work, and reads everything again.
func (w *World) loseAllPower() {
	w.quieten(false)
	w.run(100 * time.Millisecond)
	for _, h := range w.hosts {
		h.crash(true)
	}
	w.quieten(true)
	for _, h := range w.hosts {
		h.boot()
	}
	w.demand(CheckHeal, time.Minute, "disks are served after a loss of power", w.served)
	w.readAll()
	w.readSnaps()
	w.idle()
	w.checkReachable()
}

// giveBack trims and drains everything: the space must come back.
func (w *World) giveBack() {
	w.demand(CheckHeal, time.Minute, "everything is whole and served", w.paced(func() bool { return w.whole() && w.served() }))
	w.archiveAll()
	w.flattenAll()
	w.endClones()
	w.dropAll()
	w.emptyBucket()
	for _, d := range w.disks {
		if w.err != nil {
			return
		}
		if err := w.again(d, func() *operation { return d.change(d.owner(), core.OpTrim, 0, uint64(d.blocks.Offset())) }); err != nil && w.err == nil {
			w.fail(CheckSpace, "%s: trim all of it: %v", d.name, err)
		}
	}
	w.readAll()
	for _, d := range w.disks {
		if w.err != nil {
			return
		}
		d.asked = w.now() + time.Hour // nobody takes it again
		o := d.owner()
		if o == nil {
			w.fail(CheckHeal, "%s has no owner in peace", d.name)
			return
		}
		o.drain()
		w.demand(CheckSpace, time.Minute, "a disk drains", func() bool { return o.drained })
	}
	w.run(time.Second)
	if w.err == nil {
		w.checkSpace()
	}
}

// close ends everything that runs.
func (w *World) close() {
	w.menu.calm = true
	for _, x := range w.workers {
		x.kill()
	}
	for _, h := range w.hosts {
		h.resume()
		h.crash(false)
	}
	w.touch(w.end)
	w.settle()
	for _, h := range w.hosts {
		for _, st := range h.stores {
			if st.log != nil {
				_ = st.log.Close() // files of the world's own have no errors to tell
			}
		}
	}
}

// state says in a line where the world stands, for a failure's message.
func (w *World) state() (s string) {
	for _, d := range w.disks {
		v, _ := w.metad.m.Volume(d.id)
		s += d.name + " at " + v.Epoch.String() + " of " + v.Owner.String()
		for _, e := range v.List {
			s += " " + e.ID.String()
			for _, r := range e.Stores {
				if st := w.store(r.Store); st != nil {
					s += "," + st.name
				} else {
					s += ",gone"
				}
			}
		}
		s += "; "
	}
	if st := w.menu.leaves; st != nil {
		x, there := w.metad.m.Store(st.ref.Store)
		groups, lists := w.metad.m.Needed(st.ref)
		s += fmt.Sprintf("%s is drained: %t %+v, %d groups, %d lists; ", st.name, there, x, groups, lists)
	}
	for _, p := range w.metad.m.PGs() {
		if slices.ContainsFunc(p.Current().Stores, w.missing) {
			s += fmt.Sprintf("group %d misses a store: %s; ", p.Number, groupString(p))
		}
		if len(p.Versions) > 1 {
			s += "a group is at " + groupString(p) + "; "
		}
	}
	for _, h := range w.hosts {
		s += string(h.name)
		for _, e := range h.engines {
			s += fmt.Sprintf(" (%s opened %t: %+v)", e.name, e.opened, e.core.Stats())
		}
		if !h.up {
			s += " down"
		}
		if h.paused {
			s += " paused"
		}
		for _, st := range h.stores {
			s += " " + st.name + st.died
		}
		for _, f := range h.fillers {
			for _, p := range f.worker.Progress() {
				if !p.Whole {
					s += " (" + f.st.name + " fills " + p.Problem + ")"
				}
			}
		}
		s += "; "
	}
	return s
}

func groupString(p state.PG) (s string) {
	for _, v := range p.Versions {
		s += " ["
		for _, r := range v.Stores {
			s += " " + string('a'+rune(r.Store[15]))
		}
		s += " ]"
	}
	return s
}
