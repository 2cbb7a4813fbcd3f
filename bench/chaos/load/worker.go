package load

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/bench/chaos/history"
	"ashlar.dev/pkg/nbd"
)

// Action is one request of a client.
type Action struct {
	Kind  history.Kind
	Zero  bool // a write of zeros, by the command for it
	Trim  bool // zeros by TRIM where that is of whole blocks: they read as zeros then; of others it leaves the bytes
	Flush bool // a flush instead
	FUA   bool
	Hole  bool // zeros may be a hole
	First history.Cell
	Count int
}

// Worker is one client.
type Worker struct {
	Number int
	Disk   *Disk
	// Attachment makes the server shut the client's older connections out before it lets a new
	// one in. Without one a lost write may come late.
	Attachment string
	// Next says what to do; lanes ask one after the other.
	Next func(*rand.Rand) Action
	Rand *rand.Rand
	// Lanes are the requests in flight.
	Lanes int
	// Home is the endpoint to begin with. Elsewhere is the chance to go to another one when the connection broke.
	Home      int
	Elsewhere float64
	// Patience is how long to wait for an answer before the connection is given up; DialTimeout how long for a handshake.
	Patience, DialTimeout time.Duration
	// Pace is the least time from request to request of one lane.
	Pace time.Duration

	mu sync.Mutex // guards Rand and Next
}

// blockBytes is what a disk trims as a whole.
const blockBytes = 4096

// redialPause keeps a client from spinning while nobody listens.
const redialPause = 10 * time.Millisecond

// Run works until ctx ends. It never fails: what went wrong is in the history.
func (w *Worker) Run(ctx context.Context) {
	at := w.Home
	for ctx.Err() == nil {
		dial, cancel := context.WithTimeout(ctx, w.DialTimeout)
		c, err := nbd.Dial(dial, WithAttachment(w.Disk.URIs[at], w.Attachment), nbd.ClientOptions{})
		cancel()
		if err != nil {
			at = (at + 1) % len(w.Disk.URIs)
			wait(ctx, redialPause)
			continue
		}
		if w.Attachment != "" {
			w.Disk.Log.Bound(w.Number)
		}
		w.use(ctx, c)
		if ctx.Err() != nil {
			return
		}
		w.Disk.broken()
		if w.draw() < w.Elsewhere {
			at = (at + 1) % len(w.Disk.URIs)
		}
	}
}

func (w *Worker) draw() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Rand.Float64()
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// use works on one connection until it breaks or ctx ends.
func (w *Worker) use(ctx context.Context, c *nbd.Client) {
	var lanes sync.WaitGroup
	busy := make([]atomic.Int64, w.Lanes) // since when, 0: idle
	for i := range w.Lanes {
		lanes.Go(func() {
			for ctx.Err() == nil && c.Err() == nil {
				busy[i].Store(w.Disk.Log.Now() + 1)
				ok := w.one(c)
				busy[i].Store(0)
				if !ok {
					return
				}
				if w.Pace > 0 {
					wait(ctx, w.Pace)
				}
			}
		})
	}
	over := make(chan struct{})
	var guard sync.WaitGroup
	guard.Go(func() { w.guard(ctx, c, busy, over) })
	lanes.Wait()
	close(over)
	guard.Wait()
	c.Hangup() // not Close: a leave-taking could hang where the server does
}

// guard hangs up when an answer does not come.
func (w *Worker) guard(ctx context.Context, c *nbd.Client, busy []atomic.Int64, over chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	patience := w.Patience
	done := ctx.Done()
	for {
		select {
		case <-over:
			return
		case <-done:
			done, patience = nil, min(patience, time.Second) // what is in flight may end well
		case <-tick.C:
		}
		now := w.Disk.Log.Now()
		for i := range busy {
			if since := busy[i].Load(); since > 0 && now-since > int64(patience) {
				c.Hangup()
			}
		}
	}
}

// one does one request and tells whether the connection still serves.
func (w *Worker) one(c *nbd.Client) bool {
	w.mu.Lock()
	a := w.Next(w.Rand)
	w.mu.Unlock()
	if a.Flush {
		call := w.Disk.Log.Now()
		w.outcome(c.Flush(), call)
		return c.Err() == nil
	}
	r := w.Disk.Regions[a.First>>32]
	s := history.Span{Client: w.Number, Kind: a.Kind, First: a.First, Count: a.Count}
	at, length := r.At(int(uint32(a.First))), a.Count*r.Size
	var err error
	switch {
	case a.Kind == history.Read:
		p := make([]byte, length)
		s.Call = w.Disk.Log.Now()
		if _, err = c.ReadAt(p, at); err == nil && !w.Disk.Log.Saw(s, p, r.Size) {
			w.lookAgain(c, s, p, at, r.Size)
		}
	case a.Zero:
		s.Call = w.Disk.Log.Now()
		if a.Trim && at%blockBytes == 0 && length%blockBytes == 0 {
			err = c.Trim(uint64(at), uint64(length), a.flags()&nbd.FlagFUA)
			w.Disk.trims.Add(1)
		} else {
			err = c.WriteZeroes(uint64(at), uint64(length), a.flags())
			w.Disk.zeroes.Add(1)
		}
		w.record(s, err)
	default:
		s.Value = w.Disk.Log.NewValue()
		p := make([]byte, length)
		history.Fill(p, s.Value, a.First, r.Size)
		s.Call = w.Disk.Log.Now()
		_, err = c.WriteFlags(p, at, a.flags())
		w.record(s, err)
	}
	w.outcome(err, s.Call)
	if err != nil && c.Err() == nil { // refused: give whatever refuses some time
		wait(context.Background(), redialPause)
	}
	return c.Err() == nil
}

// lookAgain tells whether strange bytes are there to stay.
func (w *Worker) lookAgain(c *nbd.Client, s history.Span, p []byte, at int64, size int) {
	again := make([]byte, len(p))
	s.Call = w.Disk.Log.Now()
	if _, err := c.ReadAt(again, at); err != nil {
		w.Disk.Log.Remark("client %d: no second look: %v", w.Number, err)
		return
	}
	same := 0
	for i := 0; i < len(p); i += size {
		if string(p[i:i+size]) == string(again[i:i+size]) {
			same++
		}
	}
	sound := w.Disk.Log.Saw(s, again, size)
	w.Disk.Log.Remark("client %d: at second look, at %s, %d of %d cells from %s are the same, all sound: %v", w.Number, time.Duration(s.Call), same, s.Count, s.First, sound)
}

func (a Action) flags() (f nbd.Flags) {
	if a.FUA {
		f |= nbd.FlagFUA
	}
	if a.Zero && !a.Hole {
		f |= nbd.FlagNoHole
	}
	return f
}

// record enters a write. An error leaves open whether it happened, whatever the error.
func (w *Worker) record(s history.Span, err error) {
	if err != nil {
		w.Disk.Log.Lost(s)
		return
	}
	w.Disk.Log.Done(s)
}

func (w *Worker) outcome(err error, call int64) {
	if err != nil {
		w.Disk.failed(err)
		return
	}
	w.Disk.completed(call)
}
