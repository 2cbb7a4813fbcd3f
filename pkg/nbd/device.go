package nbd

import (
	"sync"

	"ashlar.dev/pkg/buf"
)

// Device is the seam under the server: a disk of Size bytes. Wrappers stack on it.
//
// Submit starts r and must not wait for it: it is called on the connection's
// reader. The device owns r from Submit until it calls r.Complete, exactly once,
// perhaps before Submit returns, from any goroutine, in any order; after that
// neither r nor r.Data may be touched. A device that is short of something keeps r
// and completes it later; the server bounds how many it hands out.
//
// The server has checked every request before Submit: the range lies within Size,
// Length is not zero (but for OpFlush, where Offset and Length are zero), it is
// aligned to Info().BlockMin, a device that is ReadOnly gets no write. The size may
// grow between check and Submit, never shrink.
//
// Every device serves every Op. What each must do:
//
//	OpRead         fill r.Data (len Length), or name ranges that read as zeros by r.Hole
//	OpWrite        store r.Data (len Length); r.TakeBuffer to keep it without a copy
//	OpFlush        complete when every write completed before Submit is durable,
//	               on every connection if Info().MultiConn
//	OpTrim         may drop the range, or parts of it, or nothing
//	OpWriteZeroes  make the range read as zeros; FlagNoHole: keep it allocated;
//	               FlagFastZero: fail at once with ErrNotSupported if it is no faster than writing
//	OpCache        a hint to read ahead; may do nothing
//	OpBlockStatus  describe the range from Offset on, as r.Context wants it, by r.AddExtent;
//	               adding nothing says "data". The same request may come again for another context
//
// FlagFUA on OpWrite, OpTrim and OpWriteZeroes: durable before Complete.
//
// Device methods are safe for concurrent use.
type Device interface {
	Submit(r *Request)
	// Size is the bytes of the disk now. It may grow while connections are open.
	Size() uint64
	// Info does not change while a connection is open.
	Info() Info
}

// Corker is for devices that gain from requests that come together. The server calls Cork before it
// submits what has arrived and Uncork when it has submitted all of it, or has to wait. In between
// the device may hold requests back. Calls of several connections nest. Both are safe for
// concurrent use and do not wait.
type Corker interface {
	Cork()
	Uncork()
}

// Info describes a device. The zero value is a writable disk for one connection with the default block sizes.
type Info struct {
	ReadOnly bool
	// MultiConn promises that a flush on one connection covers what was completed on all, and that all see the same bytes.
	MultiConn  bool
	Rotational bool
	// BlockMin, BlockPreferred and PayloadMax are bytes; zero stands for 1, 4096 and 32 MiB.
	BlockMin       uint32
	BlockPreferred uint32
	PayloadMax     uint32
	// Name is the canonical name, if it differs from the one asked for; Description is for people.
	Name        string
	Description string
}

// Op is what a request asks for. The values are those of the wire.
type Op uint16

// The operations of a device.
const (
	OpRead        Op = 0
	OpWrite       Op = 1
	opDisconnect  Op = 2 // never reaches a device
	OpFlush       Op = 3
	OpTrim        Op = 4
	OpCache       Op = 5
	OpWriteZeroes Op = 6
	OpBlockStatus Op = 7
)

// Flags change an operation. The values are those of the wire.
type Flags uint16

// The flags of requests.
const (
	FlagFUA        Flags = 1 << 0
	FlagNoHole     Flags = 1 << 1 // OpWriteZeroes
	FlagDF         Flags = 1 << 2 // OpRead: the server sees to it, devices need not
	FlagReqOne     Flags = 1 << 3 // OpBlockStatus: one extent is enough
	FlagFastZero   Flags = 1 << 4 // OpWriteZeroes
	flagPayloadLen Flags = 1 << 5 // extended headers only, never reaches a device
)

// State is what a meta context says of an extent.
type State uint32

// A written extent has neither bit. Hole: takes no space. Zero: reads as zeros.
const (
	StateData State = 0
	StateHole State = 1 << 0
	StateZero State = 1 << 1
)

// StateChanged is the lowest bit in a context that tells what differs from something older; StateZero beside it: reads as zeros now.
const StateChanged State = 1 << 0

// Extent is a run of bytes in one state.
type Extent struct {
	Length uint64
	State  State
}

// ExtentsMax bounds the extents in the answer to one OpBlockStatus.
const ExtentsMax = 2048

// holesMax bounds the holes in the answer to one OpRead; further ones are filled with zeros.
const holesMax = 64

// holeMin is the shortest hole worth a chunk of its own on the wire, in bytes.
const holeMin = 4096

// Completer hears of a request's completion. It gets the request back and owns it.
type Completer interface {
	Completed(r *Request, err error)
}

// CompleterFunc makes a Completer of a function.
type CompleterFunc func(r *Request, err error)

// Completed calls f.
func (f CompleterFunc) Completed(r *Request, err error) { f(r, err) }

// Request is one operation on its way through a device. Op to Data are set by whoever
// submits it and not changed after; the methods are for the device that owns it.
type Request struct {
	Op     Op
	Flags  Flags
	Offset uint64 // bytes
	Length uint64 // bytes; OpRead and OpWrite: at most the payload limit; others: up to the size of the device
	// Data is the payload of OpWrite, which nobody may change, and the place to fill for OpRead,
	// whose first contents are undefined; nil for other operations. It starts at an
	// address aligned to 4 KiB when the server submits.
	Data []byte
	// Context is what an OpBlockStatus is about.
	Context ContextKey

	buffer  *buf.Buffer // holds Data; nil if the submitter brought its own slice
	hooks   []Completer // who hears of the completion, the last first
	extents []Extent    // answer of OpBlockStatus
	covered uint64      // bytes that extents describe
	holes   []hole      // answer of OpRead, ascending, apart from each other

	reply reply // the server's own
}

// hole is a range of a read, from its start.
type hole struct{ offset, length uint64 }

var requests = sync.Pool{New: func() any { return new(Request) }}

// NewRequest makes a request for a device, outside of a server: op on length bytes at
// offset; data is the payload or the place to fill, or nil for a pooled buffer
// of length bytes where op has a payload. done hears of the completion; it reads the
// answer and calls r.Recycle when it needs r no more.
func NewRequest(op Op, flags Flags, offset, length uint64, data []byte, done Completer) *Request {
	r := requests.Get().(*Request)
	r.Op, r.Flags, r.Offset, r.Length, r.Data, r.Context = op, flags, offset, length, data, ContextKey{}
	if data == nil && (op == OpRead || op == OpWrite) {
		r.buffer = buf.Get(int(length))
		r.Data = r.buffer.Bytes()
	}
	r.hooks = append(r.hooks[:0], done)
	return r
}

// Recycle gives a request of NewRequest back, with its pooled buffer. Its last owner may call it, once.
func (r *Request) Recycle() {
	r.buffer.Release()
	clear(r.hooks)
	r.Data, r.buffer, r.hooks = nil, nil, r.hooks[:0]
	r.extents, r.covered, r.holes, r.reply.ends = r.extents[:0], 0, r.holes[:0], r.reply.ends[:0]
	requests.Put(r)
}

// Hook makes c hear of the completion before those already there. c must go on with
// r.Complete, at once or later: this is how a wrapper sees the results of the device below it.
func (r *Request) Hook(c Completer) { r.hooks = append(r.hooks, c) }

// Complete ends the device's ownership: the operation is done, or failed with err.
// errs.go tells what each error becomes on the wire. It may write to the client's
// socket but never waits for it. Use a Batch to complete several at once.
func (r *Request) Complete(err error) {
	last := len(r.hooks) - 1
	if last < 0 {
		panic("nbd: a request was completed twice")
	}
	c := r.hooks[last]
	r.hooks[last] = nil
	r.hooks = r.hooks[:last]
	c.Completed(r, err)
}

// TakeBuffer gives the buffer that holds the payload of an OpWrite, with a holder added
// for the caller, who must Release it; it may be kept beyond Complete. Data starts at
// the buffer's first byte and fills it. The bytes must not be changed: others may hold them.
func (r *Request) TakeBuffer() *buf.Buffer {
	if r.buffer == nil { // the submitter brought a slice of its own
		r.buffer = buf.Get(len(r.Data))
		copy(r.buffer.Bytes(), r.Data)
	}
	return r.buffer.Retain()
}

// Hole says that length bytes at offset, counted in the device, read as zeros; what lies
// outside the range of the OpRead is cut off. The device need not fill them. The parts of one
// read are named from one goroutine at a time; holes in ascending order travel best.
func (r *Request) Hole(offset, length uint64) {
	start, end := max(offset, r.Offset), min(offset+length, r.Offset+r.Length)
	if start >= end || offset+length < offset {
		return
	}
	from, length := start-r.Offset, end-start
	if n := len(r.holes); n > 0 {
		last := &r.holes[n-1]
		switch end := last.offset + last.length; {
		case from == end:
			last.length += length
			return
		case from < end:
			clear(r.Data[from : from+length])
			return
		}
	}
	if len(r.holes) == holesMax {
		clear(r.Data[from : from+length])
		return
	}
	r.holes = append(r.holes, hole{from, length})
}

// fillHoles writes the zeros of all holes of at most lengthMax bytes into Data and forgets them.
func (r *Request) fillHoles(lengthMax uint64) {
	kept := r.holes[:0]
	for _, h := range r.holes {
		if h.length > lengthMax {
			kept = append(kept, h)
			continue
		}
		clear(r.Data[h.offset : h.offset+h.length])
	}
	r.holes = kept
}

// AddExtent appends to the answer of an OpBlockStatus: the next length bytes, from Offset
// on, are in state. The last may reach beyond the range. It tells whether
// more is wanted: false when the range is covered or the list full.
func (r *Request) AddExtent(length uint64, state State) bool {
	wanted := ExtentsMax
	if r.Flags&FlagReqOne != 0 {
		wanted = 1
	}
	n := len(r.extents)
	switch {
	case length == 0:
	case n > 0 && r.covered >= r.Length:
		return false
	case n > 0 && r.extents[n-1].State == state:
		r.extents[n-1].Length += length
		r.covered += length
	case n == wanted:
		return false
	default:
		r.extents = append(r.extents, Extent{length, state})
		r.covered += length
	}
	return r.covered < r.Length
}

// Extents is the answer so far of an OpBlockStatus; Holes calls f for each hole named in
// an OpRead and not yet filled, by its place in the device. Both are for wrappers and for done of NewRequest.
func (r *Request) Extents() []Extent { return r.extents }

// Holes calls f for each hole of an OpRead whose zeros are not in Data, by its offset in the device.
func (r *Request) Holes(f func(offset, length uint64)) {
	for _, h := range r.holes {
		f(r.Offset+h.offset, h.length)
	}
}

// FillHoles writes the zeros of all holes of an OpRead into Data, so that Data is the whole answer.
func (r *Request) FillHoles() { r.fillHoles(^uint64(0)) }
