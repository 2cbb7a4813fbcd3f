package archive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// Locking is how long what is archived stays as it is, whoever wants it gone: object lock of S3. The zero Locking is none.
//
// A manifest is locked when it is put, for For. Every object that it names is locked for no less before that, those of
// earlier uploads too: so a locked manifest can be restored from for as long as it is locked. Objects are locked for a little
// longer, so that those which are put while a snapshot is uploaded need not be locked again at its end.
type Locking struct {
	For  time.Duration
	Mode objectstore.LockMode
	Wall func() time.Time
}

// lockSlackMax is how much longer objects are locked than the manifest that is put at once, at most.
const lockSlackMax = 24 * time.Hour

// manifest is the lock of a manifest put now.
func (l Locking) manifest() objectstore.Lock {
	return objectstore.Lock{Until: l.Wall().Add(l.For), Mode: l.Mode}
}

// object is the lock of an object put now.
func (l Locking) object() objectstore.Lock {
	return objectstore.Lock{Until: l.Wall().Add(l.For + min(l.For/8, lockSlackMax)), Mode: l.Mode}
}

// put is PutNew, under the lock that one gives if there is to be one.
func (l Locking) put(ctx context.Context, s objectstore.Store, key string, body []byte, lock func() objectstore.Lock) (objectstore.Lock, error) {
	if l.For == 0 {
		return objectstore.Lock{}, s.PutNew(ctx, key, body)
	}
	x := lock()
	return x, s.PutLocked(ctx, key, body, x)
}

// locksAtOnce are asked for at once: each is one or two small requests.
const locksAtOnce = 16

// lockObjects locks all that m names for as long as m will be, but those of which known says that they are: by key, until when. It
// gives the lock of the manifest, which is to be put at once.
func (l Locking) lockObjects(ctx context.Context, s objectstore.Store, m *archive.Manifest, known map[string]time.Time) (objectstore.Lock, error) {
	if l.For == 0 {
		return objectstore.Lock{}, nil
	}
	lock, longer := l.manifest(), l.object()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan string)
	var wg sync.WaitGroup
	for range locksAtOnce {
		wg.Go(func() {
			for key := range next {
				if err := s.Extend(ctx, key, longer); err != nil {
					cancel(fmt.Errorf("lock object: %w", err))
					return
				}
			}
		})
	}
	for _, o := range m.Objects {
		if !known[o.Key].Before(lock.Until) {
			continue
		}
		select {
		case next <- o.Key:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return lock, context.Cause(ctx)
}

// locked tells until when an object is locked; zero: it is not, or not any more.
func (k *Keeper) locked(ctx context.Context, key string) (time.Time, error) {
	is, err := k.Store.Head(ctx, key)
	if err != nil || !is.Lock.Until.After(k.Wall()) {
		return time.Time{}, err
	}
	return is.Lock.Until, nil
}

// unlocked refuses what is locked.
func (k *Keeper) unlocked(key string, is objectstore.Info) error {
	if !is.Lock.Until.After(k.Wall()) {
		return nil
	}
	return fmt.Errorf("%s is locked until %s (%s), so nothing was deleted: %w: %w", key, is.Lock.Until.Format(time.RFC3339), is.Lock.Mode, objectstore.ErrLocked, errs.ErrConflict)
}

// keepsLocked notes in the answer of a gc what stays because it is locked.
func keepsLocked(p *api.ArchiveTaskReply, i objectstore.Info, until time.Time) {
	p.LockedObjects++
	p.LockedBytes += uint64(i.Size)
	p.LockedUntilUnixMs = max(p.LockedUntilUnixMs, until.UnixMilli())
}

// verifyLocks tells until when the manifest is locked, and how many of the objects it names are not for as long.
func (k *Keeper) verifyLocks(ctx context.Context, key string, m *archive.Manifest, p *api.ArchiveTaskReply) error {
	until, err := k.locked(ctx, key)
	if err != nil || until.IsZero() {
		return err
	}
	p.LockedUntilUnixMs = until.UnixMilli()
	for _, o := range m.Objects {
		switch at, err := k.locked(ctx, o.Key); {
		case err != nil && !errors.Is(err, errs.ErrNotFound): // what is missing is told by reading it
			return err
		case at.Before(until):
			p.UnlockedObjects++
		}
	}
	return nil
}
