package objectstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ashlar.dev/pkg/errs"
)

// Limits of every body.
const (
	ObjectMax = 256 << 20 // bytes of an object
	KeyMax    = 512       // bytes of a key
	ListMax   = 1000      // objects of one answer of List
)

// Store is a place for objects. Errors are of these classes: ErrNotFound, ErrExists, ErrDenied (the
// credentials do not allow it), ErrNoSpace, ErrInvalid (the request or the settings are wrong, the
// bucket is gone), ErrCorrupt (an object is shorter than asked for), ErrUnavailable for all else: a retry may help.
type Store interface {
	// Put writes an object, in the place of one that is there. It is durable, and seen by everybody, on
	// return; before that, and after an error, it is there whole or not at all. Body is not kept.
	Put(ctx context.Context, key string, body []byte) error
	// PutNew is Put where nothing is there yet: of many at once one succeeds, the others get
	// ErrExists. After an error of class ErrUnavailable it may be there.
	PutNew(ctx context.Context, key string, body []byte) error
	// PutLocked is PutNew of what is locked from the first moment on.
	PutLocked(ctx context.Context, key string, body []byte, l Lock) error
	// Extend locks an object that is there; one that is locked for longer stays as it is. Nothing makes a lock shorter.
	Extend(ctx context.Context, key string, l Lock) error
	// CanLock refuses, as ErrInvalid, where nothing can be locked.
	CanLock(ctx context.Context) error
	// ReadAt fills dst from offset on. An object that ends before is ErrCorrupt.
	ReadAt(ctx context.Context, key string, dst []byte, offset int64) error
	// Head tells of an object without reading it.
	Head(ctx context.Context, key string) (Info, error)
	// List gives the first objects whose keys begin with prefix and are above after, in the
	// order of their keys; at most limit (ListMax if 0 or more). Fewer: these are all.
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)
	// Delete takes an object away; one that is not there is fine, one that is locked stays: ErrLocked, and ErrConflict.
	Delete(ctx context.Context, key string) error
	// String names the place, without secrets: for people, and to be compared.
	String() string
}

// Info is what is known of an object from outside.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time // when it was written, by the store's clock
	Lock     Lock      // as Head tells; List does not
}

// CheckKey refuses what is no key: one to 512 letters, digits, '.', '_', '-' in parts
// between slashes; no part is empty or begins with a dot. An error is of class ErrInvalid.
func CheckKey(key string) error {
	if key == "" || len(key) > KeyMax {
		return fmt.Errorf("key of %d bytes, want 1 to %d: %w", len(key), KeyMax, errs.ErrInvalid)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || strings.ContainsFunc(part, notOfKey) {
			return fmt.Errorf("key %.80q: want letters, digits, '.', '_', '-' in parts that begin with no dot: %w", key, errs.ErrInvalid)
		}
	}
	return nil
}

func notOfKey(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}

// checkPut refuses what no body takes.
func checkPut(key string, body []byte) error {
	if len(body) > ObjectMax {
		return fmt.Errorf("object %s of %d bytes, at most %d: %w", key, len(body), ObjectMax, errs.ErrInvalid)
	}
	return CheckKey(key)
}

// checkList refuses what cannot be listed, and gives the limit in force. A prefix is the
// beginning of a key, cut anywhere.
func checkList(prefix, after string, limit int) (int, error) {
	for _, s := range []string{prefix, after} {
		if s == "" {
			continue
		}
		if err := CheckKey(strings.TrimSuffix(s, "/")); err != nil {
			return 0, fmt.Errorf("list: %w", err)
		}
	}
	if limit <= 0 || limit > ListMax {
		limit = ListMax
	}
	return limit, nil
}

// shorter is the error of an object that ends before what was asked for.
func shorter(place string, want, got int64) error {
	return &errs.Corrupt{Place: place, Offset: -1, What: "bytes of the object", Want: uint64(want), Got: uint64(max(got, 0))}
}
