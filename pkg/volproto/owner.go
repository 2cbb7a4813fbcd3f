package volproto

import (
	"context"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// Owner is what serves volumes to the peers that proxy for their clients.
type Owner interface {
	// Attach lets a session in. It returns when the older sessions of the same
	// attachment are refused and what they had in flight is done, so that no request of
	// theirs can take effect after one of the new session (Gate sees to it). A lower
	// number than one already let in is ErrStaleSession; a volume owned elsewhere
	// a *NotOwner. The handle is closed once, after its last request completed;
	// when the volume is lost or handed off, its requests complete with a *NotOwner.
	Attach(ctx context.Context, volume id.Volume, session Session, by id.Host) (nbd.Handle, error)
	// AttachSnapshot opens a snapshot, which is only read: no session shuts out another. Else as Attach.
	AttachSnapshot(ctx context.Context, volume id.Volume, snapshot id.Snapshot, by id.Host) (nbd.Handle, error)
}
