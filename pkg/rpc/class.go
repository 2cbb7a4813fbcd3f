package rpc

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
)

// Class is what a connection is for. Classes have connections of their own so that the
// bytes of one never wait behind those of another. The values are those of the wire.
type Class uint8

// The classes. The first three are package storeproto's, then volproto's and archproto's.
const (
	ClassLog    Class = 1 // appends, confirms, leases, fences: small and urgent
	ClassBulk   Class = 2 // whole shards, batches for recovery, deletions
	ClassRead   Class = 3 // blocks of shards
	ClassVolume Class = 4 // a volume's I/O on its way to the owner
	// ClassArchive is what the archive reads of snapshots, at their disk's owner.
	ClassArchive Class = 5
)

// Classes are all of them.
var Classes = []Class{ClassLog, ClassBulk, ClassRead, ClassVolume, ClassArchive}

func (c Class) String() string {
	switch c {
	case ClassLog:
		return "log"
	case ClassBulk:
		return "bulk"
	case ClassRead:
		return "read"
	case ClassVolume:
		return "volume"
	case ClassArchive:
		return "archive"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Overtakes tells whether short messages of the class may be sent between the parts of
// a long one before them. The log keeps the order of calls without exception.
func (c Class) Overtakes() bool { return c == ClassBulk }

// Limits of the protocol. A connection may agree on lower ones, never on higher.
const (
	// FragmentMax bounds the payload of one frame; longer messages travel in several.
	FragmentMax = 256 << 10
	// HeadMax bounds the head of a message.
	HeadMax = 4 << 20
	// PayloadMax bounds the payload of a message.
	PayloadMax = 64 << 20
	// InFlightMax bounds the requests in flight on one connection.
	InFlightMax = 1 << 14
	// ErrorTextMax bounds the text of an error on the wire.
	ErrorTextMax = 1 << 10
)

// ConnBytesMax bounds what one connection keeps to read into and to write from while its peer reads on,
// by the default limits: a read buffer, and twice what waits for the socket and one frame. A head
// beyond that is kept until it is written.
const ConnBytesMax = readerBytes + 2*(pendingBytes+FragmentMax+frameSlack)

const (
	pendingBytes = 512 << 10
	frameSlack   = 256 << 10 // headers, and what append takes ahead
)

// Limits bound one connection. Those of requests are the server's to set; it tells the
// client, which waits with what is above, and enforces them itself by not reading on.
type Limits struct {
	InFlight     int // requests being carried out
	BytesMax     int // their payloads and the replies they announced, in bytes
	PayloadMax   int // bytes in one message
	QueueMax     int // calls that wait in the client; more are refused with ErrUnavailable
	PendingBytes int // encoded bytes that wait for the socket before calls wait unencoded
}

// DefaultLimits are what the class is served with.
func DefaultLimits(c Class) Limits {
	l := Limits{InFlight: 4096, BytesMax: 64 << 20, PayloadMax: 32 << 20, QueueMax: 1 << 16, PendingBytes: pendingBytes}
	if c == ClassBulk {
		l.InFlight = 256
	}
	return l
}

// Validate refuses what the protocol has no room for.
func (l *Limits) Validate() error {
	for _, v := range []struct {
		name     string
		got, max int
	}{{"InFlight", l.InFlight, InFlightMax}, {"BytesMax", l.BytesMax, 1 << 40}, {"PayloadMax", l.PayloadMax, PayloadMax},
		{"QueueMax", l.QueueMax, 1 << 24}, {"PendingBytes", l.PendingBytes, 1 << 30}} {
		if v.got < 1 || v.got > v.max {
			return fmt.Errorf("limit %s is %d, want 1 to %d: %w", v.name, v.got, v.max, errs.ErrInvalid)
		}
	}
	return nil
}

// Timing says when a silent peer is dead and how long things may take. Zero fields get the defaults.
type Timing struct {
	Beat      time.Duration // a side that sent nothing for so long sends a beat; 250 ms
	Dead      time.Duration // a peer that was not heard for so long is dead; 1 s
	Handshake time.Duration // dial, TLS and hello together; 3 s
	Call      time.Duration // a call that names no time of its own; 30 s
	// Backoff is the wait after the first failed dial; it doubles up to BackoffMax. 20 ms, 1 s.
	Backoff, BackoffMax time.Duration
}

// EnsureDefaults fills what is zero.
func (t *Timing) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Beat, 250*time.Millisecond)
	set(&t.Dead, time.Second)
	set(&t.Handshake, 3*time.Second)
	set(&t.Call, 30*time.Second)
	set(&t.Backoff, 20*time.Millisecond)
	set(&t.BackoffMax, time.Second)
}

// Validate refuses a Dead that healthy peers would miss.
func (t *Timing) Validate() error {
	if t.Beat <= 0 || t.Dead < 2*t.Beat || t.Handshake <= 0 || t.Call <= 0 || t.Backoff <= 0 || t.BackoffMax < t.Backoff {
		return fmt.Errorf("timing %+v: want all above zero, dead at least two beats: %w", *t, errs.ErrInvalid)
	}
	return nil
}
