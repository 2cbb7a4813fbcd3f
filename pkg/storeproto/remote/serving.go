package remote

import (
	"context"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// place names this side's client in errors.
func place(r *rpc.Request) string { return r.Peer.Identity.Name }

// args decodes what follows the store in a head.
func args(r *rpc.Request, f func(r *codec.Reader)) error {
	return decode(place(r), r.Head[refBytes:], f)
}

// appending is an append under way. The store may keep the batch beyond the answer; the
// memory is used again when it is the last to let go.
type appending struct {
	r       *rpc.Request
	store   storeproto.Store
	a       storeproto.Append
	batch   storeproto.Batch
	fixed   []byte // meta and encoded sums
	data    *buf.Buffer
	payload [1][]byte
}

var appendings sync.Pool

func newAppending() *appending {
	if p, ok := appendings.Get().(*appending); ok {
		return p
	}
	p := new(appending)
	p.a.Batch = &p.batch
	p.a.Done = p.answered
	p.batch.Free = p.free
	return p
}

func prepareAppend(r *rpc.Request, target storeproto.Store) error {
	h, err := storeproto.DecodeHeader(place(r), r.Head[refBytes:])
	if err != nil {
		return err
	}
	if len(r.Head) != appendHeadBytes || r.PayloadBytes != h.BodySize() {
		return corrupt(place(r), "bytes of an append", h.BodySize(), r.PayloadBytes)
	}
	p := newAppending()
	r.State = p
	p.r, p.store = r, target
	p.a.Stream, p.a.Epoch, p.a.Base, p.a.Copy, p.a.Released = h.Stream, h.Epoch, h.Base, h.Copy, h.Released
	p.a.Err, p.a.Tail = nil, 0
	b := &p.batch
	b.Retain() // ours, until done
	b.Epoch, b.First, b.Count, b.Sum = h.BatchEpoch, h.First, h.Count, h.Sum
	fixed := h.MetaLen + 4*h.Blocks
	if cap(p.fixed) < fixed {
		p.fixed = make([]byte, fixed)
	}
	p.fixed = p.fixed[:fixed]
	b.Meta = p.fixed[:h.MetaLen:h.MetaLen]
	b.Payload = nil
	r.Into = append(r.Into, p.fixed)
	if h.Blocks > 0 {
		p.data = buf.Get(h.Blocks * storeproto.BlockSize)
		p.payload[0] = p.data.Bytes()
		b.Payload = p.payload[:]
		r.Into = append(r.Into, p.payload[0])
	}
	return nil
}

func (p *appending) serve() {
	p.batch.Sums = storeproto.DecodeSums(p.batch.Sums[:0], p.fixed[len(p.batch.Meta):])
	p.store.Append(&p.a)
}

func (p *appending) answered(a *storeproto.Append) {
	r := p.r
	if a.Err == nil {
		r.OutHead = le.AppendUint64(r.OutHead, uint64(a.Tail))
	}
	r.Reply(a.Err)
}

func (p *appending) done() { p.batch.Release() }

// free is the batch's end.
func (p *appending) free(*storeproto.Batch) {
	p.data.Release()
	p.data, p.payload[0], p.r, p.store = nil, nil, nil, nil
	p.fixed = keep(p.fixed)
	appendings.Put(p)
}

// reading is a read under way.
type reading struct {
	r     *rpc.Request
	store storeproto.Store
	q     storeproto.ReadShard
	data  *buf.Buffer
}

var readings sync.Pool

func newReading() *reading {
	if p, ok := readings.Get().(*reading); ok {
		return p
	}
	p := new(reading)
	p.q.Done = p.answered
	return p
}

func prepareRead(r *rpc.Request, target storeproto.Store) error {
	p := newReading()
	r.State = p
	p.r, p.store = r, target
	dec := codec.NewReader(r.Peer.Identity.Name, r.Head[refBytes:])
	readRead(&dec, &p.q)
	p.q.Class = readClass(&dec)
	if dec.End(); dec.Err() != nil {
		return dec.Err()
	}
	r.ReplyBytes = int(p.q.Count) * storeproto.BlockSize
	return nil
}

func (p *reading) serve() {
	p.data = buf.Get(int(p.q.Count) * storeproto.BlockSize)
	p.q.Dst = p.data.Bytes()
	if n := int(p.q.Count); cap(p.q.Sums) < n {
		p.q.Sums = make([]uint32, n)
	} else {
		p.q.Sums = p.q.Sums[:n]
	}
	p.q.Err, p.q.Got = nil, id.Generation{}
	p.store.ReadShard(&p.q)
}

func (p *reading) answered(q *storeproto.ReadShard) {
	r := p.r
	if q.Err == nil {
		r.OutHead = appendReadReply(r.OutHead, q)
		r.OutPayload = append(r.OutPayload, q.Dst)
	}
	r.Reply(q.Err)
}

func (p *reading) done() {
	p.data.Release()
	p.data, p.q.Dst, p.r, p.store = nil, nil, nil, nil
	readings.Put(p)
}

// putting is a shard on its way in.
type putting struct {
	r     *rpc.Request
	store storeproto.Store
	p     storeproto.PutShard
	data  *buf.Buffer
}

func preparePut(r *rpc.Request, target storeproto.Store) error {
	p := &putting{r: r, store: target}
	if err := args(r, func(d *codec.Reader) { p.p.Epoch, p.p.Head = readPut(d); p.p.Class, p.p.Room = readUse(d) }); err != nil {
		return err
	}
	want := int(p.p.Head.Blocks) * storeproto.BlockSize
	if want != r.PayloadBytes {
		return corrupt(place(r), "bytes of a shard", want, r.PayloadBytes)
	}
	p.data = buf.Get(want)
	p.p.Data = [][]byte{p.data.Bytes()}
	p.p.Done = func(q *storeproto.PutShard) { r.Reply(q.Err) }
	r.Into = append(r.Into, p.data.Bytes())
	r.State = p
	return nil
}

func (p *putting) serve() { p.store.PutShard(&p.p) }
func (p *putting) done()  { p.data.Release() }

// confirming is a confirm under way.
type confirming struct {
	r     *rpc.Request
	store storeproto.Store
	c     storeproto.Confirm
}

var confirmings sync.Pool

func newConfirming() *confirming {
	if p, ok := confirmings.Get().(*confirming); ok {
		return p
	}
	p := new(confirming)
	p.c.Done = func(c *storeproto.Confirm) { p.r.Reply(c.Err) }
	return p
}

func prepareConfirm(r *rpc.Request, target storeproto.Store) error {
	p := newConfirming()
	r.State = p
	p.r, p.store = r, target
	dec := codec.NewReader(r.Peer.Identity.Name, r.Head[refBytes:])
	p.c.Volume, p.c.Epoch = readConfirm(&dec)
	dec.End()
	p.c.Err = nil
	return dec.Err()
}

func (p *confirming) serve() { p.store.Confirm(&p.c) }

func (p *confirming) done() {
	p.r, p.store = nil, nil
	confirmings.Put(p)
}

// leasing is a lease under way.
type leasing struct {
	store storeproto.Store
	l     storeproto.Lease
}

func (h *handler) prepareLease(r *rpc.Request, target storeproto.Store) error {
	p := &leasing{store: target}
	if err := args(r, func(d *codec.Reader) { readLease(d, &p.l) }); err != nil {
		return err
	}
	if err := h.owns(p.l.Holder); err != nil {
		return err
	}
	p.l.Done = func(l *storeproto.Lease) {
		if l.Err == nil {
			r.OutHead = appendLeaseReply(r.OutHead, l)
		}
		r.Reply(l.Err)
	}
	r.State = p
	return nil
}

func (p *leasing) serve() { p.store.Lease(&p.l) }
func (p *leasing) done()  {}

// prepareCall is for the requests that wait in a goroutine.
func (h *handler) prepareCall(r *rpc.Request, target storeproto.Store) error {
	c := &call{h: h, r: r}
	var err error
	switch r.Op {
	case opFence:
		var f storeproto.Fence
		if err = args(r, func(d *codec.Reader) { f = readFence(d) }); err == nil {
			err = h.owns(f.By)
		}
		c.run = func(ctx context.Context) error {
			reply, err := target.Fence(ctx, f)
			r.OutHead = appendFenceReply(r.OutHead, &reply)
			return err
		}
	case opRelease:
		var q storeproto.Release
		if err = args(r, func(d *codec.Reader) { q = readRelease(d) }); err == nil {
			err = h.owns(q.By)
		}
		c.run = func(ctx context.Context) error { return target.Release(ctx, q) }
	case opDrop:
		var q storeproto.Drop
		err = args(r, func(d *codec.Reader) { q = readDrop(d) })
		c.run = func(ctx context.Context) error { return target.Drop(ctx, q) }
	case opDeleteShards:
		var q storeproto.DeleteShards
		err = args(r, func(d *codec.Reader) { q = readDelete(d) })
		c.run = func(ctx context.Context) error { return target.DeleteShards(ctx, q) }
	case opShardHeads:
		var s id.Segment
		err = args(r, func(d *codec.Reader) { s = id.Segment(d.U64()) })
		c.run = func(ctx context.Context) error {
			heads, err := target.ShardHeads(ctx, s)
			r.OutHead = appendShardHeads(r.OutHead, heads)
			return err
		}
	case opListShards:
		lister, ok := target.(storeproto.Lister)
		var q storeproto.ListShards
		if err = args(r, func(d *codec.Reader) { q = readList(d) }); err == nil && !ok {
			err = errs.ErrInvalid
		}
		c.run = func(ctx context.Context) error {
			list, err := lister.ListShards(ctx, q)
			r.OutHead = appendListReply(r.OutHead, &list)
			return err
		}
	case opFetch:
		err = h.prepareFetch(c, r, target)
	default:
		err = errs.ErrInvalid
	}
	if err == nil {
		r.State = c
	}
	return err
}

func (h *handler) prepareFetch(c *call, r *rpc.Request, target storeproto.Store) error {
	var f storeproto.Fetch
	if err := args(r, func(d *codec.Reader) { f = readFetch(d) }); err != nil {
		return err
	}
	r.ReplyBytes = f.BytesMax
	var batches []*storeproto.Batch
	c.end = func() {
		for _, b := range batches {
			b.Release()
		}
	}
	c.run = func(ctx context.Context) error {
		reply, err := target.Fetch(ctx, f)
		if err != nil {
			return err
		}
		batches = reply.Batches
		n, more := fitting(batches), reply.More
		more = more || n < len(batches)
		r.OutHead = appendFetchReply(r.OutHead, f.Stream, batches[:n], more)
		for _, b := range batches[:n] {
			r.OutPayload = append(r.OutPayload, b.Meta, storeproto.AppendSums(nil, b.Sums))
			r.OutPayload = append(r.OutPayload, b.Payload...)
		}
		return nil
	}
	return nil
}

// fitting is how many of the batches fit in one answer, at least one.
func fitting(batches []*storeproto.Batch) int {
	total := 0
	for i, b := range batches {
		if total += b.BodySize(); i > 0 && total > fetchTotalMax || i == fetchCountMax {
			return i
		}
	}
	return len(batches)
}
