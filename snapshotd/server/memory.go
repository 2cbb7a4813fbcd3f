package server

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/telemetry"
)

// objectBytes is what an object takes while it is read, compressed, encrypted and put.
const objectBytes = 40 << 20

// copiesMax bounds the copies of archives that go on at once, and hold objects; more wait. Other tasks hold none.
const copiesMax = 2

// memory is what this process bounds: it is set aside when an upload begins, though an object may take less.
func (s *server) memory() *cluster.Process {
	each := uint64(s.cfg.ObjectsAtOnce) * objectBytes
	p := &cluster.Process{Daemon: "snapshotd", Node: s.cfg.ID, Resident: telemetry.ReadUsage().ResidentBytes, Uses: []cluster.Memory{
		{Name: "uploads", Limit: uint64(s.cfg.Uploads) * each, Used: uint64(s.work.uploading()) * each},
		{Name: "copies", Limit: copiesMax * each, Used: uint64(len(s.work.copies)) * each},
	}}
	p.HeapLimit, p.Heap = telemetry.ReadHeap()
	return p
}

// boundMemory tells Go's collector what all uses may take together, and shows them.
func (s *server) boundMemory() {
	telemetry.LimitHeap(cluster.MemoryLimit(s.memory().Uses))
	s.registry.MustRegister(telemetry.MemoryMetrics(func(tell func(use, within string, limit, used uint64)) {
		for _, m := range s.memory().Uses {
			tell(m.Name, m.Within, m.Limit, m.Used)
		}
	}))
}

// uploading is how many uploads are under way.
func (w *work) uploading() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.uploads)
}

// copyTurn waits until another copy may begin; what it gives ends the turn.
func (w *work) copyTurn(ctx context.Context) (done func(), err error) {
	select {
	case w.copies <- struct{}{}:
		return func() { <-w.copies }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %d other copies: %w", copiesMax, ctx.Err())
	}
}
