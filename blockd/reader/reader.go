package reader

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// Stores finds the body of a store; false if it is not known here.
type Stores interface {
	Store(id.Store) (storeproto.Store, bool)
}

// Config has what a Reader needs.
type Config struct {
	Stores   Stores
	Topology func() *cluster.Topology
	Cache    *Cache // nil: none
	Clock    clock.Clock
	// HedgeAfter is how long one store may take before the others are asked too, give or
	// take the time between two calls of Tick. 0: 25 ms.
	HedgeAfter time.Duration
	// Took, if set, hears how long a store took for a read, in steps of the time between two calls of Tick.
	Took func(id.Store, time.Duration)
}

// Reader reads slots. Safe for concurrent use.
type Reader struct {
	cfg   Config
	pool  sync.Pool
	stats struct{ reads, hedged, degraded, failed atomic.Uint64 }

	kept  keptCache
	found foundCache

	passed atomic.Uint32 // reads that a slow store was to be spared

	flight struct { // reads on their way, the oldest first
		sync.Mutex
		head, tail *part
		earned     int // towards hedges, in parts started
	}
	// ticked is the time of the last Tick: near enough for hedges, and asking the system
	// for each part would be a twentieth of its cost.
	ticked atomic.Int64
}

// A hedge costs several reads, so stores that are slow because there is too much to do
// would become slower by it. One part in hedgeShare may be hedged when it is late, a few
// more at once; whoever waits hedgePatience times as long is hedged in any case.
const (
	hedgeShare    = 10
	hedgeBurst    = 16
	hedgePatience = 8
)

// New makes a reader. Tick must be called every few milliseconds for hedging.
func New(cfg Config) *Reader {
	if cfg.HedgeAfter == 0 {
		cfg.HedgeAfter = 25 * time.Millisecond
	}
	r := &Reader{cfg: cfg}
	r.ticked.Store(int64(cfg.Clock.Now()))
	r.pool.New = func() any {
		p := &part{r: r}
		p.req.Done = p.answered
		return p
	}
	return r
}

// Where says how the segment of a read is kept. Zero: the asker's table does not know, for
// the segment is an ancestor's; the reader asks the headers of its shards (inherited.go).
type Where struct {
	Generation id.Generation
	PGVersion  uint32
	K, M       uint8
	Slots      uint16
	Kept       uint16 // slots that the generation has blocks of; 0: all
}

// Request asks for Count slots from Location on, all of one segment, into Dst
// (Count blocks). Done is called once, inline or from another goroutine. The caller
// owns the struct and may pool it. Errors: ErrNotFound when the segment or its
// generation is not there any more, ErrUnavailable when too few shards answer,
// ErrCorrupt when too few are right.
type Request struct {
	Location id.Location
	Count    uint32
	Where    Where
	Dst      []byte
	NoCache  bool // neither look into the cache nor fill it
	Class    storeproto.Class
	Done     func(*Request, error)

	inherited bool   // Where is what the headers said
	looks     uint8  // how often they were asked since Read
	first     uint16 // where the first slot lies among those that are kept
	left      atomic.Int32
	err       atomic.Pointer[error]
}

// part is the share of a request that lies in one shard: blocks first… of it.
type part struct {
	r       *Reader
	parent  *Request
	req     storeproto.ReadShard
	seg     id.Segment
	where   Where
	class   storeproto.Class
	store   id.Store   // that was asked first
	tried   []id.Store // all that were asked for the part's own shard
	layout  segment.Layout
	index   uint8
	first   uint16
	count   uint16
	bytes   *buf.Buffer
	sums    []uint32
	started time.Duration
	state   atomic.Int32 // 0 waiting, 1 the store's answer taken, 2 the rebuild's
	refs    atomic.Int32 // the read and, if any, its rebuild
	hedged  bool
	linked  bool
	prev    *part
	next    *part
}

// Read starts a request.
func (r *Reader) Read(q *Request) {
	r.stats.reads.Add(1)
	q.inherited, q.looks = q.Where == Where{}, 0
	r.read(q)
}

// read is Read, and what begins a read again.
func (r *Reader) read(q *Request) {
	q.err.Store(nil)
	if !q.NoCache && q.Count == 1 && r.cfg.Cache.Get(q.Location, q.Dst) {
		q.Done(q, nil)
		return
	}
	if q.inherited && !r.inherit(q) {
		return // the headers are asked
	}
	l, first, err, known := r.locate(q)
	switch {
	case !known:
		return
	case err != nil:
		r.done(q, err)
		return
	}
	q.first = first
	if uint32(first%segment.Unit)+q.Count <= segment.Unit || l.K == 1 {
		q.left.Store(1)
		shard, block := l.Place(first)
		r.start(q, l, shard, block, uint16(q.Count))
		return
	}
	r.spread(q, l, first)
}

// spread splits a request over the shards: of each the slots are one run of blocks.
func (r *Reader) spread(q *Request, l segment.Layout, first uint16) {
	type run struct{ first, end uint16 }
	var runs [256]run
	var used [256]bool
	n := int32(0)
	for s := uint32(first); s < uint32(first)+q.Count; {
		shard, block := l.Place(uint16(s))
		step := min(segment.Unit-s%segment.Unit, uint32(first)+q.Count-s)
		if !used[shard] {
			used[shard] = true
			runs[shard].first = block
			n++
		}
		runs[shard].end = block + uint16(step)
		s += step
	}
	q.left.Store(n)
	for shard := range int(l.K) {
		if used[shard] {
			r.start(q, l, uint8(shard), runs[shard].first, runs[shard].end-runs[shard].first)
		}
	}
}

// start sends one part to the store that has it.
func (r *Reader) start(q *Request, l segment.Layout, shard uint8, first, count uint16) {
	p := r.pool.Get().(*part)
	p.parent, p.seg, p.where, p.class, p.layout = q, q.Location.Segment(), q.Where, q.Class, l
	p.index, p.first, p.count = shard, first, count
	p.bytes = buf.Get(int(count) * storeproto.BlockSize)
	if cap(p.sums) < int(count) {
		p.sums = make([]uint32, count)
	}
	p.sums = p.sums[:count]
	p.store, p.tried = id.Store{}, p.tried[:0]
	p.state.Store(0)
	p.refs.Store(1)
	p.hedged = false
	store, ref, ok := r.storeOf(p.seg, p.where, shard, nil)
	if !ok {
		p.req.Err = r.nobody(p.seg, p.where, shard)
		p.answered(&p.req)
		return
	}
	p.started, p.store, p.tried = time.Duration(r.ticked.Load()), ref.Store, append(p.tried, ref.Store)
	if ref.Slow && r.pass(p, store) {
		return
	}
	p.send(store)
}

// probeShare is how many reads are made without a slow store for each that it is asked, to see
// whether it is quick again.
const probeShare = 32

// pass reads around a slow store, unless it is its turn to show how it fares.
func (r *Reader) pass(p *part, store storeproto.Store) bool {
	if r.passed.Add(1)%probeShare == 0 || p.where.M == 0 {
		return false
	}
	go p.around(store)
	return true
}

// send asks the part's own store.
func (p *part) send(store storeproto.Store) {
	r := p.r
	r.link(p)
	p.req.Segment, p.req.Generation, p.req.Index = p.seg, p.where.Generation, p.index
	p.req.First, p.req.Count, p.req.Dst, p.req.Sums = p.first, p.count, p.bytes.Bytes(), p.sums
	p.req.Err, p.req.Got, p.req.Class = nil, id.Generation{}, p.class
	store.ReadShard(&p.req)
}

// storeOf finds the store of a shard: the first of those that may have it and answer, and were not tried. The
// first is the one that had the slot when the segment was coded; if the slot was given
// to another store since, that one comes after, for it may not have the shard yet.
func (r *Reader) storeOf(s id.Segment, w Where, shard uint8, tried []id.Store) (storeproto.Store, asked, bool) {
	t := r.cfg.Topology()
	if t == nil {
		return nil, asked{}, false
	}
	g, ok := t.PG(s.PG())
	if !ok {
		return nil, asked{}, false
	}
	if v := g.Current(); len(g.Versions) == 1 && v.K == w.K && v.M == w.M && int(shard) < len(v.Stores) {
		return r.answering(t, v.Stores[shard], tried) // as nearly always, and without a list
	}
	for _, ref := range g.Holders(w.PGVersion, w.K, w.M, shard) {
		if body, a, ok := r.answering(t, ref, tried); ok {
			return body, a, true
		}
	}
	return nil, asked{}, false
}

// asked is a store that may be asked, and whether it is known to be slow.
type asked struct {
	id.Store
	Slow bool
}

// answering gives the body of a store unless it was tried, or is known not to answer, or to be another memory.
func (r *Reader) answering(t *cluster.Topology, ref cluster.StoreRef, tried []id.Store) (storeproto.Store, asked, bool) {
	st, known := t.Store(ref.Store)
	if slices.Contains(tried, ref.Store) || known && (!st.State.Serves() || st.Incarnation != ref.Incarnation) {
		return nil, asked{}, false
	}
	body, ok := r.cfg.Stores.Store(ref.Store)
	return body, asked{ref.Store, known && st.Slow}, ok
}

// untried are the stores that may have a shard, as far as is known now, and were not tried: they were believed away
// then, or still are, or have got the slot since. Nothing is said of a shard without them.
func (r *Reader) untried(s id.Segment, w Where, shard uint8, tried []id.Store) (out []cluster.StoreRef) {
	t := r.cfg.Topology()
	if t == nil {
		return nil
	}
	g, ok := t.PG(s.PG())
	if !ok {
		return nil
	}
	for _, ref := range g.Holders(w.PGVersion, w.K, w.M, shard) {
		if mayHave(t, ref) && !slices.Contains(tried, ref.Store) {
			out = append(out, ref)
		}
	}
	return out
}

// mayHave tells whether a store may have what it had.
func mayHave(t *cluster.Topology, ref cluster.StoreRef) bool {
	st, known := t.Store(ref.Store)
	return known && st.Incarnation == ref.Incarnation && st.State != cluster.StoreLost
}

// answered takes a store's answer.
func (p *part) answered(q *storeproto.ReadShard) {
	r := p.r
	r.unlink(p)
	err := q.Err
	if r.cfg.Took != nil && err == nil {
		r.cfg.Took(p.store, time.Duration(r.ticked.Load())-p.started)
	}
	if err == nil {
		err = p.checkBlocks(p.index, q, p.bytes.Bytes())
	}
	if err == nil {
		if p.state.CompareAndSwap(0, 1) {
			p.deliver(p.bytes.Bytes())
			p.end(nil)
		}
		p.drop()
		return
	}
	if p.state.CompareAndSwap(0, 2) {
		// Not hedged yet: the others are asked now, and theirs is the answer.
		p.refs.Add(1)
		go p.rebuild(err)
	}
	p.drop()
}

// deliver copies the part's blocks to where their slots go, and into the cache.
func (p *part) deliver(b []byte) {
	q := p.parent
	first := uint32(q.first)
	for i := range p.count {
		slot, ok := p.layout.Slot(p.index, p.first+i)
		if !ok || uint32(slot) < first || uint32(slot) >= first+q.Count {
			continue
		}
		at := (uint32(slot) - first) * storeproto.BlockSize
		block := b[int(i)*storeproto.BlockSize:][:storeproto.BlockSize]
		copy(q.Dst[at:at+storeproto.BlockSize], block)
		if !q.NoCache && q.Count <= cacheRunMax {
			p.r.cfg.Cache.Put(q.Location+id.Location(uint32(slot)-first), block)
		}
	}
}

// cacheRunMax: longer reads pass the cache by, they would only flush it.
const cacheRunMax = 16

// end reports the part to its request.
func (p *part) end(err error) {
	q := p.parent
	if err != nil {
		p.r.stats.failed.Add(1)
		q.err.CompareAndSwap(nil, &err)
	}
	if q.left.Add(-1) > 0 {
		return
	}
	if e := q.err.Load(); e != nil {
		p.r.done(q, *e)
		return
	}
	q.Done(q, nil)
}

// drop gives up one user of the part; the last one returns it to the pool.
func (p *part) drop() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.bytes.Release()
	p.bytes, p.parent = nil, nil
	p.r.pool.Put(p)
}

func (r *Reader) link(p *part) {
	f := &r.flight
	f.Lock()
	f.earned = min(f.earned+1, hedgeShare*hedgeBurst)
	p.linked, p.prev, p.next = true, f.tail, nil
	if f.tail != nil {
		f.tail.next = p
	} else {
		f.head = p
	}
	f.tail = p
	f.Unlock()
}

func (r *Reader) unlink(p *part) {
	r.flight.Lock()
	r.unlinkLocked(p)
	r.flight.Unlock()
}

func (r *Reader) unlinkLocked(p *part) {
	if !p.linked {
		return
	}
	f := &r.flight
	p.linked = false
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		f.head = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		f.tail = p.prev
	}
	p.prev, p.next = nil, nil
}

// Tick hedges reads that have waited too long: the other shards are asked as well,
// and the first right answer counts. Call it every few milliseconds.
func (r *Reader) Tick(now time.Duration) {
	r.ticked.Store(int64(now))
	for _, p := range r.late(now) {
		r.stats.hedged.Add(1)
		go p.hedge()
	}
}

// late takes the parts that are to be hedged out of the list.
func (r *Reader) late(now time.Duration) (late []*part) {
	f := &r.flight
	f.Lock()
	defer f.Unlock()
	for p := f.head; p != nil && now-p.started >= r.cfg.HedgeAfter; p = f.head {
		if f.earned < hedgeShare && now-p.started < hedgePatience*r.cfg.HedgeAfter {
			break // those behind it have waited less
		}
		f.earned = max(0, f.earned-hedgeShare)
		r.unlinkLocked(p)
		p.refs.Add(1) // linked parts are held by their read, which unlinks before it drops
		late = append(late, p)
	}
	return late
}

// Stats are counts since the start.
type Stats struct{ Reads, Hedged, Degraded, Failed uint64 }

// Stats gives the counts.
func (r *Reader) Stats() Stats {
	return Stats{r.stats.reads.Load(), r.stats.hedged.Load(), r.stats.degraded.Load(), r.stats.failed.Load()}
}
