package reader

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// rebuild answers for a part whose own store failed with cause. The state is taken already.
func (p *part) rebuild(cause error) {
	p.r.stats.degraded.Add(1)
	b, err := p.gather(cause)
	if err == nil {
		p.deliver(b.Bytes())
		b.Release()
	}
	p.end(err)
	p.drop()
}

// hedge asks the other shards for a part whose own store is slow; whoever is first
// answers. A failure of the rebuild leaves the slow store to answer.
func (p *part) hedge() {
	b, err := p.gather(errSlow)
	if err == nil {
		if p.state.CompareAndSwap(0, 2) {
			p.r.stats.degraded.Add(1)
			p.deliver(b.Bytes())
			p.end(nil)
		}
		b.Release()
	}
	p.drop()
}

// around reads a part from others although its own store, which is slow, would answer; that
// is asked if the others cannot.
func (p *part) around(store storeproto.Store) {
	b, err := p.gather(errSlow)
	if err != nil {
		p.started = time.Duration(p.r.ticked.Load())
		p.send(store)
		return
	}
	p.r.stats.degraded.Add(1)
	p.deliver(b.Bytes())
	b.Release()
	p.end(nil)
	p.drop()
}

// errSlow stands for the answer of a store that has not come yet.
var errSlow = fmt.Errorf("the store is slow: %w", errs.ErrTimeout)

// gather reads the same blocks of k other shards and rebuilds those of the part,
// whose own store failed with cause. All shards but the part's own are asked at
// once; the first k right ones of the part's generation count.
func (p *part) gather(cause error) (*buf.Buffer, error) {
	code, err := stripe.For(stripe.Profile{K: p.where.K, M: p.where.M})
	if err != nil {
		return nil, err
	}
	mayWait := cause == errSlow
	b, cause := p.elsewhere(cause)
	if b != nil {
		return b, nil
	}
	pieces, used, failed := p.askOthers()
	failed = append(failed, missing{p.index, p.tried, cause})
	if len(pieces) < int(p.where.K) && !mayWait {
		var own *buf.Buffer
		if own, pieces, used = p.askUntried(failed, pieces, used); own != nil {
			release(used)
			return own, nil
		}
	}
	defer release(used)
	if len(pieces) < int(p.where.K) {
		return nil, p.tooFew(len(pieces), failed)
	}
	dst := buf.Get(int(p.count) * storeproto.BlockSize)
	if err := code.Rebuild(dst.Bytes(), p.index, pieces); err != nil {
		dst.Release()
		return nil, err
	}
	return dst, nil
}

// missing is a shard that nobody gave: who was asked for it, and what they said. No error: nobody could be asked.
type missing struct {
	shard uint8
	tried []id.Store
	err   error
}

// askOthers asks for all shards but the part's own, until k of them are there.
func (p *part) askOthers() (pieces []stripe.Piece, used []*other, failed []missing) {
	total := int(p.where.K) + int(p.where.M)
	answers := make(chan *other, total)
	asked := 0
	for i := range total {
		if i == int(p.index) {
			continue
		}
		o := p.other(uint8(i), answers)
		if !p.ask(o) {
			o.bytes.Release()
			failed = append(failed, missing{shard: o.index})
			continue
		}
		asked++
	}
	for ; asked > 0 && len(pieces) < int(p.where.K); asked-- {
		o := <-answers
		if e := o.verify(p); e != nil {
			o.err = unsure(o.err, e)
			if p.ask(o) { // another store may have the shard, too
				asked++
				continue
			}
			failed = append(failed, missing{o.index, o.tried, o.err})
			o.bytes.Release()
			continue
		}
		pieces = append(pieces, stripe.Piece{Index: o.index, Generation: o.req.Got, Data: o.bytes.Bytes()})
		used = append(used, o)
	}
	if asked > 0 {
		go drainOthers(answers, asked)
	}
	return pieces, used, failed
}

// askUntried asks the stores that may have what too few others have and were not asked, all at once: those that this host
// believes away, for metad, whose word that is, may be away itself; and those that came back, or got the slot, meanwhile. It
// gives the part's own blocks, or adds to the pieces. Every answer is checked as any other; that there is none, or not the right
// one, tells nothing new of a shard.
func (p *part) askUntried(failed []missing, pieces []stripe.Piece, used []*other) (*buf.Buffer, []stripe.Piece, []*other) {
	var asked []*other
	answers := make(chan *other, untriedMax)
	for _, x := range failed {
		for _, ref := range p.r.untried(p.seg, p.where, x.shard, x.tried) {
			if store, ok := p.r.cfg.Stores.Store(ref.Store); ok && len(asked) < untriedMax {
				o := p.other(x.shard, answers)
				asked = append(asked, o)
				p.askOf(o, store)
			}
		}
	}
	var own *buf.Buffer
	var have [256]bool
	left := len(asked)
	for ; left > 0 && own == nil && len(pieces) < int(p.where.K); left-- {
		switch o := <-answers; {
		case o.verify(p) != nil || have[o.index]:
			o.bytes.Release()
		case o.index == p.index:
			own = o.bytes
		default:
			have[o.index] = true
			pieces = append(pieces, stripe.Piece{Index: o.index, Generation: o.req.Got, Data: o.bytes.Bytes()})
			used = append(used, o)
		}
	}
	if left > 0 {
		go drainOthers(answers, left)
	}
	return own, pieces, used
}

// untriedMax bounds the stores that one read asks at last.
const untriedMax = 32

func release(all []*other) {
	for _, o := range all {
		o.bytes.Release()
	}
}

// elsewhere reads the part from another store that may have its shard: the one that
// was given the slot, when the older holder failed, or the other way round. If all of
// them fail it gives no bytes, and what the failures together say.
func (p *part) elsewhere(cause error) (*buf.Buffer, error) {
	for cause != errSlow {
		o := p.other(p.index, make(chan *other, 1))
		o.tried = p.tried
		if !p.ask(o) {
			o.bytes.Release()
			break
		}
		e := (<-o.answers).verify(p)
		if e == nil {
			return o.bytes, nil
		}
		cause, p.tried = unsure(cause, e), o.tried
		o.bytes.Release()
	}
	return nil, cause
}

// unsure is what the failures of two stores that may have a shard say of it: it is gone
// or wrong only if both say so. One that cannot be reached now may have it.
func unsure(a, b error) error {
	switch {
	case a == nil:
		return b
	case !known(a):
		return a
	case known(b) && errors.Is(a, errs.ErrCorrupt):
		return a
	}
	return b
}

// known tells whether an error is a store's word on a shard.
func known(err error) bool {
	return errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrCorrupt)
}

// perhaps is err, or of class ErrUnavailable if it says that a shard is gone or wrong though a
// store that may have it was not asked. That is judged by what is known of stores now, not when they were asked: a store
// that was believed away then, and is up now, is asked by who comes again.
func (r *Reader) perhaps(s id.Segment, w Where, shard uint8, tried []id.Store, err error) error {
	if !known(err) {
		return err
	}
	for _, ref := range r.untried(s, w, shard, tried) {
		return fmt.Errorf("%v, but store %s may have it and was not asked: %w", err, ref.Store, errs.ErrUnavailable)
	}
	return err
}

// nobody is the error when no store can be asked for a shard. Where all that may have it
// are lost for good there is nothing to wait for.
func (r *Reader) nobody(s id.Segment, w Where, shard uint8) error {
	t := r.cfg.Topology()
	if t != nil {
		if g, ok := t.PG(s.PG()); ok && !slices.ContainsFunc(g.Holders(w.PGVersion, w.K, w.M, shard), func(ref cluster.StoreRef) bool {
			st, known := t.Store(ref.Store)
			return known && st.Incarnation == ref.Incarnation && st.State != cluster.StoreLost
		}) {
			return fmt.Errorf("shard %d of %s: the stores that had it are lost: %w", shard, s, errs.ErrNotFound)
		}
	}
	return fmt.Errorf("shard %d of %s: its store is not known, or is away: %w", shard, s, errs.ErrUnavailable)
}

// tooFew is the error when fewer than k shards are right. Its class tells the caller
// what to do: ErrNotFound, they are all gone: look where the blocks are now;
// ErrUnavailable, those that did not answer may help later; ErrCorrupt, nothing will.
func (p *part) tooFew(right int, failed []missing) error {
	var failures []error
	gone, away := 0, 0
	for _, x := range failed {
		e := p.r.nobody(p.seg, p.where, x.shard)
		if x.err != nil {
			e = fmt.Errorf("shard %d: %w", x.shard, p.r.perhaps(p.seg, p.where, x.shard, x.tried, x.err))
		}
		failures = append(failures, e)
		switch {
		case errors.Is(e, errs.ErrNotFound):
			gone++
		case !errors.Is(e, errs.ErrCorrupt):
			away++
		}
	}
	class := errs.ErrCorrupt
	switch {
	case right+away >= int(p.where.K):
		class = errs.ErrUnavailable
	case gone > int(p.where.M):
		class = errs.ErrNotFound
	}
	return fmt.Errorf("read shard %d of %s: %d shards of %d are right (%v): %w", p.index, p.seg, right, p.where.K, errors.Join(failures...), class)
}

// drainOthers lets go of answers that come too late to be of use.
func drainOthers(answers chan *other, n int) {
	for range n {
		(<-answers).bytes.Release()
	}
}

// other is the read of one other shard.
type other struct {
	req     storeproto.ReadShard
	index   uint8
	tried   []id.Store // that were asked for it
	err     error      // what those before the last one said
	bytes   *buf.Buffer
	answers chan *other
}

// other is a read of another shard that is not asked for yet.
func (p *part) other(index uint8, answers chan *other) *other {
	return &other{index: index, bytes: buf.Get(int(p.count) * storeproto.BlockSize), answers: answers}
}

func (p *part) ask(o *other) bool {
	store, a, ok := p.r.storeOf(p.seg, p.where, o.index, o.tried)
	if ok {
		o.tried = append(slices.Clip(o.tried), a.Store)
		p.askOf(o, store)
	}
	return ok
}

func (p *part) askOf(o *other, store storeproto.Store) {
	o.req = storeproto.ReadShard{
		Segment: p.seg, Generation: p.where.Generation, Index: o.index, First: p.first, Count: p.count, Class: p.class,
		Dst: o.bytes.Bytes(), Sums: make([]uint32, p.count),
		Done: func(*storeproto.ReadShard) { o.answers <- o },
	}
	store.ReadShard(&o.req)
}

// verify checks an other shard's answer and its blocks.
func (o *other) verify(p *part) error {
	if o.req.Err != nil {
		return fmt.Errorf("shard %d: %w", o.index, o.req.Err)
	}
	return p.checkBlocks(o.index, &o.req, o.bytes.Bytes())
}

// checkBlocks verifies an answer again, after its way over the wire: the generation,
// and every block.
func (p *part) checkBlocks(index uint8, q *storeproto.ReadShard, b []byte) error {
	if q.Got != p.where.Generation {
		return &errs.Corrupt{
			Place: fmt.Sprintf("shard %d of %s", index, p.seg), Offset: -1, What: "generation", Want: uint64(p.where.Generation.Epoch), Got: uint64(q.Got.Epoch),
		}
	}
	for i, sum := range q.Sums {
		if !stripe.CheckBlock(p.seg, index, p.first+uint16(i), sum, b[i*storeproto.BlockSize:][:storeproto.BlockSize]) {
			return &errs.Corrupt{
				Place: fmt.Sprintf("shard %d of %s", index, p.seg), Offset: int64(p.first+uint16(i)) * storeproto.BlockSize,
				What: "block sum", Want: uint64(sum),
			}
		}
	}
	return nil
}
