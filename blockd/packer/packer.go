package packer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
)

// Stores finds the body of a store; false if it is not known here.
type Stores interface {
	Store(id.Store) (storeproto.Store, bool)
}

// Config has what a Packer needs.
type Config struct {
	Stores   Stores
	Topology func() *cluster.Topology
	// Clock is the system's if nil.
	Clock clock.Clock
	// Workers encode and put in the background; LongWorkers serve only jobs that a client waits for. 0: 2 each.
	Workers, LongWorkers int
	// PutTimeout is how long a store may take over one shard. 0: 6 s.
	PutTimeout time.Duration
	// Delay, for tests: a job that no client waits for begins as much later.
	Delay time.Duration
}

// Block is one slot: its header entry, the CRC-32C of its bytes, and its bytes (4 KiB).
type Block = core.PackBlock

// Job is one segment. Its sender owns it and must not change it, nor Blocks, until
// no store reads it any more: until Done, or until Freed where the Result says Held.
type Job struct {
	Volume     id.Volume
	Epoch      id.Epoch
	Segment    id.Segment
	Generation id.Generation
	PGVersion  uint32
	K, M       uint8
	Long       bool
	Class      storeproto.Class
	Room       storeproto.Room
	Blocks     []Block
	// Slots, if set, are the entries of all slots of the segment, of which Blocks are
	// those that are not empty: a generation that keeps only these.
	Slots []uint64
	// Encode, if set, makes the bytes of slot i; Blocks[i].Data and Sum are then filled by the packer.
	Encode func(i int, dst []byte)
	// Done is called once, from any goroutine, and must not block. If the Result said
	// Held, Freed is called once, too, perhaps before Done has returned.
	Done  func(*Job, Result)
	Freed func(*Job)
}

// Result of a job: Err nil means that all shards are durable. Suspects failed to put theirs;
// those of Full have no room for it.
type Result struct {
	Err      error
	Suspects []id.Store
	Full     []id.Store
	Held     bool
}

// Packer has the workers of one process. Safe for concurrent use.
type Packer struct {
	cfg   Config
	jobs  chan *Job
	long  chan *Job
	group *lifecycle.Group
	pool  sync.Pool
	stats struct{ segments, blocks, failed, held atomic.Uint64 }

	mu     sync.Mutex
	closed bool
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
	if cfg.PutTimeout == 0 {
		cfg.PutTimeout = 6 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System
	}
	p := &Packer{cfg: cfg, jobs: make(chan *Job, queueMax), long: make(chan *Job, queueMax), group: lifecycle.NewGroup(ctx)}
	p.pool.New = func() any { return newPut() }
	for range cfg.Workers {
		p.group.Go("packer", func(ctx context.Context) error { return p.work(ctx, p.jobs) })
	}
	for range cfg.LongWorkers {
		p.group.Go("long packer", func(ctx context.Context) error { return p.work(ctx, p.long) })
	}
	return p
}

// Close ends the workers. Jobs that are not done end with ErrClosed.
func (p *Packer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.group.Close()
	for {
		select {
		case j := <-p.jobs:
			j.Done(j, Result{Err: errClosed})
		case j := <-p.long:
			j.Done(j, Result{Err: errClosed})
		default:
			return err
		}
	}
}

var errClosed = fmt.Errorf("the packer has ended: %w", errs.ErrClosed)

// Submit queues a job; false when the packer is closed or its queue full.
func (p *Packer) Submit(j *Job) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := p.jobs
	if j.Long {
		ch = p.long
	}
	if p.closed {
		return false
	}
	select {
	case ch <- j:
		return true
	default:
		return false
	}
}

// lookEvery is how often a worker that waits for stores looks at time and topology.
const lookEvery = 200 * time.Millisecond

func (p *Packer) work(ctx context.Context, jobs chan *Job) error {
	t := p.cfg.Clock.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		case j := <-jobs:
			if !j.Long && p.cfg.Delay > 0 && p.cfg.Clock.Sleep(ctx, p.cfg.Delay) != nil {
				j.Done(j, Result{Err: errClosed})
				return nil
			}
			r := p.run(ctx, t, j)
			if r.Err != nil {
				p.stats.failed.Add(1)
			} else {
				p.stats.segments.Add(1)
				p.stats.blocks.Add(uint64(len(j.Blocks)))
			}
			if r.Held {
				p.stats.held.Add(1)
			}
			j.Done(j, r)
		}
	}
}

// run encodes and puts one segment and waits for its shards, but not for ever.
func (p *Packer) run(ctx context.Context, t clock.Ticker, j *Job) Result {
	stores, err := p.stores(j)
	if err != nil {
		return Result{Err: err}
	}
	q := p.pool.Get().(*put)
	if err := q.begin(p, j, stores); err != nil {
		q.end()
		return Result{Err: err}
	}
	started := p.cfg.Clock.Now()
	q.send()
	for {
		select {
		case <-q.all:
			r := q.result(nil)
			q.end()
			return r
		case <-t.C():
			if p.cfg.Clock.Now()-started >= p.cfg.PutTimeout {
				return q.leave(errs.ErrTimeout)
			}
			if q.waitsForDead(p.cfg.Topology()) {
				return q.leave(errs.ErrUnavailable)
			}
		case <-ctx.Done():
			return q.leave(errClosed)
		}
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
		out[i] = member{s, body}
	}
	return out, nil
}

// member is one store of a job's group.
type member struct {
	ref  cluster.StoreRef
	body storeproto.Store
}

// Stats are counts since the start. Held: jobs left because a store did not answer.
type Stats struct{ Segments, Blocks, Failed, Held uint64 }

// Stats gives the counts.
func (p *Packer) Stats() Stats {
	return Stats{p.stats.segments.Load(), p.stats.blocks.Load(), p.stats.failed.Load(), p.stats.held.Load()}
}
