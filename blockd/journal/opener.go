package journal

import (
	"errors"
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// ErrStoresLost: an open ensemble has lost so many stores for good that
// acknowledged writes may be gone. An operator may accept the loss (OpenConfig.AcceptLoss).
var ErrStoresLost = errors.New("too many stores of the journal are lost")

// OpenConfig configures the opening of a volume's journal, and the Core it makes.
type OpenConfig struct {
	Volume id.Volume
	// Epoch is committed in metad for Holder, and never opened before: an opening that
	// failed is tried again under a new epoch only.
	Epoch  id.Epoch
	Holder id.Holder
	// List was read from metad after Epoch was committed.
	List List
	// Prior are the hosts that may have served the volume before.
	Prior []id.Host
	// MetaFrom is the meta position of metad's checkpoint: the meta run starts after it.
	MetaFrom id.LSN
	// Lost are stores that are gone for good, Down ones that metad cannot reach now.
	Lost, Down []id.Store
	// AcceptLoss lets the opening go on where ErrStoresLost or damage would end it.
	AcceptLoss bool
	Leases     *Leases
	Limits     Limits
	// Completed and Confirmed are called by stores with what they finished, on any
	// goroutine, perhaps inline; they must bring it to Done and Confirmed of the
	// Opener or, after Opened, of the Core.
	Completed func(*Send)
	Confirmed func(*ConfirmSend)
}

// Opener fences and recovers a volume's journal: the fences go out, the meta run
// comes back (Effects.Meta), the volume calls Covered, the journal run is read,
// both are written to a fresh ensemble, and when they are durable there metad's
// list is replaced (Effects.Opened). Until that the old list stays in force, and
// an Opener may be abandoned at any moment with Close.
//
// Memory: the runs, which are bounded by what an owner may keep unreleased, and
// one fetch of Limits.FetchBytes.
type Opener struct{}

// NewOpener begins an opening. The error is ErrInvalid or ErrConflict (the epoch was opened before).
func NewOpener(now time.Duration, cfg OpenConfig, fx *Effects) (*Opener, error) {
	panic("journal: coming")
}

// FenceDone takes the outcome of a fence.
func (o *Opener) FenceDone(now time.Duration, s FenceSend, r storeproto.FenceReply, err error, fx *Effects) {
	panic("journal: coming")
}

// FetchDone takes the outcome of a fetch and the reply's batches.
func (o *Opener) FetchDone(now time.Duration, s FetchSend, r storeproto.FetchReply, err error, fx *Effects) {
	panic("journal: coming")
}

// Covered says, after Effects.Meta, that the journal is needed after lsn only.
func (o *Opener) Covered(now time.Duration, lsn id.LSN, fx *Effects) { panic("journal: coming") }

// Done takes back a send that its store finished.
func (o *Opener) Done(now time.Duration, s *Send, fx *Effects) { panic("journal: coming") }

// Answer takes metad's answer to an ask.
func (o *Opener) Answer(now time.Duration, r AskResult, fx *Effects) { panic("journal: coming") }

// Tick drives time limits; call it some ten times a second.
func (o *Opener) Tick(now time.Duration, fx *Effects) { panic("journal: coming") }

// StoreDown, StoreUp and StoreLost are hints of metad's topology.
func (o *Opener) StoreDown(now time.Duration, s id.Store, fx *Effects) { panic("journal: coming") }

// StoreUp says that a store lives (again).
func (o *Opener) StoreUp(now time.Duration, s id.Store, fx *Effects) { panic("journal: coming") }

// StoreLost says that a store is gone for good.
func (o *Opener) StoreLost(now time.Duration, s id.Store, fx *Effects) { panic("journal: coming") }

// Close abandons the opening and drops its references. Sends in flight are still
// to be brought to Done.
func (o *Opener) Close() { panic("journal: coming") }
