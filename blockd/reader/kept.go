package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// A generation that has dropped slots says in its headers which ones it kept. Who
// reads it needs that once, and then remembers it.

// keptMax bounds the generations that are remembered, of 0.7 KiB each; beyond it any is forgotten.
const keptMax = 1 << 15

// headsTimeout bounds one question for headers.
const headsTimeout = 5 * time.Second

// generationName names one generation.
type generationName struct {
	segment    id.Segment
	generation id.Generation
}

// keptCache remembers which slots generations keep, and which reads wait for an answer.
type keptCache struct {
	sync.RWMutex
	at    map[generationName]*segment.Kept
	asked map[generationName][]*Request
}

// ask notes that q waits to know n; false: somebody asks already.
func (c *keptCache) ask(n generationName, q *Request) (first bool) {
	c.Lock()
	defer c.Unlock()
	if c.asked == nil {
		c.asked = make(map[generationName][]*Request)
	}
	waiting, asked := c.asked[n]
	c.asked[n] = append(waiting, q)
	return !asked
}

// answered gives those who waited to know n.
func (c *keptCache) answered(n generationName) []*Request {
	c.Lock()
	defer c.Unlock()
	waiting := c.asked[n]
	delete(c.asked, n)
	return waiting
}

func (c *keptCache) get(n generationName) *segment.Kept {
	c.RLock()
	defer c.RUnlock()
	return c.at[n]
}

func (c *keptCache) put(n generationName, k *segment.Kept) {
	c.Lock()
	defer c.Unlock()
	if c.at == nil {
		c.at = make(map[generationName]*segment.Kept)
	}
	for old := range c.at {
		if len(c.at) < keptMax {
			break
		}
		delete(c.at, old)
	}
	c.at[n] = k
}

// locate finds where the slots of q lie in their shards; false: the headers are asked, and the read begins again.
func (r *Reader) locate(q *Request) (l segment.Layout, first uint16, err error, known bool) {
	l, first = segment.Layout{K: q.Where.K, Slots: q.Where.Slots}, q.Location.Slot()
	if !l.Valid() || uint32(first)+q.Count > uint32(q.Where.Slots) {
		return l, 0, fmt.Errorf("read slots %d+%d of a segment of %d: %w", first, q.Count, q.Where.Slots, errs.ErrInvalid), true
	}
	if q.Where.Kept == 0 {
		return l, first, nil, true
	}
	name := generationName{q.Location.Segment(), q.Where.Generation}
	k := r.kept.get(name)
	if k == nil {
		if r.kept.ask(name, q) {
			go r.learn(name, q.Where)
		}
		return l, 0, nil, false
	}
	rank, ok := k.Rank(first)
	if ok && q.Count > 1 {
		var last uint16
		last, ok = k.Rank(first + uint16(q.Count) - 1)
		ok = ok && uint32(last-rank) == q.Count-1
	}
	if !ok {
		return l, 0, fmt.Errorf("read slots %d+%d of %s, which %s has dropped: %w",
			first, q.Count, q.Location.Segment(), q.Where.Generation, errs.ErrNotFound), true
	}
	l.Slots = k.Count()
	return l, rank, nil, true
}

// learn asks which slots a generation keeps, and starts the reads that need it again.
func (r *Reader) learn(n generationName, w Where) {
	ctx, cancel := context.WithTimeout(context.Background(), headsTimeout)
	defer cancel()
	_, err := r.Entries(ctx, n.segment, w)
	for _, q := range r.kept.answered(n) {
		if err != nil {
			r.stats.failed.Add(1)
			r.done(q, err)
			continue
		}
		r.read(q)
	}
}

// Entries gives the header entries of all slots of a segment, from any store that has
// them; those of slots that the generation has dropped are zero. Stores that are believed away
// are asked where the others do not know them all. Errors: as of a Request.
func (r *Reader) Entries(ctx context.Context, s id.Segment, w Where) ([]uint64, error) {
	x := asking{r: r, segment: s, where: w, all: make([]uint64, w.Slots), have: make([]bool, w.K),
		failed: make([]missing, int(w.K)+int(w.M))}
	for _, head := range []headFunc{x.head, x.headUntried} {
		if entries := x.entries(ctx, head); entries != nil {
			return r.learned(s, w, entries)
		}
	}
	return nil, x.tooFew()
}

// asking is one search for the header entries of a segment.
type asking struct {
	r       *Reader
	segment id.Segment
	where   Where
	all     []uint64
	have    []bool    // data shards whose own slots are in all
	failed  []missing // of each shard
}

// headFunc asks somebody for the header of one shard.
type headFunc func(context.Context, uint8) (*storeproto.ShardHead, error)

// entries asks for the header of one shard after the other, and gives the entries of all slots when they are known.
func (x *asking) entries(ctx context.Context, head headFunc) []uint64 {
	w := x.where
	for n := range int(w.K) + int(w.M) {
		i := (n + int(w.K)) % (int(w.K) + int(w.M)) // parity shards first: they know all slots
		h, err := head(ctx, uint8(i))
		switch {
		case err != nil:
			continue
		case len(h.Entries) == int(w.Slots):
			return h.Entries
		case w.Kept > 0 || i >= int(w.K) || !ownEntries(x.all, h):
			x.failed[i].err = unsure(x.failed[i].err, &errs.Corrupt{
				Place: fmt.Sprintf("shard %d of %s", i, x.segment), Offset: -1, What: "entries", Want: uint64(w.Slots), Got: uint64(len(h.Entries))})
			continue
		}
		x.have[i] = true
	}
	if slices.Contains(x.have, false) {
		return nil
	}
	return x.all
}

// ownEntries puts the entries of a data shard's own slots in their places.
func ownEntries(all []uint64, h *storeproto.ShardHead) bool {
	l := segment.Layout{K: h.K, Slots: h.Slots}
	if len(h.Entries) != int(l.ShardSlots(h.Index)) {
		return false
	}
	for b, e := range h.Entries {
		if slot, ok := l.Slot(h.Index, uint16(b)); ok {
			all[slot] = e
		}
	}
	return true
}

// learned checks entries against the table and remembers what is kept.
func (r *Reader) learned(s id.Segment, w Where, entries []uint64) ([]uint64, error) {
	k := segment.MakeKept(entries)
	want := w.Slots
	if w.Kept > 0 {
		want = w.Kept
	}
	if k.Count() != want {
		return nil, &errs.Corrupt{Place: fmt.Sprintf("headers of %s %s", s, w.Generation), Offset: -1, What: "kept slots", Want: uint64(want), Got: uint64(k.Count())}
	}
	if w.Kept > 0 {
		r.kept.put(generationName{s, w.Generation}, k)
	}
	return entries, nil
}

// head asks the stores that may have one shard, and answer, for its header.
func (x *asking) head(ctx context.Context, shard uint8) (h *storeproto.ShardHead, err error) {
	f := &x.failed[shard]
	err = fmt.Errorf("shard %d: its store is not known, or is away: %w", shard, errs.ErrUnavailable)
	for {
		store, a, ok := x.r.storeOf(x.segment, x.where, shard, f.tried)
		if !ok {
			return nil, err
		}
		f.tried = append(f.tried, a.Store)
		if h, err = headOf(ctx, store, x.segment, x.where, shard); err == nil {
			return h, nil
		}
		f.err = unsure(f.err, err)
	}
}

// headUntried asks those that may have it and were not asked. What they do not have tells nothing new.
func (x *asking) headUntried(ctx context.Context, shard uint8) (h *storeproto.ShardHead, err error) {
	err = fmt.Errorf("shard %d: nobody is left who may have it: %w", shard, errs.ErrUnavailable)
	for _, ref := range x.r.untried(x.segment, x.where, shard, x.failed[shard].tried) {
		store, ok := x.r.cfg.Stores.Store(ref.Store)
		if !ok {
			continue
		}
		if h, err = headOf(ctx, store, x.segment, x.where, shard); err == nil {
			break
		}
	}
	return h, err
}

func headOf(ctx context.Context, store storeproto.Store, s id.Segment, w Where, shard uint8) (*storeproto.ShardHead, error) {
	heads, err := store.ShardHeads(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", shard, err)
	}
	for i := range heads {
		h := &heads[i]
		if h.Segment == s && h.Generation == w.Generation && h.Index == shard && h.K == w.K && h.M == w.M && h.Slots == w.Slots {
			return h, nil
		}
	}
	return nil, fmt.Errorf("shard %d of %s %s: %w", shard, s, w.Generation, errs.ErrNotFound)
}

// tooFew is the error when the stores that answered do not know all slots. Its
// class is as that of a read of too few shards.
func (x *asking) tooFew() error {
	s, w := x.segment, x.where
	var failures []error
	gone, class := 0, errs.ErrCorrupt
	for i, f := range x.failed {
		if i < len(x.have) && x.have[i] {
			continue
		}
		e := x.r.nobody(s, w, uint8(i))
		if f.err != nil {
			e = x.r.perhaps(s, w, uint8(i), f.tried, f.err)
		}
		failures = append(failures, e)
		switch {
		case errors.Is(e, errs.ErrNotFound):
			gone++
		case !errors.Is(e, errs.ErrCorrupt):
			class = errs.ErrUnavailable
		}
	}
	if gone > int(w.M) {
		class = errs.ErrNotFound
	}
	return fmt.Errorf("read the headers of %s %s (%v): %w", s, w.Generation, errors.Join(failures...), class)
}
