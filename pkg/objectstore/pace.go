package objectstore

import (
	"context"
	"io"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
)

// Pace lets a number of bytes pass per second, for all who share it. Nil: no limit.
type Pace struct {
	clock clock.Clock
	rate  int64 // bytes per second

	mu   sync.Mutex
	free time.Duration // when what was let pass is paid for
}

// NewPace makes one; rate 0: nil.
func NewPace(c clock.Clock, rate int64) *Pace {
	if rate <= 0 {
		return nil
	}
	return &Pace{clock: c, rate: rate}
}

// least is how long n bytes take by themselves.
func (p *Pace) least(n int) time.Duration {
	if p == nil {
		return 0
	}
	return time.Duration(float64(n) / float64(p.rate) * float64(time.Second) * 4) // others share it
}

// wait takes n bytes and waits for its turn.
func (p *Pace) wait(ctx context.Context, n int) error {
	if p == nil || n == 0 {
		return nil
	}
	p.mu.Lock()
	now := p.clock.Now()
	p.free = max(p.free, now) + time.Duration(float64(n)/float64(p.rate)*float64(time.Second))
	due := p.free - now
	p.mu.Unlock()
	return p.clock.Sleep(ctx, due)
}

// paceStep is how much is read before its time is waited for.
const paceStep = 64 << 10

type pacedReader struct {
	ctx  context.Context
	pace *Pace
	r    io.Reader
}

func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p[:min(len(p), paceStep)])
	if e := r.pace.wait(r.ctx, n); e != nil {
		return n, e
	}
	return n, err
}

// paced holds back the bytes of a store that cannot do so by itself.
type paced struct {
	Store
	pace *Pace
}

func (s paced) Put(ctx context.Context, key string, body []byte) error {
	if err := s.pace.wait(ctx, len(body)); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body)
}

func (s paced) PutNew(ctx context.Context, key string, body []byte) error {
	if err := s.pace.wait(ctx, len(body)); err != nil {
		return err
	}
	return s.Store.PutNew(ctx, key, body)
}

func (s paced) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	if err := s.pace.wait(ctx, len(dst)); err != nil {
		return err
	}
	return s.Store.ReadAt(ctx, key, dst, offset)
}
