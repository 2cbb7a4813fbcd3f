package journal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// process is one life of a blockd that owns the volume, or believes so.
type process struct {
	w      *world
	holder id.Holder
	epoch  id.Epoch
	leases *Leases
	opener *Opener
	core   *Core
	fx     Effects
	lfx    LeaseEffects
	busy   bool
	links  map[id.Store]*link
	dead   bool
	paused bool
	alone  bool // cut off from metad
	parked []func()
	skew   time.Duration
	err    error // why the opening failed

	covered    id.LSN // of the journal, durable in the meta stream
	pending    []pendingMeta
	committing bool
	reads      []pendingRead
	fenced     bool
	acks       int
	readsDone  int
}

type pendingMeta struct{ last, covered id.LSN }

type pendingRead struct {
	token uint64
	after int // acks of later epochs when it arrived
}

// link is the connection of a process to a store. Requests arrive in order; when
// it breaks, those under way fail, and what was sent may still arrive, late.
type link struct {
	open []*request // in the order of sending
	last time.Duration
	back time.Duration
	cut  bool
}

type request struct {
	done   bool
	refuse func(error)
}

func (w *world) spawn(host id.Host, number uint64) *process {
	p := &process{w: w, holder: id.Holder{Host: host, Number: number}, links: make(map[id.Store]*link)}
	p.skew = time.Duration(w.rng.IntN(1000)) * time.Second
	p.leases = NewLeases(LeaseConfig{Holder: p.holder, Wait: 80 * time.Millisecond, Retry: 20 * time.Millisecond, Answered: func(s *LeaseSend) {
		p.do(func() { p.leases.Done(p.now(), s, &p.lfx) })
	}})
	w.procs = append(w.procs, p)
	p.tick()
	return p
}

func (p *process) now() time.Duration { return p.w.now + p.skew }

func (p *process) tick() {
	if p.dead {
		return
	}
	p.w.after(p.w.between(10*time.Millisecond, 20*time.Millisecond), func() {
		p.do(func() {
			p.leases.Tick(p.now(), &p.lfx)
			switch {
			case p.core != nil:
				p.core.Tick(p.now(), &p.fx)
			case p.opener != nil:
				p.opener.Tick(p.now(), &p.fx)
			}
		})
		p.tick()
	})
}

// do runs a step of the process and then carries out all effects.
func (p *process) do(f func()) {
	if p.dead {
		return
	}
	if p.paused {
		p.parked = append(p.parked, f)
		return
	}
	f()
	if p.busy {
		return
	}
	p.busy = true
	for !p.fx.Empty() || len(p.lfx.Sends)+len(p.lfx.Fenced) > 0 {
		fx, lfx := p.fx, p.lfx
		p.fx, p.lfx = Effects{}, LeaseEffects{}
		p.carry(&fx, &lfx)
	}
	p.busy = false
}

func (p *process) resume() {
	p.paused = false
	parked := p.parked
	p.parked = nil
	for _, f := range parked {
		p.do(f)
	}
}

// link is the one to a store.
func (p *process) link(s id.Store) *link {
	l := p.links[s]
	if l == nil {
		l = &link{}
		p.links[s] = l
	}
	return l
}

func (p *process) kill() {
	p.dead = true
	p.opener, p.core = nil, nil
}

// open takes the volume over at a new epoch and begins to open it.
func (p *process) open(lim Limits) {
	p.w.metad.takeover(p)
	p.epoch = p.w.metad.epoch
	p.w.log("%s opens %s, list %s", p.holder, p.epoch, showList(p.w.metad.list))
	p.do(func() { p.begin(lim) })
}

func showList(l List) string {
	s := fmt.Sprintf("v%d", l.Version)
	for _, e := range l.Ensembles {
		s += fmt.Sprintf(" %s", e.ID)
		for _, m := range e.Members {
			s += fmt.Sprintf(" %d", m.Store[0])
		}
		if e.Closed {
			s += fmt.Sprintf(" closed %v-%v at %d,%d", e.From, e.To, e.Holders[0].Store[0], e.Holders[1].Store[0])
		}
	}
	return s
}

func (p *process) begin(lim Limits) {
	m := p.w.metad
	if p.core != nil {
		p.core.Close()
	}
	if p.opener != nil {
		p.opener.Close()
	}
	p.core, p.fenced, p.err = nil, false, nil
	p.covered, p.pending, p.reads, p.committing = 0, nil, nil, false
	var lost []id.Store
	for _, s := range p.w.stores {
		if m.lost[s.member()] {
			lost = append(lost, s.id)
		}
	}
	var o *Opener
	var err error
	o, err = NewOpener(p.now(), OpenConfig{
		Volume: p.w.volume, Epoch: p.epoch, Holder: p.holder, List: m.list.Clone(), Prior: slices.Clone(m.prior),
		MetaFrom: m.checkpoint, Lost: lost, Leases: p.leases, Limits: lim,
		Completed: func(s *Send) { p.do(func() { o.Done(p.now(), s, &p.fx) }) },
		Confirmed: func(c *ConfirmSend) { p.do(func() { o.core.Confirmed(p.now(), c, &p.fx) }) },
	}, &p.fx)
	if err != nil {
		p.err = err
		p.w.log("%s cannot open %s: %v", p.holder, p.epoch, err)
		return
	}
	p.opener = o
}

func (p *process) carry(fx *Effects, lfx *LeaseEffects) {
	w := p.w
	for _, s := range fx.Appends {
		p.append(s)
	}
	for _, c := range fx.Confirms {
		p.confirm(c)
	}
	for _, a := range fx.Asks {
		p.ask(a)
	}
	for _, f := range fx.Fences {
		p.fence(f)
	}
	for _, f := range fx.Fetches {
		p.fetch(f)
	}
	for _, d := range fx.Drops {
		p.drop(d)
	}
	for _, l := range lfx.Sends {
		p.lease(l)
	}
	if fx.Meta != nil {
		p.decodeMeta(fx.Meta)
	}
	for k, l := range fx.Acked {
		if l != 0 && p.core != nil {
			p.acked(storeproto.Kind(k), l)
		}
	}
	if fx.Readable != 0 {
		p.readable(fx.Readable)
	}
	if fx.Opened != nil {
		w.log("%s opened %s: next %v run %d meta %d", p.holder, p.epoch, fx.Opened.Next, len(fx.Opened.Journal), len(fx.Opened.Meta))
		p.core, p.opener = fx.Opened.Core, nil
		w.ledger.opened(p, fx.Opened)
		for _, b := range append(slices.Clone(fx.Opened.Journal), fx.Opened.Meta...) {
			b.Release()
		}
	}
	if fx.Failed != nil {
		w.log("%s failed to open %s: %v", p.holder, p.epoch, fx.Failed)
		p.err = fx.Failed
	}
	if fx.Fenced {
		w.log("%s is fenced under %s", p.holder, p.epoch)
		p.fenced = true
	}
}

// meta records of the model: {covered LSN}, behind a unique number.
func (p *process) decodeMeta(run *MetaRun) {
	covered := p.w.metad.covered
	if p.epoch != p.w.metad.epoch {
		covered = 0 // it read an older record; its fate is sealed anyway
	}
	for _, b := range run.Batches {
		covered = max(covered, id.LSN(binary.LittleEndian.Uint64(b.Meta[8:])))
	}
	p.covered = covered
	p.w.log("%s covers %d under %s", p.holder, covered, p.epoch)
	p.do(func() { p.opener.Covered(p.now(), covered, &p.fx) })
}

// deadline is when a process gives a request up.
const deadline = 2 * time.Second

// send brings a request over the link: at, on the store, runs when it arrives.
func (p *process) send(to Member, check bool, at func(*simStore, *request), refuse func(error)) {
	w := p.w
	l := p.link(to.Store)
	s := w.store(to.Store)
	r := &request{}
	r.refuse = func(err error) {
		if !r.done {
			r.done = true
			refuse(err)
		}
	}
	l.open = append(slices.DeleteFunc(l.open, func(r *request) bool { return r.done }), r)
	w.after(deadline, func() { r.refuse(fmt.Errorf("no answer: %w", errs.ErrTimeout)) })
	if w.faulty && w.rng.IntN(400) == 0 {
		p.cut(l)
	}
	if l.cut || w.faulty && w.rng.IntN(300) == 0 {
		w.after(w.between(time.Millisecond, 30*time.Millisecond), func() { r.refuse(fmt.Errorf("cut off: %w", errs.ErrTimeout)) })
		return
	}
	arrive := max(w.now+w.between(20*time.Microsecond, 200*time.Microsecond), l.last)
	l.last = arrive
	w.after(arrive-w.now, func() {
		if check && s.inc != to.Incarnation {
			r.refuse(fmt.Errorf("another incarnation: %w", errs.ErrNotFound))
			return
		}
		if r.done && w.rng.IntN(2) == 0 {
			return // the link broke before it got through
		}
		if r.done && w.rng.IntN(2) == 0 {
			// It got through, but late, past what a newer link brought.
			w.after(w.between(0, 200*time.Millisecond), func() {
				if !check || s.inc == to.Incarnation {
					at(s, r)
				}
			})
			return
		}
		at(s, r)
	})
}

// answer brings an answer back in order, unless it is lost.
func (p *process) answer(to id.Store, r *request, f func()) {
	l := p.links[to]
	arrive := max(p.w.now+p.w.between(20*time.Microsecond, 200*time.Microsecond), l.back)
	l.back = arrive
	p.w.after(arrive-p.w.now, func() {
		if !r.done {
			r.done = true
			f()
		}
	})
}

// cut breaks a link: everything under way fails with an unknown outcome.
func (p *process) cut(l *link) {
	open := slices.Clone(l.open)
	p.w.after(p.w.between(0, 10*time.Millisecond), func() {
		for _, r := range open {
			r.refuse(fmt.Errorf("link broke: %w", errs.ErrUnavailable))
		}
	})
}

func (p *process) append(s *Send) {
	a := s.Append // a copy, as the wire makes one
	a.Batch.Retain()
	p.w.ledger.sent(p, &a)
	finish := func(err error) {
		s.Append.Err = err
		s.Append.Done(&s.Append)
	}
	p.send(s.Member, true, func(st *simStore, r *request) {
		wire := a
		wire.Done = func(x *storeproto.Append) {
			err := x.Err
			p.answer(st.id, r, func() { finish(err) })
		}
		st.do(func() { st.core.Append(&wire) }, r.refuse)
	}, finish)
}

func (p *process) confirm(c *ConfirmSend) {
	finish := func(err error) {
		c.Confirm.Err = err
		c.Confirm.Done(&c.Confirm)
	}
	v, e := c.Confirm.Volume, c.Confirm.Epoch
	p.send(c.Member, true, func(st *simStore, r *request) {
		st.do(func() {
			err := st.core.Confirm(v, e)
			p.answer(st.id, r, func() { finish(err) })
		}, r.refuse)
	}, finish)
}

func (p *process) lease(l *LeaseSend) {
	a := l.Lease
	finish := func(x storeproto.Lease) {
		l.Lease.Err, l.Lease.Term, l.Lease.Naming, l.Lease.Named = x.Err, x.Term, x.Naming, x.Named
		l.Lease.Done(&l.Lease)
	}
	p.send(l.Member, true, func(st *simStore, r *request) {
		wire := a
		wire.Done = func(x *storeproto.Lease) {
			got := *x
			p.answer(st.id, r, func() { finish(got) })
		}
		st.do(func() { st.core.Lease(st.now(), &wire) }, r.refuse)
	}, func(err error) { finish(storeproto.Lease{Err: err}) })
}

func (p *process) fence(f FenceSend) {
	finish := func(reply storeproto.FenceReply, err error) {
		p.do(func() {
			if p.opener != nil && p.opener.cfg.Epoch == f.Fence.Epoch {
				p.opener.FenceDone(p.now(), f, reply, err, &p.fx)
			}
		})
	}
	p.send(Member{Store: f.Store}, false, func(st *simStore, r *request) {
		st.do(func() {
			st.core.Fence(st.now(), &core.Fencing{Req: f.Fence, Done: func(x *core.Fencing) {
				reply, err := x.Reply, x.Err
				p.answer(st.id, r, func() { finish(reply, err) })
			}})
		}, r.refuse)
	}, func(err error) { finish(storeproto.FenceReply{}, err) })
}

func (p *process) fetch(f FetchSend) {
	finish := func(reply storeproto.FetchReply, err error) {
		p.do(func() {
			if p.opener != nil {
				p.opener.FetchDone(p.now(), f, reply, err, &p.fx)
			}
		})
	}
	o := p.opener
	p.send(Member{Store: f.Store}, false, func(st *simStore, r *request) {
		st.do(func() {
			reply, err := st.fetch(f.Fetch)
			p.answer(st.id, r, func() {
				if p.opener == o {
					finish(reply, err)
				}
			})
		}, r.refuse)
	}, func(err error) {
		if p.opener == o {
			finish(storeproto.FetchReply{}, err)
		}
	})
}

func (p *process) drop(d DropSend) {
	finish := func(err error) {
		p.do(func() {
			if p.core != nil && p.core.epoch >= d.Drop.Epoch {
				p.core.Dropped(p.now(), d, err, &p.fx)
			}
		})
	}
	p.send(Member{Store: d.Store}, false, func(st *simStore, r *request) {
		st.do(func() {
			st.core.Drop(d.Drop, &core.Control{Done: func(c *core.Control) {
				err := c.Err
				p.answer(st.id, r, func() { finish(err) })
			}})
		}, r.refuse)
	}, finish)
}

// ask brings a question to metad: it may be lost, its answer may, and it may be done late.
func (p *process) ask(a Ask) {
	w := p.w
	epoch := p.epoch
	finish := func(l List, err error) {
		p.do(func() {
			if a.Epoch != p.epoch || p.epoch != epoch {
				return
			}
			r := AskResult{Ask: a, List: l, Err: err}
			switch {
			case p.core != nil:
				p.core.Answer(p.now(), r, &p.fx)
			case p.opener != nil:
				p.opener.Answer(p.now(), r, &p.fx)
			}
		})
	}
	apply := func() (List, error) {
		l, err := w.metad.apply(a)
		w.log("metad: %s of %s v%d: %v -> %s", a.Kind, a.Epoch, a.Version, err, showList(w.metad.list))
		return l, err
	}
	delay := w.between(200*time.Microsecond, 3*time.Millisecond)
	if p.alone {
		w.after(delay, func() { finish(List{}, fmt.Errorf("metad is not to be reached: %w", errs.ErrUnavailable)) })
		return
	}
	if w.faulty && w.rng.IntN(6) == 0 {
		lost := w.between(5*time.Millisecond, 50*time.Millisecond)
		w.after(lost, func() { finish(List{}, fmt.Errorf("no answer: %w", errs.ErrTimeout)) })
		switch w.rng.IntN(3) {
		case 0: // never arrives
		case 1:
			w.after(delay, func() { apply() })
		case 2: // lands when it is long given up
			w.after(w.between(lost, 300*time.Millisecond), func() { apply() })
		}
		return
	}
	w.after(delay, func() {
		l, err := apply()
		w.after(w.between(200*time.Microsecond, 2*time.Millisecond), func() { finish(l, err) })
	})
}

// write appends n records to the journal.
func (p *process) write(n int) {
	p.do(func() {
		if p.core != nil && !p.fenced && p.core.Room(storeproto.Journal) {
			b := p.w.ledger.batch(n, 0)
			_ = p.core.Append(p.now(), storeproto.Journal, b, &p.fx) // a fenced core refuses, which is fine
		}
	})
}

// commit covers the journal up to upto with a record of the meta stream.
func (p *process) commit(upto id.LSN) {
	p.do(func() {
		if p.core == nil || p.fenced || !p.core.Room(storeproto.Meta) || upto > p.core.Acked(storeproto.Journal) {
			return
		}
		b := p.w.ledger.batch(1, upto)
		if p.core.Append(p.now(), storeproto.Meta, b, &p.fx) == nil {
			p.pending = append(p.pending, pendingMeta{b.Last(), upto})
		}
	})
}

// checkpoint commits the acknowledged end of the meta stream to metad.
func (p *process) checkpoint() {
	w := p.w
	if p.core == nil || p.fenced || p.committing {
		return
	}
	position, covered, epoch := p.core.Acked(storeproto.Meta), p.covered, p.core.epoch // a paused process has not begun the next one
	p.committing = true
	w.after(w.between(time.Millisecond, 5*time.Millisecond), func() {
		err := w.metad.commitCheckpoint(epoch, position, covered)
		lost := w.faulty && w.rng.IntN(4) == 0
		w.after(time.Millisecond, func() {
			p.do(func() {
				if p.epoch != epoch || p.core == nil {
					return
				}
				p.committing = false
				if err == nil && !lost && !p.fenced {
					p.core.CheckpointCommitted(p.now(), position, &p.fx)
					p.core.Release(p.now(), storeproto.Meta, position, &p.fx)
				}
			})
		})
	})
}

func (p *process) acked(k storeproto.Kind, l id.LSN) {
	p.acks++
	p.w.ledger.acked(p, k, l)
	if k != storeproto.Meta {
		return
	}
	for len(p.pending) > 0 && p.pending[0].last <= l {
		p.covered = max(p.covered, p.pending[0].covered)
		p.pending = p.pending[1:]
		p.do(func() {
			if p.core != nil && !p.fenced {
				p.core.Release(p.now(), storeproto.Journal, p.covered, &p.fx)
			}
		})
	}
}

// read reads: at once where grants allow it, else after a round.
func (p *process) read() {
	p.do(func() {
		if p.core == nil || p.fenced {
			return
		}
		after := p.w.ledger.acksAbove(p.epoch)
		if p.core.MayRead(p.now()) {
			p.serve(after, "by grants")
			return
		}
		p.reads = append(p.reads, pendingRead{p.core.AskRead(p.now(), &p.fx), after})
	})
}

func (p *process) readable(token uint64) {
	for len(p.reads) > 0 && p.reads[0].token <= token {
		p.serve(p.reads[0].after, "by a round")
		p.reads = p.reads[1:]
	}
}

func (p *process) serve(after int, how string) {
	p.readsDone++
	if after > 0 {
		p.w.fail("a read of %s is served %s, though %d acknowledgements of later epochs came before it", p.epoch, how, after)
	}
}

// opened is a process that has the volume open.
func (w *world) opened(t *testing.T, host id.Host) *process {
	t.Helper()
	n := uint64(1)
	for _, p := range w.procs {
		if p.holder.Host == host {
			n = p.holder.Number + 1
		}
	}
	p := w.spawn(host, n)
	p.open(simLimits)
	if !w.until(10*time.Second, func() bool { return p.core != nil }) {
		t.Fatalf("%s does not open: %v, %s", p.holder, p.err, showOpener(p.opener))
	}
	return p
}

// writeAll appends n records and waits until they are acknowledged.
func (p *process) writeAll(t *testing.T, n int) {
	t.Helper()
	for range n {
		if !p.w.until(10*time.Second, func() bool { return p.core.Room(storeproto.Journal) }) {
			t.Fatalf("%s has no room: %+v", p.holder, p.core.Status())
		}
		p.write(1)
	}
	if !p.w.until(10*time.Second, func() bool { return p.core.Acked(storeproto.Journal)+1 == p.core.Next(storeproto.Journal) }) {
		t.Fatalf("%s is not acknowledged: %+v", p.holder, p.core.Status())
	}
}
