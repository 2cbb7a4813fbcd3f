package objectstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"ashlar.dev/pkg/errs"
)

// LockMode says who can take a lock away before its time.
type LockMode string

// The modes of S3.
const (
	Governance LockMode = "governance" // whom the bucket's policy allows to
	Compliance LockMode = "compliance" // nobody, the bucket's owner neither
)

// Valid tells whether it is one.
func (m LockMode) Valid() bool { return m == Governance || m == Compliance }

// Lock keeps an object as it is until a time, whoever wants to delete or overwrite it. The zero Lock is none.
type Lock struct {
	Until time.Time
	Mode  LockMode
}

// ErrLocked is of what cannot be deleted or overwritten yet. It comes with the class ErrConflict.
var ErrLocked = errors.New("locked")

func lockedError(place string, l Lock) error {
	return fmt.Errorf("%s is locked until %s (%s): %w: %w", place, l.Until.UTC().Format(time.RFC3339), l.Mode, ErrLocked, errs.ErrConflict)
}

// noLock is what a store answers that cannot lock.
func noLock(s Store) error {
	return fmt.Errorf("%s cannot lock objects: only a bucket of S3 can that was made with object lock: %w", s, errs.ErrInvalid)
}

// CanLock is part of Store.
func (d *Directory) CanLock(context.Context) error { return noLock(d) }

// PutLocked is part of Store.
func (d *Directory) PutLocked(context.Context, string, []byte, Lock) error { return noLock(d) }

// Extend is part of Store.
func (d *Directory) Extend(context.Context, string, Lock) error { return noLock(d) }

// CanLock is part of Store.
func (s *S3) CanLock(ctx context.Context) error {
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	state, mode, _, _, err := s.core.GetObjectLockConfig(ctx, s.cfg.Bucket)
	var r minio.ErrorResponse
	switch {
	case errors.As(err, &r) && r.Code == "ObjectLockConfigurationNotFoundError", err == nil && state != "Enabled":
		return fmt.Errorf("the bucket of %s has no object lock: make one that has (it is said when a bucket is made), or take lock out of the configuration: %w", s, errs.ErrInvalid)
	case err != nil:
		return s.fail("ask for the object lock of", "", err)
	case mode != nil && mode.IsValid():
		return fmt.Errorf("the bucket of %s locks by default whatever is put there, also what is to come and go: take its default retention away, each object that is to be kept is locked by itself: %w", s, errs.ErrInvalid)
	}
	return nil
}

// PutLocked is part of Store.
func (s *S3) PutLocked(ctx context.Context, key string, body []byte, l Lock) error {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	l.Until = wholeSecond(l.Until)
	o.Mode, o.RetainUntilDate = l.Mode.s3(), l.Until
	is, err := s.put(ctx, key, body, o)
	if have := lockOf(is); err == nil && have.Until.Before(l.Until) {
		err = fmt.Errorf("put %s%s: the server took it and did not lock it until %s: %w", s, key, l.Until.Format(time.RFC3339), errs.ErrInvalid)
	}
	return alreadyThere(err)
}

// alreadyThere is the error of a conditional put: what is locked is there, whatever a server looks at first.
func alreadyThere(err error) error {
	if errors.Is(err, ErrLocked) {
		return fmt.Errorf("%w: %w", errs.ErrExists, err)
	}
	return err
}

// Extend is part of Store. An object that is locked keeps its mode: S3 lets nobody change that.
func (s *S3) Extend(ctx context.Context, key string, l Lock) error {
	is, err := s.Head(ctx, key)
	if l.Until = wholeSecond(l.Until); err != nil || !is.Lock.Until.Before(l.Until) {
		return err
	}
	if is.Lock.Mode.Valid() {
		l.Mode = is.Lock.Mode
	}
	ctx, cancel := s.bound(ctx, 0)
	defer cancel()
	mode := l.Mode.s3()
	err = s.core.PutObjectRetention(ctx, s.cfg.Bucket, s.prefix+key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &l.Until})
	if err = s.fail("lock", key, err); errors.Is(err, errs.ErrDenied) {
		if is, e := s.Head(ctx, key); e == nil && !is.Lock.Until.Before(l.Until) {
			return nil // somebody else has just locked it for longer
		}
	}
	return err
}

// s3 is the mode as S3 writes it.
func (m LockMode) s3() minio.RetentionMode {
	if m == Compliance {
		return minio.Compliance
	}
	return minio.Governance
}

// wholeSecond rounds up: locks are kept to the second.
func wholeSecond(t time.Time) time.Time {
	return t.UTC().Add(time.Second - 1).Truncate(time.Second)
}

// lockOf reads the lock of an object from an answer.
func lockOf(is minio.ObjectInfo) Lock {
	h := http.Header(is.Metadata)
	until, err := time.Parse(time.RFC3339, h.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil {
		return Lock{} // there is none
	}
	l := Lock{Until: until.UTC(), Mode: Governance}
	if h.Get("X-Amz-Object-Lock-Mode") == minio.Compliance.String() {
		l.Mode = Compliance
	}
	return l
}

// deleteVersions takes every version of an object away, the newest first: a bucket that locks keeps them all, and who only hides the
// newest gives no space back. A version that is locked ends it, and is what is seen of the object then.
func (s *S3) deleteVersions(ctx context.Context, key string) error {
	for v := range s.core.Client.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + key, Recursive: true, WithVersions: true}) {
		if v.Err != nil {
			return s.fail("list the versions of", key, v.Err)
		}
		if v.Key != s.prefix+key {
			continue // its key only begins alike
		}
		o := minio.RemoveObjectOptions{VersionID: v.VersionID}
		if v.VersionID == "null" {
			o.VersionID = "" // of a bucket that locks and keeps no versions, as some servers have them
		}
		if err := s.core.RemoveObject(ctx, s.cfg.Bucket, s.prefix+key, o); err != nil {
			return s.refused(ctx, "delete", key, err)
		}
	}
	return nil
}

// refused tells a lock from lacking permission: S3 answers both alike.
func (s *S3) refused(ctx context.Context, act, key string, err error) error {
	if err = s.fail(act, key, err); errors.Is(err, errs.ErrDenied) {
		if is, e := s.core.StatObject(ctx, s.cfg.Bucket, s.prefix+key, minio.StatObjectOptions{}); e == nil && !lockOf(is).Until.IsZero() {
			return lockedError(s.String()+key, lockOf(is))
		}
	}
	return err
}
