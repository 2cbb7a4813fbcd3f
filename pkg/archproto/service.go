package archproto

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/segment"
)

// Owner is what has the disks, of the peer that serves.
type Owner interface {
	// PlanSnapshot gives what a snapshot holds above After: all of it, or the first of it and More. It may take
	// long, for it reads the snapshot's whole map. ErrConflict: another host owns the disk.
	PlanSnapshot(ctx context.Context, q PlanQuery) (*Plan, error)
	// ReadSnapshot reads slots into dst, which has room for them. Every block was checked.
	ReadSnapshot(ctx context.Context, q ReadQuery, dst []byte) ([]segment.Entry, []uint32, error)
}

// ServiceConfig says what is served.
type ServiceConfig struct {
	Owner Owner
	Clock clock.Clock
	// BytesMax bounds the memory of reads under way, of all connections together. Zero: 128 MiB.
	BytesMax int
}

const (
	plansMax  = 2               // that are kept, of up to 40 MiB each
	planKept  = 2 * time.Minute // after the last question
	atOnceMax = 16              // requests of a connection
)

// NewService serves snapshots to the archive's daemon, to be added to an rpc.ServerConfig.
func NewService(cfg ServiceConfig) (rpc.Service, error) {
	if cfg.Owner == nil || cfg.Clock == nil {
		return rpc.Service{}, fmt.Errorf("configure archive service: owner or clock is missing: %w", errs.ErrInvalid)
	}
	if cfg.BytesMax == 0 {
		cfg.BytesMax = 128 << 20
	}
	l := rpc.DefaultLimits(rpc.ClassArchive)
	l.InFlight = atOnceMax
	plans := &plans{cfg: cfg}
	return rpc.Service{Class: rpc.ClassArchive, VersionMin: Version, VersionMax: Version, Limits: l, Process: rpc.NewBudget(cfg.BytesMax),
		Accept: func(p rpc.Peer) (rpc.Handler, error) {
			if p.Identity.Role != pki.RoleSnapshotd {
				return nil, fmt.Errorf("snapshots are served to role %s, not to %s: %w", pki.RoleSnapshotd, p.Identity, errs.ErrDenied)
			}
			return &handler{cfg: cfg, peer: p, plans: plans}, nil
		}}, nil
}

type handler struct {
	cfg   ServiceConfig
	peer  rpc.Peer
	plans *plans
	calls sync.WaitGroup
}

// Prepare is part of rpc.Handler.
func (h *handler) Prepare(r *rpc.Request) error {
	dec := codec.NewReader(h.peer.Identity.Name, r.Head)
	var run func(ctx context.Context) error
	switch r.Op {
	case opPlan:
		var q PlanQuery
		q.read(&dec)
		run = func(ctx context.Context) error {
			p, err := h.plans.page(ctx, q)
			if err == nil {
				r.OutHead = p.append(r.OutHead)
			}
			return err
		}
	case opRead:
		var q ReadQuery
		q.read(&dec)
		if dec.Err() == nil {
			r.ReplyBytes = q.Slots.Count() * block.Size
		}
		run = func(ctx context.Context) error {
			var err error
			b := buf.Get(q.Slots.Count() * block.Size)
			r.State = b // until Done
			s := Slots{Data: b.Bytes()}
			if s.Entries, s.Sums, err = h.cfg.Owner.ReadSnapshot(ctx, q, s.Data); err != nil {
				return err
			}
			r.OutHead = s.appendHead(r.OutHead)
			r.OutPayload = append(r.OutPayload, s.Data)
			return nil
		}
	default:
		return fmt.Errorf("operation %d: %w", r.Op, errs.ErrInvalid)
	}
	if dec.End(); dec.Err() != nil {
		return dec.Err()
	}
	if r.PayloadBytes != 0 {
		return fmt.Errorf("payload of a question: %w", errs.ErrInvalid)
	}
	r.State = run
	return nil
}

// Serve is part of rpc.Handler.
func (h *handler) Serve(r *rpc.Request) {
	run := r.State.(func(ctx context.Context) error)
	h.calls.Add(1)
	go func() {
		defer h.calls.Done()
		ctx, cancel := context.WithCancel(r.Peer.Context)
		defer cancel()
		if r.Timeout > 0 {
			defer h.cfg.Clock.AfterFunc(r.Timeout, cancel).Stop()
		}
		r.Reply(run(ctx))
	}()
}

// Done is part of rpc.Handler.
func (h *handler) Done(r *rpc.Request) {
	if b, ok := r.State.(*buf.Buffer); ok {
		b.Release()
	}
}

// Close is part of rpc.Handler.
func (h *handler) Close() { h.calls.Wait() }

// plans remembers what was found, because it is told page by page and finding it reads a whole map.
type plans struct {
	cfg ServiceConfig
	mu  sync.Mutex // also while one is made: two walks would not be done sooner than one after the other
	all []*kept
}

type kept struct {
	q     PlanQuery // that it answers
	plan  *Plan
	timer clock.Timer
}

// page gives the first segments above q.After that fit into an answer.
func (p *plans) page(ctx context.Context, q PlanQuery) (*Plan, error) {
	k, err := p.find(ctx, q)
	if err != nil {
		return nil, err
	}
	out := *k.plan
	held := out.Held
	for len(held) > 0 && held[0].Segment.Sequence() <= q.After {
		held = held[1:]
	}
	n, full := 0, 0
	for n < len(held) && n-full < heldMax && full < fullMax {
		if held[n].Slots != nil {
			full++
		}
		n++
	}
	out.Held = held[:n]
	out.More = n < len(held) || k.plan.More
	return &out, nil
}

func (p *plans) find(ctx context.Context, q PlanQuery) (*kept, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.all {
		same := k.q.Volume == q.Volume && k.q.Snapshot == q.Snapshot && k.q.Base == q.Base && k.q.After <= q.After
		n := len(k.plan.Held)
		if same && (!k.plan.More || n > 0 && k.plan.Held[n-1].Segment.Sequence() > q.After) {
			k.timer.Reset(planKept)
			return k, nil
		}
	}
	plan, err := p.cfg.Owner.PlanSnapshot(ctx, q)
	if err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	k := &kept{q: q, plan: plan}
	k.timer = p.cfg.Clock.AfterFunc(planKept, func() { p.forget(k) })
	if p.all = append(p.all, k); len(p.all) > plansMax {
		p.all[0].timer.Stop()
		p.all = p.all[1:]
	}
	return k, nil
}

func (p *plans) forget(k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, x := range p.all {
		if x == k {
			p.all = append(p.all[:i:i], p.all[i+1:]...)
			return
		}
	}
}
