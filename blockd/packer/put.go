package packer

import (
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// put is one job at work, and the memory for it, which serves one job after another.
type put struct {
	p      *Packer
	j      *Job
	stores []member
	layout segment.Layout
	parity []*buf.Buffer
	pages  *buf.Buffer // of a job that makes its own bytes
	all    chan struct{}

	slots   [][]byte
	crcs    []uint32
	entries []uint64
	lists   [][]byte // of parity
	shards  []shardPut

	mu   sync.Mutex
	open int  // shards that are not answered
	left bool // the worker waits no longer
}

// shardPut is one shard on its way.
type shardPut struct {
	req      storeproto.PutShard
	head     storeproto.ShardHead
	sums     []uint32
	entries  []uint64
	data     [][]byte
	answered bool // under put.mu, and then req.Err may be read
}

func newPut() *put { return &put{all: make(chan struct{}, 1)} }

// begin encodes the segment.
func (q *put) begin(p *Packer, j *Job, stores []member) error {
	q.p, q.j, q.stores, q.left = p, j, stores, false
	code, err := stripe.For(stripe.Profile{K: j.K, M: j.M})
	if err != nil {
		return err
	}
	if n := len(j.Blocks); n == 0 || n > id.SlotsMax || len(j.Slots) > id.SlotsMax || !j.keeps() {
		return fmt.Errorf("segment %s of %d slots: %w", j.Segment, n, errs.ErrInvalid)
	}
	q.layout = code.Layout(uint16(len(j.Blocks)))
	if j.Encode != nil {
		q.encodePages()
	}
	for range j.M {
		b := buf.Get(int(q.layout.Blocks()) * storeproto.BlockSize)
		q.parity = append(q.parity, b)
		q.lists = append(q.lists, b.Bytes())
	}
	for i := range j.Blocks {
		b := &j.Blocks[i]
		q.slots = append(q.slots, b.Data)
		q.crcs = append(q.crcs, b.Sum)
		q.entries = append(q.entries, b.Entry)
	}
	code.EncodeSlots(q.slots, q.lists)
	if cap(q.shards) < len(stores) {
		q.shards = make([]shardPut, len(stores))
	}
	q.shards = q.shards[:len(stores)]
	for i := range q.shards {
		q.fill(i)
	}
	return nil
}

// keeps tells whether Blocks are what Slots says.
func (j *Job) keeps() bool {
	n := 0
	for _, e := range j.Slots {
		if e == 0 {
			continue
		}
		if n == len(j.Blocks) || j.Blocks[n].Entry != e {
			return false
		}
		n++
	}
	return j.Slots == nil || n == len(j.Blocks)
}

// encodePages fills the blocks of a job that makes its own bytes.
func (q *put) encodePages() {
	j := q.j
	q.pages = buf.Get(len(j.Blocks) * storeproto.BlockSize)
	for i := range j.Blocks {
		d := q.pages.Bytes()[i*storeproto.BlockSize:][:storeproto.BlockSize]
		j.Encode(i, d)
		j.Blocks[i].Data, j.Blocks[i].Sum = d, codec.CRC(d)
	}
}

// fill makes the request of shard i.
func (q *put) fill(i int) {
	s, j, n := &q.shards[i], q.j, int(q.layout.Blocks())
	if cap(s.sums) < n {
		s.sums = make([]uint32, n)
	}
	s.sums, s.entries, s.data, s.answered = s.sums[:n], s.entries[:0], s.data[:0], false
	s.head = storeproto.ShardHead{
		Volume: j.Volume, Segment: j.Segment, Generation: j.Generation, Index: uint8(i), K: j.K, M: j.M,
		PGVersion: j.PGVersion, Slots: q.layout.Slots, Blocks: q.layout.Blocks(), Sums: s.sums,
	}
	if i < int(j.K) {
		q.dataShard(s)
		s.head.Entries = s.entries
	} else {
		b := q.lists[i-int(j.K)]
		stripe.ShardSums(s.sums, j.Segment, s.head.Index, b)
		s.data = append(s.data, b)
		s.head.Entries = q.entries
	}
	if j.Slots != nil { // every header says which slots are kept
		s.head.Slots, s.head.Entries = uint16(len(j.Slots)), j.Slots
	}
	if s.req.Done == nil {
		s.req.Done = func(*storeproto.PutShard) { q.answered(s) }
	}
	s.req.Head, s.req.Epoch, s.req.Class, s.req.Room, s.req.Data, s.req.Err = &s.head, j.Epoch, j.Class, j.Room, s.data, nil
}

var zeroBlock = buf.Get(storeproto.BlockSize).Bytes()

func init() { clear(zeroBlock) }

// dataShard lists the blocks of a data shard where they lie, and fills its header.
func (q *put) dataShard(s *shardPut) {
	index := s.head.Index
	stripe.DataSums(s.sums, q.j.Segment, q.layout, index, q.crcs)
	for b := range q.layout.Blocks() {
		slot, ok := q.layout.Slot(index, b)
		if !ok {
			s.data = append(s.data, zeroBlock)
			continue
		}
		s.entries = append(s.entries, q.entries[slot])
		s.data = join(s.data, q.slots[slot])
	}
}

// join appends a block, to the slice before it where the two are neighbours in memory.
func join(data [][]byte, b []byte) [][]byte {
	if n := len(data); n > 0 {
		last := data[n-1]
		if cap(last) >= len(last)+len(b) && &last[:len(last)+1][len(last)] == &b[0] {
			data[n-1] = last[:len(last)+len(b)]
			return data
		}
	}
	return append(data, b)
}

// send gives every shard to its store.
func (q *put) send() {
	q.mu.Lock()
	q.open = len(q.shards)
	q.mu.Unlock()
	for i := range q.shards {
		q.stores[i].body.PutShard(&q.shards[i].req)
	}
}

// answered: a store is done with a shard. The last one wakes the worker or, if that
// has gone on, ends the put itself.
func (q *put) answered(s *shardPut) {
	q.mu.Lock()
	s.answered = true
	q.open--
	last, left := q.open == 0, q.left
	q.mu.Unlock()
	switch {
	case !last:
	case left:
		j := q.j
		q.end()
		j.Freed(j)
	default:
		q.all <- struct{}{}
	}
}

// waitsForDead tells whether a store that metad finds down or gone owes an answer.
func (q *put) waitsForDead(t *cluster.Topology) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.shards {
		if !q.shards[i].answered && t != nil && !t.Usable(q.stores[i].ref) {
			return true
		}
	}
	return false
}

// leave ends a job that some stores have not answered.
func (q *put) leave(why error) Result {
	q.mu.Lock()
	if q.open == 0 { // the last answer came just now
		q.mu.Unlock()
		<-q.all
		r := q.result(nil)
		q.end()
		return r
	}
	q.left = true
	r := q.resultLocked(why)
	q.mu.Unlock()
	return r
}

func (q *put) result(late error) Result {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.resultLocked(late)
}

// resultLocked sums the answers up. A store that only knows better than we do, a
// newer epoch or version of the group, is no suspect.
func (q *put) resultLocked(late error) Result {
	var r Result
	for i := range q.shards {
		err := late
		if s := &q.shards[i]; s.answered {
			err = s.req.Err
		} else {
			r.Held = true // its store still owns the request
		}
		if err == nil {
			continue
		}
		ref := q.stores[i].ref
		r.Err = errors.Join(r.Err, fmt.Errorf("put shard %d of %s on %s: %w", i, q.j.Segment, ref.Store, err))
		switch {
		case errors.Is(err, errs.ErrStaleEpoch), errors.Is(err, errs.ErrClosed):
		case errors.Is(err, errs.ErrNoSpace):
			r.Full = append(r.Full, ref.Store)
		default:
			r.Suspects = append(r.Suspects, ref.Store)
		}
	}
	return r
}

// end gives the memory back: no store reads it any more.
func (q *put) end() {
	for _, b := range q.parity {
		b.Release()
	}
	q.pages.Release()
	clear(q.parity)
	clear(q.lists)
	clear(q.slots)
	for i := range q.shards {
		clear(q.shards[i].data)
	}
	p := q.p
	q.p, q.j, q.stores, q.pages = nil, nil, nil, nil
	q.parity, q.lists, q.slots, q.crcs, q.entries = q.parity[:0], q.lists[:0], q.slots[:0], q.crcs[:0], q.entries[:0]
	p.pool.Put(q)
}
