package sim

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// network brings requests to stores and to metad. Requests of one sender to one store and
// of one class keep their order while their link holds. A request that was given up may
// arrive all the same, late, past what a newer link brought.
type network struct {
	w    *World
	cut  map[way]bool // one way
	slow map[way]time.Duration
}

// way is a direction between two hosts; metad is one as well.
type way struct{ from, to id.Host }

const metadHost = id.Host("metad")

func (n *network) init(w *World) {
	n.w, n.cut, n.slow = w, make(map[way]bool), make(map[way]time.Duration)
}

func (n *network) heal() {
	clear(n.cut)
	clear(n.slow)
}

// hop is how long a message takes; false: it does not get through.
func (n *network) hop(from, to id.Host) (time.Duration, bool) {
	w := n.w
	d := w.between(hopMin, hopMax)
	if from == to {
		return d / 8, true
	}
	if n.cut[way{from, to}] {
		return 0, false
	}
	if s := n.slow[way{from, to}]; s > 0 {
		d += w.between(s/4, s)
	}
	if w.oneIn(500) {
		w.cover.add(LostMessage)
		return 0, false
	}
	return d, true
}

// class is what shares a connection.
type class uint8

const (
	classLog class = iota
	classBulk
	classRead
)

// limit is when a request without an answer is given up.
var limits = [...]time.Duration{classLog: 800 * time.Millisecond, classBulk: 2 * time.Second, classRead: 500 * time.Millisecond}

type linkKey struct {
	to    id.Store
	class class
}

// link is a connection to a store, one class of it.
type link struct {
	last, back time.Duration // when the last request, and answer, arrives
	open       []*request
}

// request is one request to a store. Exactly one of answer and refuse ends it, on the
// sender's side; serve may run more than once, or after the end.
type request struct {
	from  *host
	life  uint64
	to    cluster.StoreRef // incarnation zero: any
	class class
	name  string
	limit time.Duration // 0: the class's
	// serve runs at the store; it calls reply once, with what is to happen at the sender.
	serve  func(st *store, reply func(deliver func()))
	refuse func(error)

	done bool
}

func (r *request) end(f func()) {
	if !r.done {
		r.done = true
		f()
	}
}

func (r *request) fail(err error) { r.end(func() { r.refuse(err) }) }

var (
	errNoAnswer = fmt.Errorf("no answer: %w", errs.ErrTimeout)
	errBroken   = fmt.Errorf("the link broke: %w", errs.ErrUnavailable)
	errOther    = fmt.Errorf("store was formatted anew: %w", errs.ErrNotFound)
)

// send brings a request on its way.
func (n *network) send(r *request) {
	w := n.w
	if r.from.number != r.life || !r.from.up {
		// How many such there are hangs on Go's scheduler: they leave no trace.
		r.fail(errBroken)
		return
	}
	w.messages++
	l := r.from.link(r.to.Store, r.class)
	l.open = append(slices.DeleteFunc(l.open, func(x *request) bool { return x.done }), r)
	r.from.open(r)
	limit := r.limit
	if limit == 0 {
		limit = limits[r.class]
	}
	st := w.store(r.to.Store)
	if st == nil {
		w.later(hopMin, r.name, " to nobody", nil, func() { r.from.later(func() { r.fail(errBroken) }) })
		return
	}
	local := st.h == r.from
	if !local {
		w.later(limit, r.name, " late", &r.done, func() { r.from.later(func() { r.fail(errNoAnswer) }) })
	}
	if !local && w.oneIn(900) {
		n.breakLink(l)
	}
	d, ok := n.hop(r.from.name, st.h.name)
	if !ok {
		return
	}
	arrive := max(w.now()+d, l.last)
	l.last = arrive
	w.after(arrive-w.now(), r.name, func() { n.arrive(r, st) })
	if !local && w.oneIn(600) {
		w.later(arrive-w.now()+w.between(0, 150*time.Millisecond), r.name, " again", nil, func() {
			w.cover.add(Duplicate)
			n.deliver(r, st)
		})
	}
}

func (n *network) arrive(r *request, st *store) {
	w := n.w
	if r.done { // given up: it is lost, or comes in at any time from now on
		if w.rng.IntN(2) == 0 {
			w.later(w.between(0, 200*time.Millisecond), r.name, " past a newer link", nil, func() {
				w.cover.add(LateMessage)
				n.deliver(r, st)
			})
		}
		return
	}
	n.deliver(r, st)
}

// deliver serves a request at its store.
func (n *network) deliver(r *request, st *store) {
	if st.h.park(func() { n.deliver(r, st) }) {
		return
	}
	if st.gone() || r.to.Incarnation != (id.Incarnation{}) && st.ref.Incarnation != r.to.Incarnation {
		n.answer(r, st, func() { r.refuse(errOther) })
		return
	}
	refuse := func(err error) { n.answer(r, st, func() { r.refuse(err) }) }
	st.do(func() { r.serve(st, func(deliver func()) { n.answer(r, st, deliver) }) }, refuse)
}

// answer brings an answer back, in order.
func (n *network) answer(r *request, st *store, deliver func()) {
	w := n.w
	d, ok := n.hop(st.h.name, r.from.name)
	if !ok || r.done {
		return
	}
	l := r.from.link(r.to.Store, r.class)
	arrive := max(w.now()+d, l.back)
	l.back = arrive
	w.later(arrive-w.now(), r.name, " answered", &r.done, func() { r.from.later(func() { r.end(deliver) }) })
}

// breakLink fails everything under way with an unknown outcome.
func (n *network) breakLink(l *link) {
	open := slices.Clone(l.open)
	n.w.cover.add(BrokenLink)
	n.w.after(n.w.between(0, 10*time.Millisecond), "a link breaks", func() {
		for _, r := range open {
			r.from.later(func() { r.fail(errBroken) })
		}
	})
}

// ask brings a question to metad: serve runs there, done at the host with its error, or
// with a timeout if question or answer were lost. It may run after that.
func (n *network) ask(h *host, name string, serve func() error, done func(error)) {
	w, life := n.w, h.number
	name = string(h.name) + " asks metad " + name
	w.messages++
	over := false
	end := func(err error) {
		if over {
			return
		}
		over = true
		h.later(func() {
			if h.up && h.number == life {
				done(err)
			}
		})
	}
	give := w.between(150*time.Millisecond, 300*time.Millisecond)
	w.later(give, name, " late", &over, func() { end(errNoAnswer) })
	d, ok := n.hop(h.name, metadHost)
	if !ok {
		return
	}
	if w.oneIn(60) { // it lands when nobody waits any more
		w.cover.add(MetadLate)
		d += w.between(give, 2*give)
	}
	w.after(d+w.between(time.Millisecond, 3*time.Millisecond), name, func() {
		if w.metad.silent() {
			w.later(hopMax, name, " refused", &over, func() { end(errBroken) })
			return
		}
		err := serve()
		back, ok := n.hop(metadHost, h.name)
		if w.oneIn(40) {
			w.cover.add(MetadAnswerLost)
			ok = false
		}
		if ok {
			w.later(back, name, " answered", &over, func() { end(err) })
		}
	})
}
