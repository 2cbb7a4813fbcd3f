package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// ledger is what was promised.
type ledger struct {
	w      *world
	serial uint64
	made   map[name]uint32                              // sum of every batch ever sent
	truth  [storeproto.Kinds]map[id.LSN]record          // acknowledged or recovered
	ends   [storeproto.Kinds]map[id.Epoch]id.LSN        // where the run of an opened epoch ended
	covers map[id.Epoch]id.LSN                          // and began
	acks   map[id.Epoch]int                             // journal acknowledgements of new records
	bySum  [storeproto.Kinds]map[id.LSN]map[record]bool // what was sent, by LSN
}

type name struct {
	kind  storeproto.Kind
	epoch id.Epoch
	first id.LSN
	count uint32
}

// record is a record's content: the batch it is in and its place there.
type record struct {
	sum   uint32
	epoch id.Epoch
	first id.LSN
}

func newLedger(w *world) ledger {
	l := ledger{w: w, made: make(map[name]uint32), covers: make(map[id.Epoch]id.LSN), acks: make(map[id.Epoch]int)}
	for k := range l.truth {
		l.truth[k] = make(map[id.LSN]record)
		l.ends[k] = make(map[id.Epoch]id.LSN)
		l.bySum[k] = make(map[id.LSN]map[record]bool)
	}
	return l
}

// batch makes a batch with a content of its own.
func (l *ledger) batch(n int, covered id.LSN) *storeproto.Batch {
	l.serial++
	b := &storeproto.Batch{Count: uint32(n)}
	b.Meta = binary.LittleEndian.AppendUint64(nil, l.serial)
	b.Meta = binary.LittleEndian.AppendUint64(b.Meta, uint64(covered))
	b.Meta = append(b.Meta, bytes.Repeat([]byte{byte(l.serial)}, l.w.rng.IntN(200))...)
	return b
}

// sent notes what leaves a process; a name must always have the same content.
func (l *ledger) sent(p *process, a *storeproto.Append) {
	b, k := a.Batch, a.Stream.Kind
	n := name{k, b.Epoch, b.First, b.Count}
	if sum, ok := l.made[n]; ok && sum != b.Sum {
		l.w.fail("%s sends batch %+v with another content", p.holder, n)
	}
	l.made[n] = b.Sum
	r := record{b.Sum, b.Epoch, b.First}
	for x := b.First; x <= b.Last(); x++ {
		if l.bySum[k][x] == nil {
			l.bySum[k][x] = make(map[record]bool)
		}
		l.bySum[k][x][r] = true
	}
}

func (l *ledger) hold(who string, k storeproto.Kind, x id.LSN, r record) {
	if have, ok := l.truth[k][x]; ok && have != r {
		l.w.fail("%s: %s record %d is %+v, was %+v", who, k, x, r, have)
	}
	l.truth[k][x] = r
}

// acked: what a core acknowledges must be what every later opening found.
func (l *ledger) acked(p *process, k storeproto.Kind, to id.LSN) {
	s := &p.core.streams[k]
	for i := s.head; i < s.ackedAt; i++ {
		b := s.at(i).batch
		if b.Epoch != p.epoch || b.Last() > to {
			continue
		}
		for x := b.First; x <= b.Last(); x++ {
			r := record{b.Sum, b.Epoch, b.First}
			if l.truth[k][x] == r {
				continue
			}
			for e, end := range l.ends[k] {
				if e > p.epoch && end < x {
					l.w.fail("%s acknowledges %s record %d under %s, but %s was opened up to %d", p.holder, k, x, p.epoch, e, end)
				}
			}
			l.hold(fmt.Sprintf("%s acknowledges under %s", p.holder, p.epoch), k, x, r)
			if k == storeproto.Journal {
				l.acks[p.epoch]++
			}
		}
	}
}

func (l *ledger) acksAbove(e id.Epoch) (n int) {
	for x, c := range l.acks {
		if x > e {
			n += c
		}
	}
	return n
}

// opened: the runs hold everything acknowledged above what is covered, in order,
// without gaps, and nothing that was never sent or was discarded before.
func (l *ledger) opened(p *process, o *Opened) {
	from := [storeproto.Kinds]id.LSN{storeproto.Journal: p.covered, storeproto.Meta: p.core.checkpoint}
	for k, run := range [][]*storeproto.Batch{storeproto.Journal: o.Journal, storeproto.Meta: o.Meta} {
		k := storeproto.Kind(k)
		next, epoch := from[k]+1, id.Epoch(0)
		for i, b := range run {
			if b.First != next && (i > 0 || b.First > next || b.Last() < next) || b.Epoch < epoch {
				l.w.fail("the %s run of %s has [%d, %d] of %s where %d of %s or later is due", k, p.epoch, b.First, b.Last(), b.Epoch, next, epoch)
			}
			next, epoch = b.Last()+1, b.Epoch
			r := record{b.Sum, b.Epoch, b.First}
			for x := b.First; x <= b.Last(); x++ {
				if !l.bySum[k][x][r] {
					l.w.fail("the %s run of %s invents record %d %+v", k, p.epoch, x, r)
				}
				for e, end := range l.ends[k] {
					if e > b.Epoch && end < x && x > l.from(k, e) {
						l.w.fail("the %s run of %s has record %d of %s, which the opening of %s discarded", k, p.epoch, x, b.Epoch, e)
					}
				}
				l.hold(fmt.Sprintf("the run of %s", p.epoch), k, x, r)
			}
		}
		for x, r := range l.truth[k] {
			// It may learn late that it opened, when a later epoch writes already.
			if x >= next && r.epoch < p.epoch {
				l.w.fail("the %s run of %s ends at %d: record %d %+v is lost", k, p.epoch, next-1, x, l.truth[k][x])
			}
		}
		if o.Next[k] != next {
			l.w.fail("next %s is %d after a run that ends at %d", k, o.Next[k], next-1)
		}
		l.ends[k][p.epoch] = next - 1
	}
	l.covers[p.epoch] = p.covered
}

func (l *ledger) from(k storeproto.Kind, e id.Epoch) id.LSN {
	if k == storeproto.Journal {
		return l.covers[e]
	}
	return 0
}
