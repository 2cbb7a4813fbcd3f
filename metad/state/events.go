package state

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Events are what people want to know of afterwards. They decide nothing. A group keeps
// the last ones, and those that matter more apart from the rest, so that no flood of
// small ones washes them away.

// Limits of events.
const (
	EventsInfoMax   = 3072 // of severity info
	EventsWorseMax  = 1024 // of the others
	EventsAtOnceMax = 256
	EventTextMax    = 512
)

// Severity is how much an event matters.
type Severity uint8

// The severities.
const (
	Info    Severity = iota + 1
	Warning          // unexpected; the cluster copes
	Trouble          // somebody should look
)

// Event is one thing that happened.
type Event struct {
	Seq      uint64 // given by the machine, rising without gaps
	AtMS     int64  // by the leader's clock
	Severity Severity
	Kind     string // stable, for machines: "store_down"
	About    string // "store", "disk", "repair", "host", "member", "cluster" or "identity"
	Subject  string // which; may be empty
	Text     string // plain words, no secrets
	By       string // who caused it, as a certificate says; may be empty
	// Origin is where a host told of it; the same one is taken once.
	Origin EventOrigin
}

// EventOrigin numbers what one life of a host tells.
type EventOrigin struct {
	Holder id.Holder
	N      uint64
}

// AddEvents takes events, in order. What it cannot take it leaves out: nothing hangs on them.
type AddEvents struct{ Events []Event }

// Events are those kept with a number above after, oldest first.
func (m *Machine) Events(after uint64, limit int) []Event {
	var out []Event
	i, j := 0, 0
	a, b := m.events.info, m.events.worse
	for len(out) < limit && (i < len(a) || j < len(b)) {
		var e *Event
		if j == len(b) || i < len(a) && a[i].Seq < b[j].Seq {
			e = &a[i]
			i++
		} else {
			e = &b[j]
			j++
		}
		if e.Seq > after {
			out = append(out, *e)
		}
	}
	return out
}

// LastEvent is the number of the newest event ever taken; 0: there was none.
func (m *Machine) LastEvent() uint64 { return m.events.last }

// eventLog is what a machine keeps of events.
type eventLog struct {
	last        uint64
	info, worse []Event
}

func (m *Machine) addEvents(c *AddEvents) Result {
	if len(c.Events) > EventsAtOnceMax {
		return refuse(errs.ErrInvalid, "%d events at once, at most %d", len(c.Events), EventsAtOnceMax)
	}
	for _, e := range c.Events {
		if !e.sound() || m.told(e.Origin) {
			continue
		}
		m.events.last++
		e.Seq = m.events.last
		if e.Severity == Info {
			m.events.info = appendKept(m.events.info, e, EventsInfoMax)
		} else {
			m.events.worse = appendKept(m.events.worse, e, EventsWorseMax)
		}
	}
	return Result{}
}

// appendKept forgets the oldest beyond max. It never writes where an older slice looks.
func appendKept(list []Event, e Event, max int) []Event {
	if len(list) >= max {
		list = list[len(list)-max+1:]
	}
	return append(list, e)
}

// told tells whether a host's event is there already: its answer was lost.
func (m *Machine) told(o EventOrigin) bool {
	if o == (EventOrigin{}) {
		return false
	}
	return m.Heard(o.Holder) >= o.N
}

// Heard is the highest number of what a life of a host has told and is still kept.
func (m *Machine) Heard(h id.Holder) (n uint64) {
	for _, list := range [][]Event{m.events.info, m.events.worse} {
		for i := range list {
			if list[i].Origin.Holder == h {
				n = max(n, list[i].Origin.N)
			}
		}
	}
	return n
}

func (e *Event) sound() bool {
	return e.Severity >= Info && e.Severity <= Trouble && PlainName(e.Kind, NameMax) && PlainName(e.About, NameMax) && len(e.Subject) <= NameMax &&
		len(e.By) <= NameMax && len(e.Text) <= EventTextMax && len(e.Origin.Holder.Host) <= id.HostMax
}

// Fit cuts an event's words to what is kept, and to one line of text.
func (e Event) Fit() Event {
	e.Text, e.Subject, e.By = plainLine(e.Text, EventTextMax), plainLine(e.Subject, NameMax), plainLine(e.By, NameMax)
	return e
}

func plainLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

func appendEvent(b []byte, e *Event) []byte {
	b = append(binary.LittleEndian.AppendUint64(b, uint64(e.AtMS)), byte(e.Severity))
	for _, s := range []string{e.Kind, e.About, e.Subject, e.Text, e.By} {
		b = codec.AppendString(b, s)
	}
	return binary.AppendUvarint(appendHolder(b, e.Origin.Holder), e.Origin.N)
}

func readEvent(r *codec.Reader) (e Event) {
	e.AtMS, e.Severity = int64(r.U64()), Severity(r.U8())
	e.Kind, e.About, e.Subject, e.Text, e.By = r.String(NameMax), r.String(NameMax), r.String(NameMax), r.String(EventTextMax), r.String(NameMax)
	e.Origin.Holder = readHolder(r)
	e.Origin.N = r.Uvarint()
	return e
}

// eventSizeMin is the shortest encoding of an event.
const eventSizeMin = 24

func (*AddEvents) kind() kind { return kindAddEvents }

func (c *AddEvents) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(c.Events)))
	for i := range c.Events {
		b = appendEvent(b, &c.Events[i])
	}
	return b
}

func (c *AddEvents) read(r *codec.Reader) {
	for n := r.Count(EventsAtOnceMax, eventSizeMin); n > 0 && r.Err() == nil; n-- {
		c.Events = append(c.Events, readEvent(r))
	}
}

func (m *Machine) appendEvents(b []byte) []byte {
	all := m.Events(0, EventsInfoMax+EventsWorseMax)
	b = binary.AppendUvarint(binary.AppendUvarint(b, m.events.last), uint64(len(all)))
	for i := range all {
		b = appendEvent(binary.AppendUvarint(b, all[i].Seq), &all[i])
	}
	return b
}

func (m *Machine) readEvents(r *codec.Reader) {
	m.events.last = r.Uvarint()
	before := uint64(0)
	for n := r.Count(EventsInfoMax+EventsWorseMax, eventSizeMin+1); n > 0 && r.Err() == nil; n-- {
		seq := r.Uvarint()
		e := readEvent(r)
		e.Seq = seq
		if seq <= before || seq > m.events.last || !e.sound() {
			r.Fail("event number", before+1, seq)
			return
		}
		before = seq
		if e.Severity == Info {
			m.events.info = append(m.events.info, e)
		} else {
			m.events.worse = append(m.events.worse, e)
		}
	}
	if len(m.events.info) > EventsInfoMax || len(m.events.worse) > EventsWorseMax {
		r.Fail("events kept", EventsInfoMax, uint64(len(m.events.info)))
	}
}
