package crash

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/volumetest"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// engine is one process that has the disk open, and its clients.
type engine struct {
	*volumetest.Process
	w      *world
	door   *door
	volume *volume.Volume

	ctx    context.Context // ends with the process
	cancel context.CancelFunc
	pause  sync.RWMutex // held by every operation of a client, wholly by who takes a snapshot
	busy   sync.WaitGroup
}

// start begins a process, which has nothing open yet.
func (w *world) start() *engine {
	w.lives++
	w.done.opens++
	e := &engine{w: w, door: &door{open: map[id.Store]*chunk.Store{}}}
	for _, s := range w.slots {
		e.door.open[s.ref.Store] = s.store
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.Process = volumetest.Start(volumetest.Config{Metad: w.metad, Stores: e.door, Holder: id.Holder{Host: "b1", Number: w.lives}, PutTimeout: 2 * time.Second})
	w.power.mu.Lock() // a cut looks at it
	w.run = e
	w.power.mu.Unlock()
	return e
}

// open opens the disk, reads all of it and of its snapshots, and holds that against the ledger.
// An error of the opening may be that of a cut; one of the ledger never is.
func (e *engine) open(off <-chan struct{}) (wrong, err error) {
	w := e.w
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Minute)
	defer cancel()
	go func() {
		select {
		case <-off:
			cancel()
		case <-ctx.Done():
		}
	}()
	e.volume, err = e.Open(ctx, w.disk, w.limits, func(c *volume.Config) { c.Journal.ReplaceAfter = 500 * time.Millisecond })
	if err != nil {
		return nil, err
	}
	got := make([]byte, diskBytes)
	if err := read(ctx, e.volume.Submit, got, 0); err != nil {
		return nil, fmt.Errorf("read the disk: %w", err)
	}
	if err := w.ledger.settle(got); err != nil {
		return err, nil
	}
	return e.openSnapshots(ctx, got)
}

// openSnapshots asks again for those that were asked for, and reads all.
func (e *engine) openSnapshots(ctx context.Context, got []byte) (wrong, err error) {
	l := e.w.ledger
	for s := range l.leaving {
		if err := e.volume.DropSnapshot(ctx, s); err != nil {
			return nil, err
		}
		l.told(func() { delete(l.leaving, s) })
	}
	for s := range l.asked {
		if err := e.volume.TakeSnapshot(ctx, s); err != nil {
			return nil, err
		}
		l.told(func() {
			delete(l.asked, s)
			l.snaps[s] = bytes.Clone(got)
		})
	}
	for s, want := range l.snaps {
		if err := read(ctx, e.volume.View(s, diskBytes).Submit, got, 0); err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", s, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("snapshot %s is not what it was", s), nil
		}
	}
	return nil, nil
}

// halt kills the engine, if there is one, and all that it had in flight.
func (w *world) halt() {
	e := w.run
	if e == nil {
		return
	}
	w.ledger.freeze()
	e.cancel()
	if v := e.volume; v != nil {
		st := v.Stats()
		w.done.SegmentsPacked += st.SegmentsPacked
		w.done.SegmentsLong += st.SegmentsLong
		w.done.Checkpoints += st.Checkpoints
		w.done.SegmentsDeleted += st.SegmentsDeleted
		w.done.SegmentsRewritten += st.SegmentsRewritten
		w.done.SegmentsMerged += st.SegmentsMerged
		w.done.Leftovers += st.Leftovers
		v.Abandon()
	}
	e.door.close()
	e.busy.Wait()
	e.Kill()
	w.power.mu.Lock()
	w.run = nil
	w.power.mu.Unlock()
}

// request runs one request to its end or to that of ctx: then its buffer is nobody's.
func request(ctx context.Context, submit func(*nbd.Request), op nbd.Op, off, n uint64, data []byte) error {
	ch := make(chan error, 1)
	r := nbd.NewRequest(op, 0, off, n, data, nbd.CompleterFunc(func(r *nbd.Request, err error) {
		r.FillHoles()
		ch <- err
	}))
	submit(r)
	select {
	case err := <-ch:
		r.Recycle()
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func read(ctx context.Context, submit func(*nbd.Request), dst []byte, off uint64) error {
	for at := uint64(0); at < uint64(len(dst)); at += 1 << 20 {
		n := min(1<<20, uint64(len(dst))-at)
		part := make([]byte, n)
		if err := request(ctx, submit, nbd.OpRead, off+at, n, part); err != nil {
			return err
		}
		copy(dst[at:], part)
	}
	return nil
}
