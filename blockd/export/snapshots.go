package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/volproto"
)

// A snapshot is an export, too: disk@snapshot, both by name or id. It is only read, so no
// session shuts out another. It is served by the disk's owner, like the disk; other hosts proxy.

// splitSnapshot parts the disk's name from the snapshot's.
func splitSnapshot(name string) (disk, snapshot string, ok bool) { return strings.Cut(name, "@") }

// findSnapshot asks metad what a name means: it alone knows.
func (x *Exports) findSnapshot(ctx context.Context, disk, snapshot string) (*cluster.Volume, cluster.Snapshot, error) {
	rec, err := x.cfg.Metad.FindKept(ctx, disk)
	if err != nil {
		return nil, cluster.Snapshot{}, fmt.Errorf("find disk %q: %w", disk, err)
	}
	s, ok := rec.FindSnapshot(snapshot)
	if !ok || s.State != cluster.SnapshotReady {
		return nil, cluster.Snapshot{}, fmt.Errorf("disk %s has no snapshot %.140q that is ready: %w", rec.Name, snapshot, errs.ErrNotFound)
	}
	return rec, s, nil
}

// openSnapshot is Open for a snapshot.
func (x *Exports) openSnapshot(ctx context.Context, disk, snapshot string, peer nbd.Peer) (nbd.Handle, error) {
	rec, s, err := x.findSnapshot(ctx, disk, snapshot)
	if err != nil {
		return nil, fmt.Errorf("open export: %w", err)
	}
	if err := mayOpen(peer, rec.Name, rec.ID.String()); err != nil {
		return nil, err
	}
	why := client.AcquireOpen
	for {
		h, owner, err := x.ownSnapshot(ctx, rec.ID, s, why)
		if err == nil && h == nil {
			var session volproto.Session // of this handle alone
			if _, err := rand.Read(session.Attachment[:]); err != nil {
				return nil, fmt.Errorf("draw attachment: %w", err)
			}
			session.Number = 1
			h, err = x.cfg.Proxy.AttachSnapshot(ctx, owner, rec.ID, s.ID, session)
			why = client.AcquireTakeover
			if err != nil && !errors.Is(err, errs.ErrNotFound) && !errors.Is(err, errs.ErrDenied) && !errors.Is(err, errs.ErrInvalid) {
				err = errors.Join(errs.ErrUnavailable, err) // another owner, perhaps
			}
		}
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrStaleEpoch) {
			return nil, fmt.Errorf("open snapshot %s of disk %s: %w", s.Name, rec.Name, err)
		}
		if e := x.cfg.Clock.Sleep(ctx, retryOwner); e != nil {
			return nil, fmt.Errorf("open snapshot %s of disk %s: %w", s.Name, rec.Name, errors.Join(errs.ErrUnavailable, err))
		}
	}
}

// ownSnapshot gives a snapshot of a disk that is, or may be, owned here; else by whom it is.
func (x *Exports) ownSnapshot(ctx context.Context, v id.Volume, s cluster.Snapshot, why client.AcquireWhy) (nbd.Handle, id.Host, error) {
	d, err := x.disk(v)
	if err != nil {
		return nil, "", err
	}
	vol, gate, refused, err := x.own(ctx, d, why)
	switch {
	case err != nil:
		return nil, "", err
	case refused != nil:
		return nil, refused.Owner.Host, nil
	}
	return gate.throttle.Handle(vol.View(s.ID, s.Size)), "", nil
}

// AttachSnapshot makes Exports a volproto.Owner.
func (x *Exports) AttachSnapshot(ctx context.Context, v id.Volume, snapshot id.Snapshot, by id.Host) (nbd.Handle, error) {
	_, s, err := x.findSnapshot(ctx, v.String(), snapshot.String())
	if err != nil {
		return nil, fmt.Errorf("attach for %s: %w", by, err)
	}
	h, owner, err := x.ownSnapshot(ctx, v, s, client.AcquireOpen)
	if err == nil && h == nil {
		err = &volproto.NotOwner{Volume: v, Owner: owner}
	}
	return h, err
}

// describeSnapshot is Describe for a snapshot.
func (x *Exports) describeSnapshot(ctx context.Context, disk, snapshot string, peer nbd.Peer) (uint64, nbd.Info, error) {
	rec, s, err := x.findSnapshot(ctx, disk, snapshot)
	if err != nil {
		return 0, nbd.Info{}, fmt.Errorf("describe export: %w", err)
	}
	if err := mayOpen(peer, rec.Name, rec.ID.String()); err != nil {
		return 0, nbd.Info{}, err
	}
	i := info()
	i.ReadOnly, i.Name, i.Description = true, rec.Name+"@"+s.Name, s.ID.String()
	return s.Size, i, nil
}

// errDeleted is the answer to whoever wants a disk that is open here for its snapshots only.
var errDeleted = fmt.Errorf("the disk is deleted; its snapshots are there: %w", errs.ErrNotFound)

// errRolling keeps clients waiting: it does not take long.
var errRolling = fmt.Errorf("the disk is being rolled back: %w", errs.ErrUnavailable)

// RolledBack lets clients in again at a disk whose rollback metad knows to be done.
func (x *Exports) RolledBack(v id.Volume) {
	if d, err := x.disk(v); err == nil {
		if vol, _ := d.current(); vol != nil {
			vol.Thaw()
		}
	}
}

// Snapshot carries out one of metad's orders, as the disk's owner; it becomes the owner of a
// disk that nobody owns. The epoch is that under which it was carried out.
func (x *Exports) Snapshot(ctx context.Context, o client.SnapshotOrder) (id.Epoch, error) {
	d, err := x.disk(o.Volume)
	if err != nil {
		return 0, err
	}
	vol, _, refused, err := x.own(ctx, d, client.AcquireOpen)
	if err == nil && refused != nil {
		err = fmt.Errorf("%s has it: %w", refused.Owner, errs.ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("snapshot of disk %s: %w", o.Volume, err)
	}
	switch {
	case o.Empty:
		err = vol.Empty(ctx)
	case o.Safety != (id.Snapshot{}):
		err = vol.RollBack(ctx, cluster.Rollback{To: o.Snapshot, Safety: o.Safety})
	case o.Step == api.SnapshotStep_SNAPSHOT_STEP_PREPARE: // the disk is open
	case o.Step == api.SnapshotStep_SNAPSHOT_STEP_HOLD:
		err = vol.HoldSnapshot(ctx, o.Snapshot, holdFor(o))
	case o.Step == api.SnapshotStep_SNAPSHOT_STEP_RELEASE:
		err = vol.ReleaseSnapshot(ctx, o.Snapshot)
	case o.Drop:
		err = vol.DropSnapshot(ctx, o.Snapshot)
	default:
		err = vol.TakeSnapshot(ctx, o.Snapshot)
	}
	return vol.Epoch(), err
}

// holdMax is how long what comes after the mark of a snapshot that is taken with others is held back at most, whatever metad
// says, and where it says nothing.
const holdMax = time.Second

// holdFor is how long an order may hold writers back.
func holdFor(o client.SnapshotOrder) time.Duration {
	if o.Hold <= 0 {
		return holdMax
	}
	return min(o.Hold, holdMax)
}
