package server

import (
	"context"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/snapshotd/archive"
)

// copy brings an archived snapshot into another archive. Both ways together take what the archive of this worker
// may take of the line.
func (w *work) copy(ctx context.Context, to *api.CopyTarget, manifest string, t *tasking, out *api.ArchiveTaskReply) error {
	place := objectstore.Place{URL: to.GetUrl(), Credentials: objectstore.Credentials{Access: to.GetAccessKey(), Secret: to.GetSecretKey()},
		CA: to.GetCa(), Region: to.GetRegion(), BandwidthMax: w.s.cfg.Archive.Store.BandwidthMax}
	store, err := objectstore.OpenPlace(place, w.s.clock)
	if err != nil {
		return err
	}
	lock := archive.Locking{For: time.Duration(to.GetLockMs()) * time.Millisecond, Mode: objectstore.LockMode(to.GetLockMode()), Wall: w.s.clock.Wall}
	note := func(c archive.Copied) {
		out.DoneObjects, out.TotalObjects, out.FoundObjects = uint64(c.Objects), uint64(c.ObjectsAll), uint64(c.Found)
		out.DoneBytes, out.TotalBytes = c.Bytes, c.BytesAll
	}
	done, err := archive.Copy(ctx, archive.Copying{From: w.s.store, To: store, Secret: w.s.secret, Manifest: manifest,
		AtOnce: w.s.cfg.ObjectsAtOnce, Lock: lock, Clock: w.s.clock, Tell: func(c archive.Copied) {
			note(c)
			t.tell(out)
		}})
	note(done)
	if err == nil && lock.For > 0 {
		out.LockedUntilUnixMs = done.Locked.UnixMilli()
	}
	return err
}
