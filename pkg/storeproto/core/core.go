package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Config is what a core is told at its start.
type Config struct {
	Store       id.Store
	Incarnation id.Incarnation
	// Life counts the starts of this store. The shell persists it, raised by
	// one, before the core is made: namings of two lives never share a number.
	Life uint32
	// Started is the time of the start: the lease rule for a store that does not
	// know what it granted before counts from here.
	Started time.Duration
	// LeaseTerm is the length of a grant. It must not shrink from one life to the
	// next by configuration without a pause of the longer term between them.
	LeaseTerm time.Duration
	// JournalBytesMax bounds the bytes of unreleased journal batches; an append
	// above it is answered ErrNoSpace. The shell's log must be able to hold them.
	JournalBytesMax int64
	// BatchBytesMax bounds one batch as written; an append above it is ErrInvalid.
	BatchBytesMax int
	// TombstonesMax bounds the tombstones of a volume; beyond it the oldest go. A
	// put that is late by as many deletions is not refused any more.
	TombstonesMax int
	// StreamsMax bounds the streams; the append that would create one more is ErrNoSpace.
	StreamsMax int
}

// Defaults of the limits, used where a Config leaves zero.
const (
	LeaseTermDefault  = 2 * time.Second
	StreamsMaxDefault = 16384
	TombstonesDefault = 1 << 17
	NamedMax          = 4096 // volumes named in one lease answer; more come with the next
)

// EnsureDefaults fills what is zero.
func (c *Config) EnsureDefaults() {
	if c.LeaseTerm == 0 {
		c.LeaseTerm = LeaseTermDefault
	}
	if c.JournalBytesMax == 0 {
		c.JournalBytesMax = 1 << 40
	}
	if c.BatchBytesMax == 0 {
		c.BatchBytesMax = storeproto.HeaderSize + storeproto.BatchMetaMax + storeproto.BatchBlocksMax*(storeproto.BlockSize+4)
	}
	if c.TombstonesMax == 0 {
		c.TombstonesMax = TombstonesDefault
	}
	if c.StreamsMax == 0 {
		c.StreamsMax = StreamsMaxDefault
	}
}

// Core is the state of one store. See the package comment for its use.
type Core struct {
	cfg Config

	volumes map[id.Volume]*volume
	streams map[storeproto.Stream]*Stream
	holders map[id.Host]*holder
	order   []*holder // those of holders, so that answers have one order

	naming uint64       // the last number given
	named  []namedEntry // by naming; entries of volumes named again later are stale
	fences []*Fencing   // admitted and not answered yet

	pgs map[id.PG]uint32

	sealed bool                   // see Seal
	told   map[id.PG]uint32       // see Seal
	floors map[id.Volume]id.Epoch // see Unseal

	journalBytes int64 // of unreleased journal batches, durable or admitted
	metaFull     bool
	shardsFull   bool

	queue   opList
	turns   turns
	out     *Group // taken and not yet durable
	replies []Reply
	freed   []Freed
	freeOps *Op
	group   Group // reused: at most one is out
	// timerChanged: NextTick may have moved.
	timerChanged bool
	dead         error
}

// volume is what the store knows of one volume.
type volume struct {
	id      id.Volume
	fence   id.Epoch // admitted; refuses lower epochs at once
	by      id.Holder
	naming  uint64
	turn    uint64 // see turns
	streams []*Stream
	// dropped streams must not come back: their old records may still lie in the
	// log. An entry goes once the fence is above the epoch that dropped it, since
	// nobody below may append any more.
	dropped  map[storeproto.Stream]id.Epoch
	released map[id.Host]id.Epoch
	// tombstones go when the fence is above the epoch that left them, likewise, or
	// when there are too many, the oldest first.
	tombstones map[id.Segment]tombstone
	tombOrder  []tombEntry
	tombNext   uint64
}

// New makes a core without streams and fences; the shell restores what it finds
// on disk, see Restore.
func New(cfg Config) *Core {
	cfg.EnsureDefaults()
	return &Core{
		cfg:     cfg,
		volumes: make(map[id.Volume]*volume),
		streams: make(map[storeproto.Stream]*Stream),
		holders: make(map[id.Host]*holder),
		naming:  uint64(cfg.Life) << 32,
		pgs:     make(map[id.PG]uint32),
	}
}

func (c *Core) volume(v id.Volume) *volume {
	vol := c.volumes[v]
	if vol == nil {
		vol = &volume{id: v, turn: c.turns.nobody.turn} // behind what of it waits already
		c.volumes[v] = vol
	}
	return vol
}

// Kill ends the core: what is queued, held or waiting is answered with an error
// of class errs.ErrUnavailable, and so is everything that comes later. A group
// that is out is answered so by Durable or Abandon, when the shell no longer
// reads the memory of its requests. Whether any of it was carried out is unknown.
func (c *Core) Kill(cause error) {
	if c.dead != nil {
		return
	}
	c.dead = fmt.Errorf("store %s is down: %w", c.cfg.Store, errs.ErrUnavailable)
	if cause != nil {
		c.dead = fmt.Errorf("store %s has died (%v): %w", c.cfg.Store, cause, errs.ErrUnavailable)
	}
	for op := c.queue.first; op != nil; op = op.next {
		c.fail(op)
	}
	c.queue = opList{}
	for _, f := range c.fences {
		if f.durable { // the others were in the queue
			f.Err = c.dead
			c.replies = append(c.replies, Reply{Fence: f})
		}
	}
	c.fences = nil
	for _, h := range c.order {
		if h.held != nil {
			h.held.Err = c.dead
			c.replies = append(c.replies, Reply{Lease: h.held})
			h.held = nil
		}
	}
}

// Dead is why the core was killed; nil while it lives.
func (c *Core) Dead() error { return c.dead }

func (c *Core) fail(op *Op) {
	op.Err = c.dead
	c.reply(op)
}

// Reply is one answer to deliver: exactly one field is set.
type Reply struct {
	Append  *storeproto.Append
	Lease   *storeproto.Lease
	Fence   *Fencing
	Control *Control
}

// Deliver calls the Done of the request. Call it without the shell's mutex.
func (r Reply) Deliver() {
	switch {
	case r.Append != nil:
		r.Append.Done(r.Append)
	case r.Lease != nil:
		r.Lease.Done(r.Lease)
	case r.Fence != nil:
		r.Fence.Done(r.Fence)
	case r.Control != nil:
		r.Control.Done(r.Control)
	}
}

// Replies moves the answers that have come up into dst, in the order in which
// they must be delivered.
func (c *Core) Replies(dst []Reply) []Reply {
	dst = append(dst, c.replies...)
	clear(c.replies)
	c.replies = c.replies[:0]
	return dst
}

// Freed is a batch that the store need not keep any more. Its release, or the
// drop of its stream, is durable, so its room may be written over at once.
type Freed struct {
	Stream storeproto.Stream
	Batch  Batch
}

// Freed moves what has become free into dst.
func (c *Core) Freed(dst []Freed) []Freed {
	dst = append(dst, c.freed...)
	c.freed = c.freed[:0]
	return dst
}

// SetFull tells the core where the disk stands: metaFull refuses meta appends
// (the reserve itself is used up), shardsFull refuses shards.
func (c *Core) SetFull(metaFull, shardsFull bool) { c.metaFull, c.shardsFull = metaFull, shardsFull }

// JournalBytes is the bytes of unreleased journal batches.
func (c *Core) JournalBytes() int64 { return c.journalBytes }
