package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Retry tries again what failed with ErrUnavailable or ErrTimeout: tries times in all, after pauses that
// double from a fifth of a second to ten seconds. What else fails fails at once. A PutNew that is tried
// again and finds an object there looks whether it is its own.
func Retry(s Store, c clock.Clock, tries int) Store { return &retrying{s, c, max(tries, 1)} }

const (
	pauseMin = 200 * time.Millisecond
	pauseMax = 10 * time.Second
)

type retrying struct {
	Store
	clock clock.Clock
	tries int
}

// again calls f until it ends well, for good, or too often.
func (r *retrying) again(ctx context.Context, f func(try int) error) error {
	pause := pauseMin
	for try := 0; ; try++ {
		err := f(try)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout):
			return err
		case try+1 >= r.tries:
			return fmt.Errorf("given up after %d tries: %w", r.tries, err)
		}
		if e := r.clock.Sleep(ctx, pause); e != nil {
			return err
		}
		pause = min(pause*2, pauseMax)
	}
}

func (r *retrying) Put(ctx context.Context, key string, body []byte) error {
	return r.again(ctx, func(int) error { return r.Store.Put(ctx, key, body) })
}

func (r *retrying) PutNew(ctx context.Context, key string, body []byte) error {
	return r.putNew(ctx, key, body, func() error { return r.Store.PutNew(ctx, key, body) })
}

func (r *retrying) PutLocked(ctx context.Context, key string, body []byte, l Lock) error {
	return r.putNew(ctx, key, body, func() error { return r.Store.PutLocked(ctx, key, body, l) })
}

func (r *retrying) Extend(ctx context.Context, key string, l Lock) error {
	return r.again(ctx, func(int) error { return r.Store.Extend(ctx, key, l) })
}

func (r *retrying) CanLock(ctx context.Context) error {
	return r.again(ctx, func(int) error { return r.Store.CanLock(ctx) })
}

// putNew puts again and again what one put puts where nothing is.
func (r *retrying) putNew(ctx context.Context, key string, body []byte, put func() error) error {
	return r.again(ctx, func(try int) error {
		err := put()
		if try == 0 || !errors.Is(err, errs.ErrExists) {
			return err
		}
		have := make([]byte, len(body))
		is, e := r.Store.Head(ctx, key)
		if e == nil && is.Size == int64(len(body)) {
			e = r.Store.ReadAt(ctx, key, have, 0)
		}
		switch {
		case e != nil:
			return e
		case !bytes.Equal(have, body):
			return err
		}
		return nil // the answer to an earlier try was lost
	})
}

func (r *retrying) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	return r.again(ctx, func(int) error { return r.Store.ReadAt(ctx, key, dst, offset) })
}

func (r *retrying) Head(ctx context.Context, key string) (i Info, err error) {
	err = r.again(ctx, func(int) error { i, err = r.Store.Head(ctx, key); return err })
	return i, err
}

func (r *retrying) List(ctx context.Context, prefix, after string, limit int) (out []Info, err error) {
	err = r.again(ctx, func(int) error { out, err = r.Store.List(ctx, prefix, after, limit); return err })
	return out, err
}

func (r *retrying) Delete(ctx context.Context, key string) error {
	return r.again(ctx, func(int) error { return r.Store.Delete(ctx, key) })
}
