package journal

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
)

// Limits bound what a core keeps and how long it waits. The zero value of a field
// means its default.
type Limits struct {
	// UnackedBatches and UnackedBytes bound, per stream, what was appended and is
	// not acknowledged: Room is false at the limit. 64 and 8 MiB.
	UnackedBatches, UnackedBytes int
	// WindowBatches and WindowBytes bound what is in flight to one store of one
	// stream; the rest waits in the queue. 64 and 16 MiB.
	WindowBatches, WindowBytes int
	// LagBytes is how far a store may fall behind the acknowledged end before it is
	// replaced. 64 MiB.
	LagBytes int
	// ReplaceAfter is how long a store may owe an answer, or answer with errors,
	// before it is replaced; a restart in place is shorter. 1.5 s.
	ReplaceAfter time.Duration
	// RetryAfter is the first pause before a failed append, confirm or fence is tried
	// again; it doubles up to ten times that. 20 ms.
	RetryAfter time.Duration
	// AskAfter is the first pause before metad is asked again; it doubles up to ten
	// times that. 100 ms.
	AskAfter time.Duration
	// NudgeAfter is how long a stream may be quiet with a release the stores do not
	// know of. 2 s.
	NudgeAfter time.Duration
	// Ensembles bounds the list: at the limit no successor is asked for as long as two
	// stores of the newest ensemble do their part. 16.
	Ensembles int
	// FetchBytes is the payload asked for by one fetch of a recovery; an opener has
	// one fetch in flight. 8 MiB.
	FetchBytes int
	// RecoverWait is how long an opening waits for stores that it needs before it
	// fails. 60 s.
	RecoverWait time.Duration
}

// EnsureDefaults fills fields that are zero.
func (l *Limits) EnsureDefaults() {
	def(&l.UnackedBatches, 64)
	def(&l.UnackedBytes, 8<<20)
	def(&l.WindowBatches, 64)
	def(&l.WindowBytes, 16<<20)
	def(&l.LagBytes, 64<<20)
	def(&l.ReplaceAfter, 1500*time.Millisecond)
	def(&l.RetryAfter, 20*time.Millisecond)
	def(&l.AskAfter, 100*time.Millisecond)
	def(&l.NudgeAfter, 2*time.Second)
	def(&l.Ensembles, 16)
	def(&l.FetchBytes, 8<<20)
	def(&l.RecoverWait, time.Minute)
}

// Validate refuses values below zero and ones that contradict each other.
func (l *Limits) Validate() error {
	for _, v := range []int64{
		int64(l.UnackedBatches), int64(l.UnackedBytes), int64(l.WindowBatches), int64(l.WindowBytes), int64(l.LagBytes),
		int64(l.ReplaceAfter), int64(l.RetryAfter), int64(l.AskAfter), int64(l.NudgeAfter),
		int64(l.Ensembles), int64(l.FetchBytes), int64(l.RecoverWait),
	} {
		if v <= 0 {
			return fmt.Errorf("journal limits: %d is not above zero: %w", v, errs.ErrInvalid)
		}
	}
	if l.RetryAfter >= l.ReplaceAfter {
		return fmt.Errorf("journal limits: a retry after %v comes later than replacement after %v: %w", l.RetryAfter, l.ReplaceAfter, errs.ErrInvalid)
	}
	return nil
}

func def[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}
