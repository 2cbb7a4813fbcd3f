package reader

import (
	"errors"
	"fmt"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// rebuild answers for a part whose own store failed with cause. The state is taken already.
func (p *part) rebuild(cause error) {
	p.r.stats.degraded.Add(1)
	b, err := p.gather()
	if err == nil {
		p.deliver(b.Bytes())
		b.Release()
	} else if errors.Is(cause, errs.ErrNotFound) && errors.Is(err, errs.ErrNotFound) {
		err = cause // gone everywhere: the caller looks again where the block is now
	} else {
		err = errors.Join(err, cause)
	}
	p.end(err)
	p.drop()
}

// hedge asks the other shards for a part whose own store is slow; whoever is first
// answers. A failure of the rebuild leaves the slow store to answer.
func (p *part) hedge() {
	b, err := p.gather()
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

// gather reads the same blocks of k other shards and rebuilds those of the part.
// All shards but the part's own are asked at once; the first k right ones of the
// part's generation count.
func (p *part) gather() (*buf.Buffer, error) {
	code, err := stripe.For(stripe.Profile{K: p.where.K, M: p.where.M})
	if err != nil {
		return nil, err
	}
	total := int(p.where.K) + int(p.where.M)
	answers := make(chan *other, total)
	asked := 0
	for i := range total {
		if i == int(p.index) {
			continue
		}
		o := &other{index: uint8(i), bytes: buf.Get(int(p.count) * storeproto.BlockSize), answers: answers}
		if !p.ask(o) {
			o.bytes.Release()
			continue
		}
		asked++
	}
	pieces := make([]stripe.Piece, 0, p.where.K)
	var used []*other
	var failures []error
	notFound := total-1-asked == 0
	for ; asked > 0 && len(pieces) < int(p.where.K); asked-- {
		o := <-answers
		if e := o.verify(p); e != nil {
			notFound = notFound && errors.Is(e, errs.ErrNotFound)
			failures = append(failures, e)
			o.bytes.Release()
			continue
		}
		pieces = append(pieces, stripe.Piece{Index: o.index, Generation: o.req.Got, Data: o.bytes.Bytes()})
		used = append(used, o)
	}
	go drainOthers(answers, asked)
	defer func() {
		for _, o := range used {
			o.bytes.Release()
		}
	}()
	if len(pieces) < int(p.where.K) {
		class := errs.ErrUnavailable
		if notFound {
			class = errs.ErrNotFound
		}
		return nil, fmt.Errorf("rebuild shard %d of %s: %d of %d shards answer (%v): %w", p.index, p.seg, len(pieces), p.where.K, errors.Join(failures...), class)
	}
	dst := buf.Get(int(p.count) * storeproto.BlockSize)
	if err := code.Rebuild(dst.Bytes(), p.index, pieces); err != nil {
		dst.Release()
		return nil, err
	}
	return dst, nil
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
	bytes   *buf.Buffer
	answers chan *other
}

func (p *part) ask(o *other) bool {
	store, ok := p.r.storeOf(p.seg, p.where, o.index)
	if !ok {
		return false
	}
	o.req = storeproto.ReadShard{
		Segment: p.seg, Generation: p.where.Generation, Index: o.index, First: p.first, Count: p.count,
		Dst: o.bytes.Bytes(), Sums: make([]uint32, p.count),
		Done: func(*storeproto.ReadShard) { o.answers <- o },
	}
	store.ReadShard(&o.req)
	return true
}

// verify checks an other shard's answer and its blocks.
func (o *other) verify(p *part) error {
	if o.req.Err != nil {
		return fmt.Errorf("shard %d: %w", o.index, o.req.Err)
	}
	b := o.bytes.Bytes()
	for i, sum := range o.req.Sums {
		if !checkBlock(p.seg, o.index, p.first+uint16(i), sum, b[i*storeproto.BlockSize:][:storeproto.BlockSize]) {
			return &errs.Corrupt{Place: fmt.Sprintf("shard %d of %s", o.index, p.seg), Offset: int64(p.first+uint16(i)) * storeproto.BlockSize, What: "block sum", Want: uint64(sum)}
		}
	}
	return nil
}

// checkBlock tells whether a block has the given sum.
func checkBlock(s id.Segment, index uint8, place uint16, sum uint32, data []byte) bool {
	return stripe.CheckBlock(s, index, place, sum, data)
}
