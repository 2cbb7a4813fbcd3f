// Package errs holds the error classes that more than one room acts on.
//
// A room wraps a class with its act and the name of the thing
// (fmt.Errorf("seal segment %s: %w", id, errs.ErrStaleEpoch)); callers compare
// with errors.Is and errors.As and never look into text. On the wire an error
// travels as a Code (code.go) and comes back as the same class.
package errs

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotFound: the named thing does not exist (any more).
	ErrNotFound = errors.New("not found")
	// ErrExists: the name or id is taken by something else.
	ErrExists = errors.New("already exists")
	// ErrStaleEpoch: the caller was fenced; a newer epoch is in force. Never retry under the old epoch.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrConflict: a compare-and-set found another version, or the request does not follow the state; re-read, then decide.
	ErrConflict = errors.New("conflict")
	// ErrCorrupt: bytes from disk or wire failed their check. Corrupt carries the place.
	ErrCorrupt = errors.New("corrupt")
	// ErrNoSpace: a limit on space is reached; deleting or trimming helps.
	ErrNoSpace = errors.New("no space")
	// ErrUnavailable: the peer or the majority cannot be reached now; a retry may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrInvalid: the request itself is wrong and will never succeed.
	ErrInvalid = errors.New("invalid")
	// ErrDenied: the peer's certificate does not allow this.
	ErrDenied = errors.New("permission denied")
	// ErrClosed: the thing is shut down or shutting down.
	ErrClosed = errors.New("closed")
	// ErrTimeout: the deadline passed; the outcome is unknown.
	ErrTimeout = errors.New("timeout")
)

// Corrupt says where bytes failed their check, and how.
// It matches ErrCorrupt under errors.Is.
type Corrupt struct {
	Place  string // file, stream or peer
	Offset int64  // bytes from its start; -1 where there is no offset
	What   string // the field or check that failed
	Want   uint64
	Got    uint64
}

func (c *Corrupt) Error() string {
	text := fmt.Sprintf("corrupt %s at offset %d: %s: want %#x, got %#x", c.Place, c.Offset, c.What, c.Want, c.Got)
	if strings.Contains(c.What, "version") && c.Got > c.Want {
		text += ", written by a later version of this program; update it"
	}
	return text
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (c *Corrupt) Is(target error) bool { return target == ErrCorrupt }
