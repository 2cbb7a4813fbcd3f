package journal

import (
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Effects is what steps ask of the shell, gathered over as many steps as the
// shell likes and reused after Reset. Nothing of it may be kept over a Reset but
// the pointers' targets.
type Effects struct {
	// Appends: call the store's Append with &s.Append, in this order per store. Its
	// Done is set and leads to Config.Completed.
	Appends []*Send
	// Confirms: call the store's Confirm with &c.Confirm; Done leads to Config.Confirmed.
	Confirms []*ConfirmSend
	// Asks: bring to metad; answer with Answer. One is under way at a time.
	Asks []Ask
	// Drops: call the store's Drop; answer with Dropped. Best effort.
	Drops []DropSend

	// Acked is the last acknowledged LSN of each stream, 0 where it did not move: all
	// records up to it are durable as the ensemble they count in demands.
	Acked [storeproto.Kinds]id.LSN
	// Readable: reads with tokens of AskRead up to it may be served. 0: no news.
	Readable uint64
	// Fenced: a newer epoch is in force. Nothing more is acknowledged or readable;
	// what is unacknowledged has an unknown outcome. Close the volume.
	Fenced bool
	// Nudge: the stream is quiet and its stores do not know of a release. Append a
	// no-op record when convenient; the release travels with it.
	Nudge [storeproto.Kinds]bool
	// Reports are for metad's view of the stores' health, and for people.
	Reports []Report

	// Fences: call the store's Fence, with a deadline of some lease terms; answer with FenceDone.
	Fences []FenceSend
	// Fetches: call the store's Fetch; answer with FetchDone.
	Fetches []FetchSend
	// Meta is the recovered meta run: decode it, then call Covered. The opener keeps
	// the references.
	Meta *MetaRun
	// Opened ends an opening with success; Failed with an error, after which nothing
	// more comes and no step is needed.
	Opened *Opened
	Failed error
}

// Reset empties the effects and keeps their memory.
func (fx *Effects) Reset() {
	clear(fx.Appends)
	clear(fx.Confirms)
	clear(fx.Asks)
	clear(fx.Drops)
	clear(fx.Reports)
	clear(fx.Fences)
	clear(fx.Fetches)
	*fx = Effects{
		Appends: fx.Appends[:0], Confirms: fx.Confirms[:0], Asks: fx.Asks[:0], Drops: fx.Drops[:0],
		Reports: fx.Reports[:0], Fences: fx.Fences[:0], Fetches: fx.Fetches[:0],
	}
}

// Empty tells whether there is nothing to do.
func (fx *Effects) Empty() bool {
	return len(fx.Appends)|len(fx.Confirms)|len(fx.Asks)|len(fx.Drops)|len(fx.Reports)|len(fx.Fences)|len(fx.Fetches) == 0 &&
		fx.Acked == [storeproto.Kinds]id.LSN{} && fx.Readable == 0 && !fx.Fenced && fx.Nudge == [storeproto.Kinds]bool{} &&
		fx.Meta == nil && fx.Opened == nil && fx.Failed == nil
}

// Send is one append to one store. It belongs to the core's pool: the shell
// passes &Append to the store and, when the store calls Done, the Send to the
// core's Done, exactly once, whatever became of the core.
//
// Only the incarnation that Member names may get it: another does not know the
// fences of this one. Formatting a store draws a new id as well, so its id finds
// it; a shell under which an id can return in another incarnation must complete
// the send with ErrNotFound instead. So too for ConfirmSend and LeaseSend.
type Send struct {
	Member
	Append storeproto.Append
	Sent   time.Duration // when the shell gave it to the store; the shell's own

	to    *member
	index uint64 // of the batch in its stream
	mark  uint64 // reads asked before it was sent
	told  uint64 // released bytes it tells of
	probe bool   // sent alone, from the known tail, after a failure
	next  *Send
}

// ConfirmSend is one confirm to one store, under the same terms as Send.
type ConfirmSend struct {
	Member
	Confirm storeproto.Confirm

	to   *member
	mark uint64
	next *ConfirmSend
}

// FenceSend is one fence to one store.
type FenceSend struct {
	Store id.Store
	Fence storeproto.Fence
}

// FetchSend is one fetch from one store.
type FetchSend struct {
	Store id.Store
	Fetch storeproto.Fetch

	seq uint64
}

// DropSend is one drop to one store.
type DropSend struct {
	Store id.Store
	Drop  storeproto.Drop
}

// AskKind says what is asked of metad.
type AskKind uint8

// The asks. All but Reread are compare-and-sets on {Epoch, Version}; each answer
// carries the volume's list as it is then.
const (
	// AskReread reads the volume's list.
	AskReread AskKind = iota + 1
	// AskAdd adds an open ensemble {Epoch, n} with an n never used at this epoch,
	// of three live stores not in Exclude, or two where there are no more, at the
	// end of the list.
	AskAdd
	// AskClose closes Ensemble: [From, To] counts, Holders have it whole.
	AskClose
	// AskRemove takes Ensembles out of the list.
	AskRemove
	// AskReplace leaves of the whole list only Ensembles[0].
	AskReplace
)

func (k AskKind) String() string {
	switch k {
	case AskReread:
		return "reread"
	case AskAdd:
		return "add"
	case AskClose:
		return "close"
	case AskRemove:
		return "remove"
	case AskReplace:
		return "replace"
	}
	return "unknown"
}

// Ask is one question to metad about the volume's list. Slices are not changed later.
type Ask struct {
	Kind      AskKind
	Volume    id.Volume
	Epoch     id.Epoch
	Version   uint64
	Exclude   []id.Store               // AskAdd
	Better    bool                     // AskAdd: only one on more hosts than the newest, or on as many with more stores
	Ensemble  id.Ensemble              // AskClose
	From, To  [storeproto.Kinds]id.LSN // AskClose
	Holders   []Member                 // AskClose: two
	Ensembles []id.Ensemble            // AskRemove; AskReplace: the one kept
	Released  id.LSN                   // AskRemove: of the journal
}

// AskResult answers an ask. With Err nil List is the list in force after it.
//
// Classes of Err: ErrStaleEpoch: the volume's epoch is not the asker's any more.
// ErrConflict: the version is another; nothing was done. ErrNoSpace: there are
// not two stores to be had, or none better; nothing was done. ErrInvalid, ErrNotFound: refused.
// Any other, as ErrTimeout or ErrUnavailable: the outcome is unknown. After every
// error but a stale epoch the list is read again before anything else is asked.
type AskResult struct {
	Ask  Ask
	List List
	Err  error
}

// Report says that a store does not do its part for this volume.
type Report struct {
	Store   id.Store
	Problem error
}

// MetaRun is the recovered meta stream after OpenConfig.MetaFrom, without gaps.
type MetaRun struct{ Batches []*storeproto.Batch }

// Opened is a volume's journal, recovered and ready.
type Opened struct {
	Core *Core
	List List
	Next [storeproto.Kinds]id.LSN
	// Journal and Meta are the recovered runs in order. Of each batch the receiver
	// has one reference and releases it when it is done with it; the core has its own
	// until Core.Release. The first batch may begin below what is covered.
	Journal, Meta []*storeproto.Batch
	// LossAccepted: the opening went on only because an operator accepted a loss;
	// acknowledged writes may be missing.
	LossAccepted bool
}
