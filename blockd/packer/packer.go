// Package packer turns the blocks of a segment into k+m shards and puts each on its
// store. It decides nothing: a volume's core says what goes where, and hears when
// all shards are durable, or which stores failed.
package packer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// Stores finds the body of a store; false if it is not known here.
type Stores interface {
	Store(id.Store) (storeproto.Store, bool)
}

// Config has what a Packer needs.
type Config struct {
	Stores   Stores
	Topology func() *cluster.Topology
	// Workers encode and put in the background; LongWorkers serve only jobs that a client waits for. 0: 2 each.
	Workers, LongWorkers int
}

// Job is one segment. Done is called once, from a worker, when no shard of it is
// on its way any more; until then Blocks must not change.
type Job struct {
	Volume     id.Volume
	Epoch      id.Epoch
	Segment    id.Segment
	Generation id.Generation
	PGVersion  uint32
	K, M       uint8
	Long       bool
	Blocks     []Block
	// Encode, if set, makes the bytes of slot i; Blocks[i].Data and Sum are then filled by the packer.
	Encode func(i int, dst []byte)
	Done   func(*Job, Result)
}

// Block is one slot: its header entry, the CRC-32C of its bytes, and its bytes (4 KiB).
type Block struct {
	Entry uint64
	Sum   uint32
	Data  []byte
}

// Result of a job: Err nil means that all shards are durable. Suspects failed to put theirs.
type Result struct {
	Err      error
	Suspects []id.Store
}

// Packer has the workers of one process. Safe for concurrent use.
type Packer struct {
	cfg   Config
	jobs  chan *Job
	long  chan *Job
	group *lifecycle.Group
	stats struct{ segments, blocks, failed atomic.Uint64 }
}

// queueMax bounds the jobs that wait for a worker; volumes bound theirs well below.
const queueMax = 1024

// New starts a packer's workers; Close ends them.
func New(ctx context.Context, cfg Config) *Packer {
	if cfg.Workers == 0 {
		cfg.Workers = 2
	}
	if cfg.LongWorkers == 0 {
		cfg.LongWorkers = 2
	}
	p := &Packer{cfg: cfg, jobs: make(chan *Job, queueMax), long: make(chan *Job, queueMax), group: lifecycle.NewGroup(ctx)}
	for range cfg.Workers {
		p.group.Go("packer", func(ctx context.Context) error { return p.work(ctx, p.jobs) })
	}
	for range cfg.LongWorkers {
		p.group.Go("long packer", func(ctx context.Context) error { return p.work(ctx, p.long) })
	}
	return p
}

// Close ends the workers; jobs that still wait are dropped without Done.
func (p *Packer) Close() error { return p.group.Close() }

// Submit queues a job; false when the packer is closed or its queue full.
func (p *Packer) Submit(j *Job) bool {
	ch := p.jobs
	if j.Long {
		ch = p.long
	}
	select {
	case ch <- j:
		return true
	default:
		return false
	}
}

func (p *Packer) work(ctx context.Context, jobs chan *Job) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-jobs:
			r := p.run(j)
			if r.Err != nil {
				p.stats.failed.Add(1)
			} else {
				p.stats.segments.Add(1)
				p.stats.blocks.Add(uint64(len(j.Blocks)))
			}
			j.Done(j, r)
		}
	}
}

// run encodes and puts one segment and waits for all its shards.
func (p *Packer) run(j *Job) Result {
	stores, err := p.stores(j)
	if err != nil {
		return Result{Err: err}
	}
	code, err := stripe.For(stripe.Profile{K: j.K, M: j.M})
	if err != nil {
		return Result{Err: err}
	}
	if j.Encode != nil {
		pages := buf.Get(len(j.Blocks) * storeproto.BlockSize)
		defer pages.Release()
		j.encodePages(pages.Bytes())
	}
	layout := code.Layout(uint16(len(j.Blocks)))
	if j.Slots() > id.SlotsMax || !layout.Valid() {
		return Result{Err: fmt.Errorf("segment %s of %d slots: %w", j.Segment, len(j.Blocks), errs.ErrInvalid)}
	}
	parity := make([][]byte, j.M)
	for i := range parity {
		b := buf.Get(int(layout.Blocks()) * storeproto.BlockSize)
		defer b.Release()
		parity[i] = b.Bytes()
	}
	slots := make([][]byte, len(j.Blocks))
	for i := range j.Blocks {
		slots[i] = j.Blocks[i].Data
	}
	code.EncodeSlots(slots, parity)
	return j.put(stores, layout, parity)
}

// Slots is the number of slots of the job's segment.
func (j *Job) Slots() int { return len(j.Blocks) }

// encodePages fills the blocks of a job that makes its own bytes.
func (j *Job) encodePages(b []byte) {
	for i := range j.Blocks {
		d := b[i*storeproto.BlockSize:][:storeproto.BlockSize]
		j.Encode(i, d)
		j.Blocks[i].Data, j.Blocks[i].Sum = d, codec.CRC(d)
	}
}

// stores finds the bodies of all stores of the job's group before anything is sent.
func (p *Packer) stores(j *Job) ([]member, error) {
	t := p.cfg.Topology()
	if t == nil {
		return nil, fmt.Errorf("put segment %s: no topology yet: %w", j.Segment, errs.ErrUnavailable)
	}
	g, ok := t.PG(j.Segment.PG())
	if !ok {
		return nil, fmt.Errorf("put segment %s: placement group %d: %w", j.Segment, j.Segment.PG(), errs.ErrNotFound)
	}
	v, ok := g.Version(j.PGVersion)
	if !ok || len(v.Stores) != int(j.K)+int(j.M) {
		return nil, fmt.Errorf("put segment %s: version %d of group %d: %w", j.Segment, j.PGVersion, j.Segment.PG(), errs.ErrNotFound)
	}
	out := make([]member, len(v.Stores))
	for i, s := range v.Stores {
		body, ok := p.cfg.Stores.Store(s.Store)
		if !ok {
			return nil, fmt.Errorf("put segment %s: store %s is not known: %w", j.Segment, s.Store, errs.ErrUnavailable)
		}
		out[i] = member{s.Store, body}
	}
	return out, nil
}

type member struct {
	id   id.Store
	body storeproto.Store
}

var zeroBlock = buf.Get(storeproto.BlockSize).Bytes()

func init() { clear(zeroBlock) }

// put sends all shards and waits for all answers, also after a failure: the bytes
// belong to the volume again only when no store reads them any more.
func (j *Job) put(stores []member, layout segment.Layout, parity [][]byte) Result {
	puts := make([]storeproto.PutShard, len(stores))
	var wg sync.WaitGroup
	wg.Add(len(stores))
	crcs := make([]uint32, len(j.Blocks))
	all := make([]uint64, len(j.Blocks))
	for i, b := range j.Blocks {
		crcs[i], all[i] = b.Sum, b.Entry
	}
	for i := range puts {
		h := &storeproto.ShardHead{
			Volume: j.Volume, Segment: j.Segment, Generation: j.Generation, Index: uint8(i), K: j.K, M: j.M,
			PGVersion: j.PGVersion, Slots: layout.Slots, Blocks: layout.Blocks(), Sums: make([]uint32, layout.Blocks()),
		}
		q := &puts[i]
		q.Head, q.Epoch = h, j.Epoch
		q.Done = func(*storeproto.PutShard) { wg.Done() }
		if i < int(j.K) {
			q.Data = j.dataShard(h, layout, crcs)
		} else {
			b := parity[i-int(j.K)]
			stripe.ShardSums(h.Sums, j.Segment, h.Index, b)
			h.Entries = all
			q.Data = [][]byte{b}
		}
		stores[i].body.PutShard(q)
	}
	wg.Wait()
	var r Result
	for i := range puts {
		if e := puts[i].Err; e != nil {
			r.Err = errors.Join(r.Err, fmt.Errorf("put shard %d of %s on %s: %w", i, j.Segment, stores[i].id, e))
			r.Suspects = append(r.Suspects, stores[i].id)
		}
	}
	return r
}

// dataShard lists the blocks of a data shard where they lie, and fills its header.
func (j *Job) dataShard(h *storeproto.ShardHead, layout segment.Layout, crcs []uint32) [][]byte {
	stripe.DataSums(h.Sums, j.Segment, layout, h.Index, crcs)
	data := make([][]byte, 0, layout.Blocks())
	h.Entries = make([]uint64, 0, layout.ShardSlots(h.Index))
	for b := range layout.Blocks() {
		slot, ok := layout.Slot(h.Index, b)
		if !ok {
			data = append(data, zeroBlock)
			continue
		}
		h.Entries = append(h.Entries, j.Blocks[slot].Entry)
		data = join(data, j.Blocks[slot].Data)
	}
	return data
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

// Stats are counts since the start.
type Stats struct{ Segments, Blocks, Failed uint64 }

// Stats gives the counts.
func (p *Packer) Stats() Stats {
	return Stats{p.stats.segments.Load(), p.stats.blocks.Load(), p.stats.failed.Load()}
}
