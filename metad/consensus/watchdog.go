package consensus

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// watched times every write of the store under it. A leader whose disk hangs keeps
// sending heartbeats, because raft does that from goroutines that need no disk, and so
// the whole group would stand still for as long as the disk does (hashicorp/raft #503);
// and one whose disk refuses would be elected again and again (#614). Raft's main loop
// is the one that hangs, so leadership cannot be handed over: the process has to go.
type watched struct {
	*LogStore
	clock clock.Clock
	limit time.Duration
	fail  func(error)
	// Since when (Clock.Now) a write is under way, 0: none. One for each kind, because raft
	// runs them from different goroutines, and one that returns must not hide another.
	appending, cutting, voting atomic.Int64
}

func (w *watched) timed(since *atomic.Int64, act func() error) error {
	since.Store(max(int64(w.clock.Now()), 1))
	err := act()
	since.Store(0)
	if err != nil {
		w.fail(err)
	}
	return err
}

func (w *watched) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

func (w *watched) StoreLogs(logs []*raft.Log) error {
	return w.timed(&w.appending, func() error { return w.LogStore.StoreLogs(logs) })
}

func (w *watched) DeleteRange(low, high uint64) error {
	return w.timed(&w.cutting, func() error { return w.LogStore.DeleteRange(low, high) })
}

func (w *watched) Set(key, val []byte) error {
	return w.timed(&w.voting, func() error { return w.LogStore.Set(key, val) })
}

func (w *watched) SetUint64(key []byte, val uint64) error {
	return w.timed(&w.voting, func() error { return w.LogStore.SetUint64(key, val) })
}

// watch looks at the clock until ctx ends.
func (w *watched) watch(ctx context.Context) error {
	for w.clock.Sleep(ctx, w.limit/4) == nil {
		for _, since := range []*atomic.Int64{&w.appending, &w.cutting, &w.voting} {
			if at := time.Duration(since.Load()); at != 0 && w.clock.Now()-at > w.limit {
				w.fail(fmt.Errorf("a write to the raft log has not returned for %v: %w", w.clock.Now()-at, errs.ErrTimeout))
			}
		}
	}
	return nil
}
