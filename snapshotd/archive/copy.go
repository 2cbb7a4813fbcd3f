package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// Copying is an archived snapshot to be copied into another archive.
type Copying struct {
	From, To objectstore.Store
	Secret   *archive.Secret // of what is copied; nil: it is not encrypted
	Manifest string          // key
	AtOnce   int             // objects
	Clock    clock.Clock
	Tell     func(Copied) // may be nil
	Lock     Locking      // of objects and manifest there
}

// Copied is how far that is. Bytes and objects are those of the manifest, Found those that were there already.
type Copied struct {
	Objects, ObjectsAll, Found int
	Bytes, BytesAll            uint64
	Locked                     time.Time // until then all of it is; zero: it is not locked
}

// copying is one being done.
type copying struct {
	Copying
	body     []byte // of the manifest
	manifest *archive.Manifest
	mark     *mark

	mu     sync.Mutex
	done   Copied
	locked map[string]time.Time // objects that were put, by key: until when
}

// Copy brings an archived snapshot into another archive, under the same keys, byte for byte: objects first, each read whole and
// checked against its SHA-256, the manifest last, by a conditional put. What is there already is not put again, be it of an earlier try or of
// another snapshot. When it returns well the manifest is there, durable, and everything it names. Many at once do no harm.
func Copy(ctx context.Context, c Copying) (Copied, error) {
	x := &copying{Copying: c, locked: make(map[string]time.Time)}
	if c.From.String() == c.To.String() {
		return x.done, fmt.Errorf("%s is where it is already: %w", c.To, errs.ErrInvalid)
	}
	var err error
	if c.Lock.For > 0 {
		if err = c.To.CanLock(ctx); err != nil {
			return x.done, err
		}
	}
	if x.body, err = fetch(ctx, c.From, c.Manifest); err != nil {
		return x.done, fmt.Errorf("read manifest: %w", err)
	}
	if x.manifest, err = archive.DecodeManifest(c.Manifest, x.body, c.Secret); err != nil {
		return x.done, err
	}
	x.done.ObjectsAll = len(x.manifest.Objects)
	for _, o := range x.manifest.Objects {
		x.done.BytesAll += o.Size
	}
	x.mark = &mark{store: c.To, clock: c.Clock, key: copyingPrefix + strings.TrimPrefix(c.Manifest, archive.ManifestsPrefix), body: x.body, fresh: copyingFresh}
	if err = x.mark.renew(ctx); err == nil {
		err = x.mark.awaitGc(ctx)
	}
	if err == nil {
		err = x.objects(ctx)
	}
	if err == nil {
		err = x.finish(ctx)
	}
	return x.done, err
}

// fetch reads an object, which is not larger than an object may be.
func fetch(ctx context.Context, s objectstore.Store, key string) ([]byte, error) {
	is, err := s.Head(ctx, key)
	if err == nil && is.Size > objectstore.ObjectMax {
		err = fmt.Errorf("%s has %d bytes: %w", key, is.Size, errs.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, is.Size)
	return b, s.ReadAt(ctx, key, b, 0)
}

// objects brings all of them there, some at once.
func (x *copying) objects(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan archive.Object)
	var wg sync.WaitGroup
	for range max(1, x.AtOnce) {
		wg.Go(func() {
			var room []byte
			for o := range next {
				if uint64(cap(room)) < o.Size {
					room = make([]byte, o.Size)
				}
				found, err := x.object(ctx, o, room[:o.Size])
				if err != nil {
					cancel(err)
					return
				}
				x.told(o, found)
			}
		})
	}
	var err error
	for _, o := range x.manifest.Objects {
		if err = x.mark.renew(ctx); err != nil {
			break
		}
		select {
		case next <- o:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return errors.Join(err, context.Cause(ctx))
}

func (x *copying) told(o archive.Object, found bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done.Objects++
	if x.done.Bytes += o.Size; found {
		x.done.Found++
	}
	if x.Tell != nil {
		x.Tell(x.done)
	}
}

// object brings one there, unless it is.
func (x *copying) object(ctx context.Context, o archive.Object, body []byte) (found bool, err error) {
	if o.Size > archive.ObjectMax {
		return false, fmt.Errorf("object %s of %d bytes: %w", o.Key, o.Size, errs.ErrCorrupt)
	}
	if found, err = x.there(ctx, o); found || err != nil {
		return found, err
	}
	if err := x.From.ReadAt(ctx, o.Key, body, 0); err != nil {
		return false, fmt.Errorf("copy object: %w", err)
	}
	if sum := sha256.Sum256(body); sum != o.SHA {
		return false, fmt.Errorf("object %s is damaged in %s (SHA-256 %x, want %x), so nothing is copied that needs it: %w", o.Key, x.From, sum[:6], o.SHA[:6], errs.ErrCorrupt)
	}
	lock, err := x.Lock.put(ctx, x.To, o.Key, body, x.Lock.object)
	switch {
	case err == nil:
		x.mu.Lock()
		x.locked[o.Key] = lock.Until
		x.mu.Unlock()
	case errors.Is(err, errs.ErrExists): // somebody else was first
		if found, err = x.there(ctx, o); err == nil && !found {
			err = fmt.Errorf("object %s is there and is not: %w", o.Key, errs.ErrUnavailable)
		}
	}
	return found, err
}

// there tells whether an object is where it is to go. Keys are of one upload each and written once, so one of the same
// size is the same; snapshot verify there reads it.
func (x *copying) there(ctx context.Context, o archive.Object) (bool, error) {
	is, err := x.To.Head(ctx, o.Key)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case uint64(is.Size) != o.Size:
		return false, fmt.Errorf("object %s has %d bytes in %s and %d in %s: one of them is damaged: %w", o.Key, is.Size, x.To, o.Size, x.From, errs.ErrConflict)
	}
	return true, nil
}

// finish puts the manifest, when everything is there still.
func (x *copying) finish(ctx context.Context) error {
	for _, o := range x.manifest.Objects {
		if found, err := x.there(ctx, o); err != nil || !found {
			return errors.Join(err, fmt.Errorf("object %s went while it was copied: ask again: %w", o.Key, errs.ErrConflict))
		}
	}
	if err := x.mark.young(copyingLife / 2); err != nil {
		return err
	}
	lock, err := x.Lock.lockObjects(ctx, x.To, x.manifest, x.locked)
	if err != nil {
		return err
	}
	_, err = x.Lock.put(ctx, x.To, x.Manifest, x.body, func() objectstore.Lock { return lock })
	if errors.Is(err, errs.ErrExists) {
		err = x.again(ctx, lock)
	}
	if err != nil {
		return fmt.Errorf("put manifest: %w", err)
	}
	x.done.Locked = lock.Until
	return x.To.Delete(ctx, x.mark.key)
}

// again: a manifest is there. The same one is locked for as long as it would be.
func (x *copying) again(ctx context.Context, lock objectstore.Lock) error {
	have, err := fetch(ctx, x.To, x.Manifest)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(have, x.body):
		return fmt.Errorf("%s has another archive of that snapshot, %s: delete that one first: %w", x.To, x.Manifest, errs.ErrExists)
	case x.Lock.For > 0:
		return x.To.Extend(ctx, x.Manifest, lock)
	}
	return nil
}
