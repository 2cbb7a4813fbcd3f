package remote

import (
	"fmt"
	"sync"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// Each request of the I/O path travels in a pooled call, which holds its encoded head.

// headKept is the most a pooled call keeps of a head, in bytes.
const headKept = 16 << 10

func keep(b []byte) []byte {
	if cap(b) > headKept {
		return nil
	}
	return b[:0]
}

// empty is the answer of a request whose good reply says nothing more.
func empty(s *store, head []byte, payload int) error {
	if len(head) != 0 || payload != 0 {
		return corrupt(s.String(), "bytes of an empty reply", 0, len(head)+payload)
	}
	return nil
}

type appendCall struct {
	rpc.Call
	store *store
	a     *storeproto.Append
	head  [appendHeadBytes]byte
	sums  []byte
}

var appendCalls = sync.Pool{New: func() any { return new(appendCall) }}

// Append is part of storeproto.Store. The order of calls is kept on the wire.
func (s *store) Append(a *storeproto.Append) {
	if err := checkAppend(a); err != nil {
		a.Err = err
		a.Done(a)
		return
	}
	c := appendCalls.Get().(*appendCall)
	c.store, c.a, c.Caller = s, a, c
	c.Op, c.Timeout = opAppend, s.peer.timeouts.Append
	copy(c.head[:], s.ref[:])
	a.EncodeHeader(c.head[refBytes:])
	c.Head = c.head[:]
	c.sums = storeproto.AppendSums(c.sums[:0], a.Batch.Sums)
	c.Payload = append(c.Payload[:0], a.Batch.Meta, c.sums)
	c.Payload = append(c.Payload, a.Batch.Payload...)
	s.peer.client(opAppend).Start(&c.Call)
}

// checkAppend refuses what the wire has no room for and no store would take.
func checkAppend(a *storeproto.Append) error {
	b := a.Batch
	switch {
	case b.Count == 0 || b.Count > storeproto.BatchRecordsMax || b.First == 0 || b.First+id.LSN(b.Count) < b.First:
		return fmt.Errorf("append %d records at %d: %w", b.Count, b.First, errs.ErrInvalid)
	case len(b.Meta) > storeproto.BatchMetaMax || len(b.Sums) > storeproto.BatchBlocksMax:
		return fmt.Errorf("append %d bytes of meta and %d blocks: %w", len(b.Meta), len(b.Sums), errs.ErrInvalid)
	case bytesOf(b.Payload) != b.PayloadBytes():
		return fmt.Errorf("append %d bytes of payload with %d sums: %w", bytesOf(b.Payload), len(b.Sums), errs.ErrInvalid)
	case a.Stream.Kind >= storeproto.Kinds || a.Epoch == 0 || b.Epoch == 0 || a.Stream.Ensemble.Epoch == 0:
		return fmt.Errorf("append to %v of kind %d under %s: %w", a.Stream, a.Stream.Kind, a.Epoch, errs.ErrInvalid)
	}
	return nil
}

// Answer is part of rpc.Caller.
func (c *appendCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	if len(head) != 8 || payload != 0 {
		return corrupt(c.store.String(), "bytes of an append's reply", 8, len(head)+payload)
	}
	c.a.Tail = id.LSN(le.Uint64(head))
	return nil
}

// Done is part of rpc.Caller.
func (c *appendCall) Done(*rpc.Call) {
	a := c.a
	a.Err = wrap("append to", c.store, c.Err)
	clear(c.Payload)
	c.a, c.store, c.sums = nil, nil, keep(c.sums)
	appendCalls.Put(c)
	a.Done(a)
}

func wrap(what string, s *store, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s store %s: %w", what, s, err)
}

type confirmCall struct {
	rpc.Call
	store *store
	c     *storeproto.Confirm
}

var confirmCalls = sync.Pool{New: func() any { return new(confirmCall) }}

// Confirm is part of storeproto.Store.
func (s *store) Confirm(q *storeproto.Confirm) {
	c := confirmCalls.Get().(*confirmCall)
	c.store, c.c, c.Caller = s, q, c
	c.Op, c.Timeout = opConfirm, s.peer.timeouts.Confirm
	c.Head = appendConfirm(append(c.Head[:0], s.ref[:]...), q.Volume, q.Epoch)
	s.peer.client(opConfirm).Start(&c.Call)
}

// Answer is part of rpc.Caller.
func (c *confirmCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	return empty(c.store, head, payload)
}

// Done is part of rpc.Caller.
func (c *confirmCall) Done(*rpc.Call) {
	q := c.c
	q.Err = wrap("confirm with", c.store, c.Err)
	c.c, c.store = nil, nil
	confirmCalls.Put(c)
	q.Done(q)
}

type leaseCall struct {
	rpc.Call
	store *store
	l     *storeproto.Lease
}

// Lease is part of storeproto.Store. There are few of them: nothing is pooled.
func (s *store) Lease(l *storeproto.Lease) {
	c := &leaseCall{store: s, l: l}
	c.Caller, c.Op, c.Timeout = c, opLease, l.Wait+s.peer.timeouts.Lease
	c.Head = appendLease(s.head(), l)
	s.peer.client(opLease).Start(&c.Call)
}

// Answer is part of rpc.Caller.
func (c *leaseCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	if payload != 0 {
		return corrupt(c.store.String(), "payload of a grant", 0, payload)
	}
	return decode(c.store.String(), head, func(r *codec.Reader) { readLeaseReply(r, c.l) })
}

// Done is part of rpc.Caller.
func (c *leaseCall) Done(*rpc.Call) {
	c.l.Err = wrap("lease from", c.store, c.Err)
	c.l.Done(c.l)
}

type readCall struct {
	rpc.Call
	store *store
	q     *storeproto.ReadShard
	into  [1][]byte
}

var readCalls = sync.Pool{New: func() any { return new(readCall) }}

// ReadShard is part of storeproto.Store. The blocks are read from the socket into q.Dst.
func (s *store) ReadShard(q *storeproto.ReadShard) {
	if q.Count == 0 || int(q.First)+int(q.Count) > shardSlotsMax || len(q.Dst) != int(q.Count)*storeproto.BlockSize || len(q.Sums) != int(q.Count) {
		q.Err = fmt.Errorf("read %d blocks at %d into %d bytes and %d sums: %w", q.Count, q.First, len(q.Dst), len(q.Sums), errs.ErrInvalid)
		q.Done(q)
		return
	}
	c := readCalls.Get().(*readCall)
	c.store, c.q, c.Caller = s, q, c
	c.Op, c.Timeout = opReadShard, s.peer.timeouts.Read
	c.Head = appendClass(appendRead(append(c.Head[:0], s.ref[:]...), q), s.peer.class(opReadShard, q.Class))
	s.peer.client(opReadShard).Start(&c.Call)
}

// Answer is part of rpc.Caller.
func (c *readCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	r := codec.NewReader(string(c.store.peer.host), head)
	readReadReply(&r, c.q)
	r.End()
	c.into[0] = c.q.Dst
	c.Into = c.into[:]
	return r.Err()
}

// Done is part of rpc.Caller.
func (c *readCall) Done(*rpc.Call) {
	q := c.q
	q.Err = wrap("read from", c.store, c.Err)
	c.q, c.store, c.into[0], c.Into = nil, nil, nil, nil
	readCalls.Put(c)
	q.Done(q)
}

type putCall struct {
	rpc.Call
	store *store
	p     *storeproto.PutShard
}

var putCalls = sync.Pool{New: func() any { return new(putCall) }}

// PutShard is part of storeproto.Store.
func (s *store) PutShard(p *storeproto.PutShard) {
	if n := bytesOf(p.Data); n != int(p.Head.Blocks)*storeproto.BlockSize {
		p.Err = fmt.Errorf("put a shard of %d blocks with %d bytes: %w", p.Head.Blocks, n, errs.ErrInvalid)
		p.Done(p)
		return
	}
	c := putCalls.Get().(*putCall)
	c.store, c.p, c.Caller = s, p, c
	c.Op, c.Timeout, c.Payload = opPutShard, s.peer.timeouts.Put, p.Data
	c.Head = appendUse(appendPut(append(c.Head[:0], s.ref[:]...), p), s.peer.class(opPutShard, p.Class), s.peer.room(p.Room))
	s.peer.client(opPutShard).Start(&c.Call)
}

// Answer is part of rpc.Caller.
func (c *putCall) Answer(_ *rpc.Call, head []byte, payload int) error {
	return empty(c.store, head, payload)
}

// Done is part of rpc.Caller.
func (c *putCall) Done(*rpc.Call) {
	p := c.p
	p.Err = wrap("put to", c.store, c.Err)
	c.p, c.store, c.Payload, c.Head = nil, nil, nil, keep(c.Head)
	putCalls.Put(c)
	p.Done(p)
}

func bytesOf(slices [][]byte) int {
	n := 0
	for _, s := range slices {
		n += len(s)
	}
	return n
}
