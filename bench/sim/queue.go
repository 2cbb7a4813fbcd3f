package sim

import "time"

// event is something that happens at a time of its own.
type event struct {
	name, what string // together they are its line of the trace
	moot       *bool  // true: it does not happen
	do         func()
}

// queue keeps what is to happen, in the order of its time; at one time, in the order in
// which it was asked for.
type queue struct {
	heap   []slot // without pointers: it is moved about all the time
	events []event
	free   []int32
	seq    uint64
}

type slot struct {
	at    time.Duration
	seq   uint64
	event int32
}

func (s slot) before(o slot) bool { return s.at < o.at || s.at == o.at && s.seq < o.seq }

func (q *queue) empty() bool { return len(q.heap) == 0 }

// next is when the first event is due.
func (q *queue) next() time.Duration { return q.heap[0].at }

func (q *queue) add(at time.Duration, e event) {
	q.seq++
	s := slot{at: at, seq: q.seq}
	if n := len(q.free); n > 0 {
		s.event = q.free[n-1]
		q.free = q.free[:n-1]
		q.events[s.event] = e
	} else {
		s.event = int32(len(q.events))
		q.events = append(q.events, e)
	}
	q.heap = append(q.heap, s)
	i := len(q.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !s.before(q.heap[up]) {
			break
		}
		q.heap[i] = q.heap[up]
		i = up
	}
	q.heap[i] = s
}

// take removes the first event.
func (q *queue) take() (time.Duration, event) {
	first := q.heap[0]
	n := len(q.heap) - 1
	s := q.heap[n]
	q.heap = q.heap[:n]
	i := 0
	for n > 0 {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && q.heap[down+1].before(q.heap[down]) {
			down++
		}
		if !q.heap[down].before(s) {
			break
		}
		q.heap[i] = q.heap[down]
		i = down
	}
	if n > 0 {
		q.heap[i] = s
	}
	e := q.events[first.event]
	q.events[first.event] = event{}
	q.free = append(q.free, first.event)
	return first.at, e
}
