package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what an operation does to a cell.
type Kind uint8

// A read saw Value, a write put it.
const (
	Read Kind = iota
	Write
)

// never is the return of an operation that may happen at any later time.
const never = math.MaxInt64

// Op is one operation on one cell.
type Op struct {
	Client int   `json:"client"`
	Kind   Kind  `json:"kind"`
	Cell   Cell  `json:"cell"`
	Value  Value `json:"value"`
	Call   int64 `json:"call"` // nanoseconds since the log began
	Return int64 `json:"return"`
	// Unknown: no answer came; it may have happened, by Return, or never.
	Unknown bool `json:"unknown,omitempty"`
}

// Log is the history of one disk.
type Log struct {
	start time.Time
	next  atomic.Uint64 // the last value given out

	mu       sync.Mutex
	ops      []Op
	pending  map[int][]int // by client, the unknown writes whose end is not bounded yet
	breaches []string
}

// NewLog starts a history.
func NewLog() *Log { return &Log{start: time.Now(), pending: make(map[int][]int)} }

// Now is the time of the log.
func (l *Log) Now() int64 { return int64(time.Since(l.start)) }

// NewValue is a value that no other write has.
func (l *Log) NewValue() Value { return Value(l.next.Add(1)) }

// Span is an operation on consecutive cells.
type Span struct {
	Client int
	Kind   Kind
	First  Cell
	Count  int
	Value  Value // of a write
	Call   int64
}

// Done records a write that was acknowledged at the time of the call.
func (l *Log) Done(s Span) {
	now := l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range s.Count {
		l.ops = append(l.ops, Op{Client: s.Client, Kind: s.Kind, Cell: s.First + Cell(i), Value: s.Value, Call: s.Call, Return: now})
	}
}

// Lost records a write of which nobody knows whether it happened. Reads without an answer tell nothing.
func (l *Log) Lost(s Span) {
	if s.Kind == Read {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range s.Count {
		l.pending[s.Client] = append(l.pending[s.Client], len(l.ops))
		l.ops = append(l.ops, Op{Client: s.Client, Kind: s.Kind, Cell: s.First + Cell(i), Value: s.Value, Call: s.Call, Return: never, Unknown: true})
	}
}

// Bound says that the client's older lost writes have happened by now, or never will: the
// server has let its newer session in.
func (l *Log) Bound(client int) {
	now := l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.pending[client] {
		l.ops[i].Return = now
	}
	delete(l.pending, client)
}

// Saw records what a read returned: p has the bytes of all cells of s, size bytes each.
// A cell that no write can have made is a breach at once; Saw tells whether there was none.
func (l *Log) Saw(s Span, p []byte, size int) (sound bool) {
	now := l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	sound = true
	for i := range s.Count {
		cell := s.First + Cell(i)
		v, err := Parse(p[i*size:(i+1)*size], cell)
		if err != nil {
			l.breaches = append(l.breaches, fmt.Sprintf("client %d, read called at %s and answered at %s, of %d cells from %s: %v",
				s.Client, time.Duration(s.Call), time.Duration(now), s.Count, s.First, err))
			sound = false
			continue
		}
		l.ops = append(l.ops, Op{Client: s.Client, Kind: Read, Cell: cell, Value: v, Call: s.Call, Return: now})
	}
	return sound
}

// Remark adds words to the breaches.
func (l *Log) Remark(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaches = append(l.breaches, fmt.Sprintf(format, args...))
}

// Breaches are the cells that were torn or strange.
func (l *Log) Breaches() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.breaches...)
}

// Ops is the history so far.
func (l *Log) Ops() []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Op(nil), l.ops...)
}

// Save writes ops, one a line.
func Save(w io.Writer, ops []Op) error {
	e := json.NewEncoder(w)
	for _, o := range ops {
		if err := e.Encode(o); err != nil {
			return fmt.Errorf("save history: %w", err)
		}
	}
	return nil
}

// Load reads what Save wrote.
func Load(r io.Reader) ([]Op, error) {
	var out []Op
	d := json.NewDecoder(r)
	for {
		var o Op
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("load history: %w", err)
		}
		out = append(out, o)
	}
}
