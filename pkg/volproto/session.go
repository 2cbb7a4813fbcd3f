package volproto

import (
	"errors"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Session is one client's hold on a volume. The attachment stays when the client comes
// back, the number rises; connections of one multi-conn client share both.
type Session struct {
	Attachment id.Raw
	Number     uint64 // from 1
}

func (s Session) String() string { return fmt.Sprintf("%x#%d", s.Attachment[:], s.Number) }

// ErrStaleSession answers the requests of a session whose attachment has a newer one.
// It matches errs.ErrConflict.
var ErrStaleSession = fmt.Errorf("the session was replaced by a newer one: %w", errs.ErrConflict)

// ErrNotOwner answers who asks a blockd for a volume that it does not own (any more).
// The error is a *NotOwner.
var ErrNotOwner = errors.New("not the owner of the volume")

// NotOwner is ErrNotOwner with what the peer knows of the owner. It matches
// errs.ErrUnavailable as well: asking the right host may succeed.
type NotOwner struct {
	Volume id.Volume
	Owner  id.Host  // empty if not known
	Epoch  id.Epoch // under which; zero if not known
}

func (e *NotOwner) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("volume %s: not the owner", e.Volume)
	}
	return fmt.Sprintf("volume %s: not the owner, ask %s (%s)", e.Volume, e.Owner, e.Epoch)
}

// Is makes NotOwner match ErrNotOwner and errs.ErrUnavailable.
func (e *NotOwner) Is(target error) bool {
	return target == ErrNotOwner || target == errs.ErrUnavailable
}
