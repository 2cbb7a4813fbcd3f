package chunk

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// Without this a shard written while a sync was under way would be answered as durable by
// that sync, which may not have seen it; or every shard would pay for one of its own.
func TestASyncCoversOnlyWhatCameBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroupSync()
		end := make(chan error)
		var calls, done atomic.Int32
		ask := func() {
			if err := g.do(func() error { calls.Add(1); return <-end }); err != nil {
				t.Error(err)
			}
			done.Add(1)
		}
		go ask()
		synctest.Wait()
		for range 3 {
			go ask()
			synctest.Wait()
		}
		end <- nil
		synctest.Wait()
		if calls.Load() != 2 || done.Load() != 1 {
			t.Errorf("after the first sync: %d begun, %d answered; want 2 and 1", calls.Load(), done.Load())
		}
		end <- nil
		synctest.Wait()
		if calls.Load() != 2 || done.Load() != 4 {
			t.Errorf("after the second: %d begun, %d answered; want 2 and 4", calls.Load(), done.Load())
		}
	})
}

// Without this a shard would be answered as durable after its file's sync had failed for another.
func TestAFailedSyncFailsForAll(t *testing.T) {
	g := newGroupSync()
	broken := errors.New("broken")
	if err := g.do(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the one who asked got %v", err)
	}
	if err := g.do(func() error { return nil }); !errors.Is(err, broken) {
		t.Errorf("the next got %v", err)
	}
}
