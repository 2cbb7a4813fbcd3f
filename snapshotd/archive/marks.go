package archive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// A copy into an archive is of another cluster than the gc that runs there, so no metad tells one of the other. Two marks in
// the archive do. Whoever copies puts the manifest under copying/ before it looks which objects are there, and then looks for
// a gc under gc/, and waits for its end; gc puts its mark before it looks what is copied. So one of both sees the other:
// a gc that began earlier is waited for, one that begins later keeps what a copy relies on. Marks have an
// age, by the clock of the store: the dead leave theirs behind.

const (
	copyingPrefix = "copying/"
	gcPrefix      = "gc/"

	// copyingLife is how long what a copy needs is kept since it put its mark last, which it does every copyingFresh.
	copyingLife  = 24 * time.Hour
	copyingFresh = 10 * time.Minute
	// gcLife is how long a gc is waited for since it put its mark last, which it does every gcFresh; it deletes nothing
	// when that was longer ago than gcStop.
	gcLife  = 15 * time.Minute
	gcFresh = time.Minute
	gcStop  = 5 * time.Minute

	gcPoll = 2 * time.Second
)

// mark is one that is put again and again.
type mark struct {
	store objectstore.Store
	clock clock.Clock
	key   string
	body  []byte
	fresh time.Duration
	put   time.Duration // when last
}

// renew puts the mark if that is due.
func (m *mark) renew(ctx context.Context) error {
	now := m.clock.Now()
	if m.put != 0 && now-m.put < m.fresh {
		return nil
	}
	if err := m.store.Put(ctx, m.key, m.body); err != nil {
		return fmt.Errorf("put mark %s: %w", m.key, err)
	}
	m.put = now // before it was put: it is no older
	return nil
}

// young refuses to go on under a mark that was put too long ago.
func (m *mark) young(most time.Duration) error {
	if age := m.clock.Now() - m.put; age > most {
		return fmt.Errorf("mark %s was put %s ago, and counts for %s: %w", m.key, age.Round(time.Second), most, errs.ErrTimeout)
	}
	return nil
}

// newGcMark is that of a gc.
func newGcMark(s objectstore.Store, c clock.Clock) *mark {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return &mark{store: s, clock: c, key: gcPrefix + hex.EncodeToString(b[:]), body: []byte("a gc runs"), fresh: gcFresh}
}

// awaitGc waits until no gc runs that began before m was put.
func (m *mark) awaitGc(ctx context.Context) error {
	is, err := m.store.Head(ctx, m.key)
	if err != nil {
		return err
	}
	for began := m.clock.Now(); ; {
		runs, now := false, is.Modified.Add(m.clock.Now()-began) // by the store's clock
		if err := each(ctx, m.store, gcPrefix, func(i objectstore.Info) error {
			runs = runs || now.Sub(i.Modified) < gcLife
			return nil
		}); err != nil || !runs {
			return err
		}
		if err := m.clock.Sleep(ctx, gcPoll); err != nil {
			return fmt.Errorf("wait for a gc of %s: %w", m.store, err)
		}
		if err := m.renew(ctx); err != nil {
			return err
		}
	}
}
