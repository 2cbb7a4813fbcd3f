package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/bench/chaos/history"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// Disk is a disk under load. Safe for concurrent use.
type Disk struct {
	Name    string
	Log     *history.Log
	Regions []history.Region
	URIs    []string // one for each endpoint, in a fixed order

	trims, zeroes atomic.Uint64 // asked for

	mu       sync.Mutex
	last     time.Time     // when an operation was completed
	gap      time.Duration // the longest time without a completion since TakeGap
	done     int
	breaks   int
	refusals map[string]int // answers that were errors
	watches  []watch
}

type watch struct {
	after int64
	found chan time.Time
}

// NewDisk makes a disk with an empty history.
func NewDisk(name string, uris []string, regions ...history.Region) *Disk {
	return &Disk{Name: name, Log: history.NewLog(), Regions: regions, URIs: uris, last: time.Now(), refusals: make(map[string]int)}
}

// Size is the bytes that the regions reach to.
func (d *Disk) Size() int64 {
	size := int64(0)
	for _, r := range d.Regions {
		size = max(size, r.At(r.Count))
	}
	return size
}

// completed hears of every operation that was answered well.
func (d *Disk) completed(call int64) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gap = max(d.gap, now.Sub(d.last))
	d.last = now
	d.done++
	kept := d.watches[:0]
	for _, w := range d.watches {
		if call < w.after {
			kept = append(kept, w)
			continue
		}
		w.found <- now
	}
	d.watches = kept
}

// failed hears of every operation that was not.
func (d *Disk) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var no nbd.Errno
	if errors.As(err, &no) {
		d.refusals[no.Error()]++
	}
}

func (d *Disk) broken() {
	d.mu.Lock()
	d.breaks++
	d.mu.Unlock()
}

// First tells when the first operation is completed that is called from now on.
func (d *Disk) First() <-chan time.Time {
	w := watch{d.Log.Now(), make(chan time.Time, 1)}
	d.mu.Lock()
	d.watches = append(d.watches, w)
	d.mu.Unlock()
	return w.found
}

// TakeGap is the longest time in which nothing was completed, the present one counted, since it was asked last.
func (d *Disk) TakeGap() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	gap := max(d.gap, now.Sub(d.last))
	d.gap, d.last = 0, now
	return gap
}

// Completed counts the operations that were answered well.
func (d *Disk) Completed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// Summary is what happened to the connections, in words.
func (d *Disk) Summary() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := fmt.Sprintf("%d requests answered, %d TRIM and %d WRITE_ZEROES asked for, %d connections broke", d.done, d.trims.Load(), d.zeroes.Load(), d.breaks)
	for _, text := range slices.Sorted(maps.Keys(d.refusals)) {
		s += fmt.Sprintf(", %d answered with %q", d.refusals[text], text)
	}
	return s
}

// Refusals counts requests that were answered with an error, by its text.
func (d *Disk) Refusals() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.refusals)
}

// WithAttachment names the client's attachment in an export's address.
func WithAttachment(uri, attachment string) string {
	if attachment == "" {
		return uri
	}
	path, query, has := strings.Cut(uri, "?")
	if has {
		query = "?" + query
	}
	return path + "%23" + attachment + query
}

// readAllPiece is how much ReadAll asks for at once.
const readAllPiece = 256 << 10

// ReadAll reads every cell through one endpoint into the history.
func (d *Disk) ReadAll(ctx context.Context, client, endpoint int) error {
	c, err := nbd.Dial(ctx, d.URIs[endpoint], nbd.ClientOptions{})
	if err != nil {
		return fmt.Errorf("read disk %s back: %w", d.Name, err)
	}
	stop := context.AfterFunc(ctx, c.Hangup)
	defer stop()
	p := make([]byte, readAllPiece)
	for n, r := range d.Regions {
		step := readAllPiece / r.Size
		for i := 0; i < r.Count; i += step {
			count := min(step, r.Count-i)
			s := history.Span{Client: client, Kind: history.Read, First: history.CellOf(n, i), Count: count, Call: d.Log.Now()}
			b := p[:count*r.Size]
			if _, err := c.ReadAt(b, r.At(i)); err != nil && !errors.Is(err, io.EOF) {
				c.Hangup()
				return fmt.Errorf("read disk %s back: %w", d.Name, err)
			}
			d.Log.Saw(s, b, r.Size)
		}
	}
	return c.Close()
}

// Retry tries f until it succeeds or ctx ends, as a patient client would.
func Retry(ctx context.Context, f func(context.Context) error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("gave up: %w: %w", errs.ErrTimeout, err)
		}
	}
}
