package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// A clone reads segments of its ancestors, which its own table does not have: how they are
// kept is in the headers of their shards. The answer is remembered until a read finds that
// it is not so any more, because the ancestor's owner has cleaned the segment since: then
// the headers are asked again. Any generation of which k shards are there will do: its owner
// drops nothing from a segment that the snapshot has which the clone began with.

// foundMax bounds the segments that are remembered; beyond it any is forgotten.
const foundMax = 1 << 16

// looksMax bounds how often one read asks again: each time another generation took the place of one that was found.
const looksMax = 8

// foundCache remembers how ancestors' segments are kept, and which reads wait for an answer.
type foundCache struct {
	sync.Mutex
	at    map[id.Segment]Where
	asked map[id.Segment][]*Request
}

// inherit fills in q.Where; false: the headers are asked, and the read begins again.
func (r *Reader) inherit(q *Request) bool {
	s := q.Location.Segment()
	f := &r.found
	f.Lock()
	defer f.Unlock()
	if w, ok := f.at[s]; ok {
		q.Where = w
		return true
	}
	if f.asked == nil {
		f.asked = make(map[id.Segment][]*Request)
	}
	waiting, asked := f.asked[s]
	f.asked[s] = append(waiting, q)
	if !asked {
		go r.find(s)
	}
	return false
}

// done ends a request. One of an ancestor's segment that failed may have looked for what has
// been replaced: it asks again where that is what the error says, and whoever comes next does.
func (r *Reader) done(q *Request, err error) {
	if !q.inherited || q.Where == (Where{}) {
		q.Done(q, err)
		return
	}
	r.found.forget(q.Location.Segment(), q.Where)
	if q.Where = (Where{}); q.looks < looksMax && errors.Is(err, errs.ErrNotFound) {
		q.looks++
		r.read(q)
		return
	}
	q.Done(q, err)
}

// forget drops what is remembered of s, if that is still w.
func (f *foundCache) forget(s id.Segment, w Where) {
	f.Lock()
	defer f.Unlock()
	if f.at[s] == w {
		delete(f.at, s)
	}
}

// find asks the stores for the headers of a segment, and starts the reads that need them again.
func (r *Reader) find(s id.Segment) {
	ctx, cancel := context.WithTimeout(context.Background(), headsTimeout)
	defer cancel()
	w, err := r.lookFor(ctx, s)
	f := &r.found
	f.Lock()
	waiting := f.asked[s]
	delete(f.asked, s)
	if err == nil {
		if f.at == nil {
			f.at = make(map[id.Segment]Where)
		}
		for old := range f.at {
			if len(f.at) < foundMax {
				break
			}
			delete(f.at, old)
		}
		f.at[s] = w
	}
	f.Unlock()
	for _, q := range waiting {
		if err != nil {
			r.stats.failed.Add(1)
			q.Done(q, err)
			continue
		}
		r.read(q)
	}
}

// Find says how a segment is kept of which no table is at hand. Errors are as of a Request.
func (r *Reader) Find(ctx context.Context, s id.Segment) (Where, error) {
	ctx, cancel := context.WithTimeout(ctx, headsTimeout)
	defer cancel()
	return r.lookFor(ctx, s)
}

// lookFor asks every store that may have a shard of the segment, and where that is not enough those
// that are believed away. The first generation of which k shards are there is the answer.
func (r *Reader) lookFor(ctx context.Context, s id.Segment) (Where, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := looking{segment: s, have: make(map[Where]map[uint8]bool)}
	stores, tried := r.serving(s)
	if w, ok := l.ask(ctx, stores); ok {
		return w, nil
	}
	rest, _ := r.rest(s, tried)
	if w, ok := l.ask(ctx, rest); ok {
		return w, nil
	}
	// By what is known of stores now, not when they were asked: see perhaps.
	if _, n := r.rest(s, tried); n+len(l.failures) > 0 {
		return Where{}, fmt.Errorf("find inherited segment %s: stores that may have it did not answer (%v): %w", s, errors.Join(l.failures...), errs.ErrUnavailable)
	}
	return Where{}, fmt.Errorf("find inherited segment %s: no generation of it is whole: %w", s, errs.ErrNotFound)
}

// looking is what the headers that came have told of a segment.
type looking struct {
	segment  id.Segment
	have     map[Where]map[uint8]bool
	failures []error
}

// ask asks stores at once; true: k shards of a generation are there.
func (l *looking) ask(ctx context.Context, stores []storeproto.Store) (Where, bool) {
	type answer struct {
		heads []storeproto.ShardHead
		err   error
	}
	answers := make(chan answer, len(stores))
	for _, store := range stores {
		go func() {
			heads, err := store.ShardHeads(ctx, l.segment)
			answers <- answer{heads, err}
		}()
	}
	for range stores {
		a := <-answers
		if a.err != nil && !errors.Is(a.err, errs.ErrNotFound) {
			l.failures = append(l.failures, a.err)
		}
		for i := range a.heads {
			h := &a.heads[i]
			w, ok := whereOfHead(l.segment, h)
			if !ok {
				continue
			}
			if l.have[w] == nil {
				l.have[w] = make(map[uint8]bool)
			}
			if l.have[w][h.Index] = true; len(l.have[w]) >= int(w.K) {
				return w, true
			}
		}
	}
	return Where{}, false
}

// serving are the stores that may have shards of a segment, and answer.
func (r *Reader) serving(s id.Segment) (out []storeproto.Store, tried []id.Store) {
	t := r.cfg.Topology()
	if t == nil {
		return nil, nil
	}
	if g, ok := t.PG(s.PG()); ok {
		for _, ref := range g.Members() {
			if body, _, ok := r.answering(t, ref, tried); ok {
				out, tried = append(out, body), append(tried, ref.Store)
			}
		}
	}
	return out, tried
}

// rest are those that may have some and were not tried: the ones that can be asked, and how many there are.
func (r *Reader) rest(s id.Segment, tried []id.Store) (out []storeproto.Store, n int) {
	t := r.cfg.Topology()
	if t == nil {
		return nil, 1
	}
	g, ok := t.PG(s.PG())
	if !ok {
		return nil, 1
	}
	for _, ref := range g.Members() {
		if !mayHave(t, ref) || slices.Contains(tried, ref.Store) {
			continue
		}
		n++
		if body, ok := r.cfg.Stores.Store(ref.Store); ok {
			out = append(out, body)
		}
	}
	return out, n
}

// whereOfHead is how a shard's header says that its generation is kept.
func whereOfHead(s id.Segment, h *storeproto.ShardHead) (Where, bool) {
	if h.Segment != s || h.K == 0 || h.Slots == 0 {
		return Where{}, false
	}
	w := Where{Generation: h.Generation, PGVersion: h.PGVersion, K: h.K, M: h.M, Slots: h.Slots}
	kept := 0
	for _, e := range h.Entries {
		if e != 0 {
			kept++
		}
	}
	if kept < len(h.Entries) { // then the entries are those of all slots
		if len(h.Entries) != int(h.Slots) {
			return Where{}, false
		}
		w.Kept = uint16(kept)
	}
	return w, true
}
