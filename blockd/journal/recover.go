package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// run is one stream as it is put together again: LSN by LSN the union of valid
// batches in the streams of the ensembles in force, up to the first LSN that no
// store says it has.
type run struct {
	begun   bool
	done    bool
	from    id.LSN // first LSN wanted
	next    id.LSN // first LSN not yet found
	epoch   id.Epoch
	batches []*storeproto.Batch
	sources []*source
	problem error
}

// source is one stream on one store that lends records.
type source struct {
	store    id.Store
	ensemble int // index in those in force
	stream   storeproto.Stream
	from, to id.LSN // what it says it has and what counts
	counted  bool   // the store's answer counts: what it says it has exists
	near     bool   // reading there costs less

	badAt   id.LSN // it could not give this LSN and never will
	single  bool   // it failed with damage somewhere in a fetch: read it batch by batch
	problem error
	at      time.Duration // not before
	pause   time.Duration
}

func (s *source) has(l id.LSN) bool { return s.from <= l && l <= s.to }

// fetching is the one fetch in flight.
type fetching struct {
	busy  bool
	seq   uint64
	kind  storeproto.Kind
	from  *source
	one   bool   // asked for one batch only
	until id.LSN // a later ensemble has this LSN: stop before it; 0: none does
}

func (r *run) begin(from id.LSN) { r.begun, r.from, r.next = true, from, from }

// start is the first LSN of the run.
func (r *run) start() id.LSN {
	if len(r.batches) > 0 {
		return r.batches[0].First
	}
	return r.from
}

// deriveFrom fills in From where it follows from the To of the ensemble before.
func deriveFrom(es []Ensemble) {
	for i := 1; i < len(es); i++ {
		for k := range es[i].From {
			if es[i-1].Closed && es[i].From[k] == 0 {
				es[i].From[k] = es[i-1].To[k] + 1
			}
		}
	}
}

// lend makes sources of what a store says it has. Of a closed ensemble only
// [From, To] counts; what lies beyond was never acknowledged there.
func (o *Opener) lend(f *fencing) {
	for _, st := range f.reply.Streams {
		if st.Stream.Volume != o.cfg.Volume || st.Stream.Kind >= storeproto.Kinds {
			continue
		}
		i := slices.IndexFunc(o.inForce, func(e Ensemble) bool { return e.ID == st.Stream.Ensemble })
		if i < 0 || o.inForce[i].ID.Epoch < o.ended {
			continue
		}
		e, k := &o.inForce[i], st.Stream.Kind
		s := &source{store: f.store, ensemble: i, stream: st.Stream, counted: o.counts(i, f), near: slices.Contains(o.cfg.Near, f.store)}
		s.from, s.to = max(st.Base, st.Released+1), st.Tail
		if e.Closed {
			s.from, s.to = max(s.from, e.From[k]), min(s.to, e.To[k])
		}
		if s.from <= s.to {
			o.runs[k].sources = append(o.runs[k].sources, s)
		}
	}
}

// served: a batch of an epoch proves that the opening of that epoch ended, for its owner appended it.
// What counts of older ensembles was in the list that replaced theirs; what they have beyond is what
// that opening discarded. They are asked only where a rebuilt metad found them again.
func (o *Opener) served(e id.Epoch) {
	if e <= o.ended {
		return
	}
	o.ended = e
	for k := range o.runs {
		r := &o.runs[k]
		r.sources = slices.DeleteFunc(r.sources, func(s *source) bool { return s.stream.Ensemble.Epoch < e })
	}
}

// recover reads on: the meta run, then, when the volume knows what it covers, the journal.
func (o *Opener) recover(now time.Duration, fx *Effects) {
	meta := &o.runs[storeproto.Meta]
	if !meta.done {
		o.read(now, storeproto.Meta, fx)
		if !meta.done {
			return
		}
		fx.Meta = &MetaRun{Batches: meta.batches}
		return
	}
	journal, op := &o.runs[storeproto.Journal], o.core.opening
	if !journal.begun || op.filled {
		return
	}
	o.read(now, storeproto.Journal, fx)
	if journal.done { // or it was before: what was fetched last may have ended it
		op.filled = true
		o.core.advance(now, fx)
	}
}

// read emits the next fetch of a run, or ends the run.
func (o *Opener) read(now time.Duration, k storeproto.Kind, fx *Effects) {
	r := &o.runs[k]
	if o.fetch.busy || r.done {
		return
	}
	best, waiting := r.pick(now)
	if best == nil && waiting {
		return
	}
	if best == nil {
		if damage := o.damage(k); damage != nil {
			r.problem = damage
			if o.mayStillAnswer() {
				return
			}
			if !o.lossAccepted() {
				o.fail(o.waitingFor(), fx)
				return
			}
			o.loss = true
		}
		r.done = true
		if len(r.batches) == 0 {
			o.core.streams[k].begin(r.from)
		}
		return
	}
	o.fetch = fetching{busy: true, seq: o.fetch.seq + 1, kind: k, from: best, one: best.single, until: r.laterBase(best)}
	bytesMax := o.cfg.Limits.FetchBytes
	if best.single {
		bytesMax = 1
	}
	fx.Fetches = append(fx.Fetches, FetchSend{Store: best.store, seq: o.fetch.seq, Fetch: storeproto.Fetch{
		Stream: best.stream, From: r.next, BytesMax: bytesMax,
	}})
}

// pick chooses who lends the next LSN: the later ensemble wins, then who is not
// damaged, then who is near, then the longest. What two stores of one ensemble have of an LSN is the same.
// waiting: somebody has it, but failed just now.
func (r *run) pick(now time.Duration) (best *source, waiting bool) {
	for _, s := range r.sources {
		if !s.has(r.next) || s.badAt == r.next {
			continue
		}
		if now < s.at {
			waiting = true
			continue
		}
		if best == nil || s.before(best) {
			best = s
		}
	}
	return best, waiting
}

func (s *source) before(o *source) bool {
	if s.ensemble != o.ensemble {
		return s.ensemble > o.ensemble
	}
	if s.single != o.single {
		return o.single
	}
	if s.near != o.near {
		return s.near
	}
	return s.to > o.to
}

// laterBase is the first LSN above next that a later ensemble than s's has.
func (r *run) laterBase(s *source) id.LSN {
	var first id.LSN
	for _, l := range r.sources {
		if l.ensemble > s.ensemble && l.from > r.next && l.badAt != l.from && (first == 0 || l.from < first) {
			first = l.from
		}
	}
	return first
}

// damage tells whether the run must go on at next: a store whose answer counts
// says that it has this LSN or a later one, or a closed ensemble reaches it. A run
// may end only above all that.
func (o *Opener) damage(k storeproto.Kind) error {
	r := &o.runs[k]
	for i := range o.inForce {
		if e := &o.inForce[i]; e.Closed && e.To[k] >= r.next {
			return fmt.Errorf("records %d to %d of closed ensemble %s are missing: %w", r.next, e.To[k], e.ID, ErrStoresLost)
		}
	}
	for _, s := range r.sources {
		if s.counted && s.to >= r.next {
			return fmt.Errorf("record %d is missing below the tail %d of %s: %w", r.next, s.to, s.store, errors.Join(ErrStoresLost, s.problem))
		}
	}
	return nil
}

// mayStillAnswer tells whether a store that could lend what is missing has not answered.
func (o *Opener) mayStillAnswer() bool {
	for _, f := range o.fences {
		if f.reply == nil && !o.lost[f.store] {
			return true
		}
	}
	return false
}

func (o *Opener) lossAccepted() bool {
	return slices.ContainsFunc(o.inForce, func(e Ensemble) bool { return e.LossAccepted })
}

func (o *Opener) retry(now time.Duration, store id.Store) {
	for k := range o.runs {
		for _, s := range o.runs[k].sources {
			if s.store == store {
				s.at = now
			}
		}
	}
}

// FetchDone takes the outcome of a fetch and the reply's batches.
func (o *Opener) FetchDone(now time.Duration, s FetchSend, reply storeproto.FetchReply, err error, fx *Effects) {
	if o.over || !o.fetch.busy || s.seq != o.fetch.seq {
		return
	}
	o.fetch.busy = false
	src, r := o.fetch.from, &o.runs[o.fetch.kind]
	switch {
	case err == nil:
		before := r.next
		if e := o.take(now, reply.Batches, fx); e != nil || r.next == before && !r.done {
			src.badAt, src.problem = r.next, e
		}
		src.pause = 0
	case errors.Is(err, errs.ErrCorrupt) && !o.fetch.one:
		src.single, src.problem = true, err
	case errors.Is(err, errs.ErrCorrupt), errors.Is(err, errs.ErrNotFound):
		src.badAt, src.problem = r.next, err
	default:
		src.problem = err
		src.pause = o.core.backoff(src.pause, o.cfg.Limits.RetryAfter)
		src.at = now + src.pause
		r.problem = err
	}
	o.step(now, fx)
}

// take adds fetched batches to the run as far as they continue it and count.
func (o *Opener) take(now time.Duration, batches []*storeproto.Batch, fx *Effects) error {
	k, src := o.fetch.kind, o.fetch.from
	r := &o.runs[k]
	took := 0
	defer func() {
		for _, b := range batches[took:] {
			b.Release()
		}
	}()
	for _, b := range batches {
		if b.Last() < r.next {
			b.Release()
			took++
			continue
		}
		if o.fetch.until != 0 && b.First >= o.fetch.until || b.Last() > src.to {
			return nil
		}
		// A batch is never cut: only the run's first may begin below what is wanted.
		if b.First > r.next || b.First < r.next && len(r.batches) > 0 {
			return fmt.Errorf("%s of %s on %s: batch [%d, %d] does not follow %d: %w", k, src.stream.Ensemble, src.store, b.First, b.Last(), r.next-1, errs.ErrCorrupt)
		}
		if b.Epoch == 0 || b.Epoch > src.stream.Ensemble.Epoch {
			return fmt.Errorf("%s of %s on %s: batch of epoch %s: %w", k, src.stream.Ensemble, src.store, b.Epoch, errs.ErrCorrupt)
		}
		if err := b.Verify(src.store.String()); err != nil {
			return err
		}
		if b.Epoch < r.epoch {
			// The tail of an older epoch, discarded before the newer wrote: the run ends.
			r.done = true
			return nil
		}
		r.epoch, r.next = b.Epoch, b.Last()+1
		o.served(b.Epoch)
		took++
		r.batches = append(r.batches, b)
		o.core.fill(now, k, b, fx)
	}
	return nil
}
