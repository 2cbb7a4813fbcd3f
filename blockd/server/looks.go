package server

import (
	"context"
	"sync"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Times of looks for what of a disk cannot be read.
const (
	// sumEvery is the pause between two looks that nobody waits for; and it is sumShare times as
	// long as a look takes.
	sumEvery    = 5 * time.Second
	sumShare    = 10
	lookTimeout = 10 * time.Minute
)

// looks are what owners here found, by volume. One looks at a time.
type looks struct {
	turn chan struct{}
	mu   sync.Mutex
	of   map[id.Volume]*looksAt
}

type looksAt struct {
	busy  bool // a look that nobody asked for is under way
	sum   *cluster.Lost
	next  time.Duration                  // no such look before
	asked map[cluster.Look]*cluster.Lost // nil: it is under way
}

func newLooks() *looks {
	return &looks{turn: make(chan struct{}, 1), of: make(map[id.Volume]*looksAt)}
}

// tell puts what was found of a volume into its beat.
func (x *looks) tell(b *client.VolumeBeat) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at := x.of[b.Volume]; at != nil {
		b.Lost = at.sum
		for _, l := range at.asked {
			if l != nil {
				b.Looks = append(b.Looks, *l)
			}
		}
	}
}

// takeLooks begins what metad asks for and nobody does yet, and forgets what it asks for no more.
func (s *server) takeLooks(orders []client.LookOrder, doubts []id.Segment) {
	x := s.looks
	owned := make(map[id.Volume]*volume.Volume)
	s.exports.Owned(func(v *volume.Volume, _ int) { owned[v.ID()] = v })
	named := make(map[id.Volume]map[cluster.Look]bool)
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range orders {
		vol := owned[o.Volume]
		if vol == nil {
			continue
		}
		if named[o.Volume] == nil {
			named[o.Volume] = make(map[cluster.Look]bool)
		}
		named[o.Volume][o.Look] = true
		at := x.of[o.Volume]
		if at == nil {
			at = &looksAt{asked: make(map[cluster.Look]*cluster.Lost)}
			x.of[o.Volume] = at
		}
		x.begin(s, vol, at, o.Look, doubts)
	}
	for v, at := range x.of {
		if owned[v] == nil {
			delete(x.of, v)
			continue
		}
		for q, l := range at.asked {
			if l != nil && !named[v][q] {
				delete(at.asked, q)
			}
		}
	}
}

// begin starts a look unless it is under way, done, or not due. x.mu is held.
func (x *looks) begin(s *server, vol *volume.Volume, at *looksAt, q cluster.Look, doubts []id.Segment) {
	asked := q.ID != [16]byte{}
	_, known := at.asked[q]
	switch {
	case asked && (known || len(at.asked) >= cluster.LooksMax):
		return
	case asked:
		at.asked[q] = nil
	case at.busy || s.clock.Now() < at.next:
		return
	default:
		at.busy = true
	}
	s.group.Go("look", func(ctx context.Context) error {
		began := s.clock.Now()
		l := s.look(ctx, vol, q, doubts)
		x.mu.Lock()
		defer x.mu.Unlock()
		if asked {
			at.asked[q] = &l
		} else {
			at.busy = false
		}
		if q.From == 0 {
			sum := l
			sum.Ranges, sum.Next, sum.ID = nil, 0, [16]byte{}
			took := s.clock.Now() - began
			at.sum, at.next = &sum, s.clock.Now()+max(sumEvery, sumShare*took)
		}
		return nil
	})
}

// look looks when it is its turn.
func (s *server) look(ctx context.Context, vol *volume.Volume, q cluster.Look, doubts []id.Segment) cluster.Lost {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	select {
	case s.looks.turn <- struct{}{}:
		defer func() { <-s.looks.turn }()
	case <-ctx.Done():
		return cluster.Lost{Look: q, Problem: errs.ErrTimeout.Error()}
	}
	l, err := vol.Lost(ctx, q, doubts)
	if err != nil {
		s.log.Info("not all was looked at", "volume", vol.ID().String(), "err", err)
		l.Problem = err.Error()
	}
	return l
}
