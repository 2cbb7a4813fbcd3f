package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
)

// Stack closes what was opened, last first. A daemon pushes each part as it comes up;
// a start that fails half way then closes exactly what it had opened.
type Stack struct {
	log   *slog.Logger
	clock clock.Clock

	mu struct {
		sync.Mutex
		steps  []step
		closed bool
	}
}

type step struct {
	name  string
	close func(context.Context) error
}

// NewStack makes an empty Stack. log may be nil.
func NewStack(c clock.Clock, log *slog.Logger) *Stack {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Stack{log: log, clock: c}
}

// Push adds one step. What is pushed onto a closed Stack is closed at once.
func (s *Stack) Push(name string, close func(context.Context) error) {
	s.mu.Lock()
	if !s.mu.closed {
		s.mu.steps = append(s.mu.steps, step{name, close})
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if err := close(context.Background()); err != nil {
		s.log.Warn("late close failed", "part", name, "err", err)
	}
}

// PushCloser adds a step without context or error of its own.
func (s *Stack) PushCloser(name string, close func() error) {
	s.Push(name, func(context.Context) error { return close() })
}

// Close runs every step, last pushed first, each to its end, and joins their errors.
// ctx is the deadline that each step is told; a step that ignores it is waited for all
// the same, because what lies under it must not close first. A second Close does nothing.
func (s *Stack) Close(ctx context.Context) error {
	s.mu.Lock()
	steps := s.mu.steps
	s.mu.steps, s.mu.closed = nil, true
	s.mu.Unlock()

	var all []error
	for i := len(steps) - 1; i >= 0; i-- {
		start := s.clock.Now()
		err := steps[i].close(ctx)
		took := s.clock.Now() - start
		if err != nil {
			all = append(all, fmt.Errorf("close %s: %w", steps[i].name, err))
		}
		if took > time.Second {
			s.log.Info("part closed slowly", "part", steps[i].name, "took", took)
		}
	}
	return errors.Join(all...)
}
