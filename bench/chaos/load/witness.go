package load

import (
	"context"
	"fmt"
	"sync"

	"ashlar.dev/bench/chaos/history"
	"ashlar.dev/pkg/nbd"
)

// Witness is a client that connected before a fault and asks in the midst of it: what a
// paused or cut-off daemon answers to requests sent after others have written
// must not be older than what they wrote.
type Witness struct {
	disk   *Disk
	client int
	conn   *nbd.Client
	asked  sync.WaitGroup
}

// NewWitness connects through one endpoint.
func NewWitness(ctx context.Context, d *Disk, client, endpoint int) (*Witness, error) {
	c, err := nbd.Dial(ctx, d.URIs[endpoint], nbd.ClientOptions{})
	if err != nil {
		return nil, fmt.Errorf("connect witness: %w", err)
	}
	return &Witness{disk: d, client: client, conn: c}, nil
}

// Ask sends a read for each of the region's first cells and does not wait for the answers.
func (w *Witness) Ask(region, cells int) {
	r := w.disk.Regions[region]
	for i := range min(cells, r.Count) {
		s := history.Span{Client: w.client, Kind: history.Read, First: history.CellOf(region, i), Count: 1, Call: w.disk.Log.Now()}
		w.asked.Add(1)
		w.conn.Submit(nbd.NewRequest(nbd.OpRead, 0, uint64(r.At(i)), uint64(r.Size), nil, nbd.CompleterFunc(func(q *nbd.Request, err error) {
			if err == nil {
				q.FillHoles()
				w.disk.Log.Saw(s, q.Data, r.Size)
			}
			q.Recycle()
			w.asked.Done()
		})))
	}
}

// Close waits for the answers until ctx ends, and leaves.
func (w *Witness) Close(ctx context.Context) {
	stop := context.AfterFunc(ctx, w.conn.Hangup)
	defer stop()
	w.asked.Wait()
	w.conn.Hangup()
}
