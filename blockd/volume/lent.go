package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// A clone of a disk that is still being brought in from an archive reads what its ancestor has in stores, and the
// rest from the archive, under the ids that the ancestor was allotted. Only the ancestor's owner knows which is which,
// and it changes: so stores are asked, and the archive where they have nothing. Either is right: what lies in the archive
// never changes, and is checked there, too. What the clone reads is in a snapshot of the ancestor, so that it is
// brought in, whatever becomes of the ancestor; and metad holds the manifest until all of it is.

// A segment that stores did not have is looked for in the archive first for as long as absentFor.
const (
	absentFor = 5 * time.Second
	absentMax = 4096 // segments of which that is remembered; beyond it all are forgotten
)

// lender is an ancestor of which something lay in an archive when the volume was acquired.
type lender struct {
	given record.Archive
	disk  *restore.Disk // nil: this host knows no archive
}

// lent is what a clone may find in archives. all does not change.
type lent struct {
	all []lender

	mu     sync.Mutex
	absent map[id.Segment]time.Duration // until then
}

func lentTo(cfg *Config) *lent {
	l := &lent{}
	for i := range cfg.Record.Lent {
		x := lender{given: allotted(&cfg.Record.Lent[i])}
		if cfg.Archive != nil {
			x.disk = cfg.Archive.Disk(x.given)
		}
		l.all = append(l.all, x)
	}
	return l
}

// of gives the ancestor that was allotted a segment; nil: none of those.
func (l *lent) of(s id.Segment) *lender {
	for i := range l.all {
		a := &l.all[i].given
		if q := s.Sequence(); q >= a.First && q < a.First+id.Sequence(a.Segments) && a.Segment(uint32(q-a.First)) == s {
			return &l.all[i]
		}
	}
	return nil
}

// wasAbsent tells whether stores did not have a segment a moment ago.
func (l *lent) wasAbsent(now time.Duration, s id.Segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now < l.absent[s]
}

func (l *lent) note(now time.Duration, s id.Segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.absent == nil || len(l.absent) >= absentMax {
		l.absent = make(map[id.Segment]time.Duration)
	}
	l.absent[s] = now + absentFor
}

// readLent reads what may lie in stores or in the archive of an ancestor. Of q all but Done counts; what the slots hold
// must be want and, slot by slot, what follows it.
func (v *Volume) readLent(ctx context.Context, from *lender, q *reader.Request, want segment.Entry) error {
	now, s := v.cfg.Clock.Now(), q.Location.Segment()
	first := v.lent.wasAbsent(now, s)
	var archived error
	if first {
		if archived = from.read(ctx, q, want); archived == nil {
			return nil
		}
	}
	stored := v.readStores(q)
	if stored == nil {
		return nil
	}
	if errors.Is(stored, errs.ErrNotFound) {
		v.lent.note(now, s)
	}
	if !first {
		if archived = from.read(ctx, q, want); archived == nil {
			return nil
		}
	}
	return worse(stored, archived)
}

func (x *lender) read(ctx context.Context, q *reader.Request, want segment.Entry) error {
	if x.disk == nil {
		return fmt.Errorf("ancestor in %s: %w", x.given.Manifest, errNoArchive)
	}
	return x.disk.Read(ctx, q.Location, want, q.Dst[:q.Count*block.Size])
}

// readStores is a read that is waited for.
func (v *Volume) readStores(q *reader.Request) error {
	done := make(chan error, 1)
	v.cfg.Reader.Read(&reader.Request{Location: q.Location, Count: q.Count, Where: q.Where, Dst: q.Dst, NoCache: q.NoCache, Class: q.Class,
		Done: func(_ *reader.Request, err error) { done <- err }})
	return <-done
}

// worse is the error of a read that neither stores nor the archive answered: that it may be otherwise later counts, then
// what the archive says, which has all of it until stores have.
func worse(stored, archived error) error {
	if errors.Is(stored, errs.ErrUnavailable) && !errors.Is(archived, errs.ErrUnavailable) {
		return fmt.Errorf("%w (and in the archive: %w)", stored, archived)
	}
	return archived
}

// readLentSlots fills one piece of a read.
func (v *Volume) readLentSlots(from *lender, s *slotRead) {
	v.filled(s.o, v.readLent(v.group.Context(), from, &s.req, s.want))
}

// findLent says why a segment that stores do not have cannot be archived yet; err if it is none of those.
func (v *Volume) findLent(s id.Segment, err error) error {
	if v.lent.of(s) == nil || !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	return fmt.Errorf("segment %s is still in the archive that an ancestor of the disk was restored from; wait until that one is here wholly: %w", s, errs.ErrUnavailable)
}
