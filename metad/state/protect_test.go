package state

import (
	"testing"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// A disk that is protected is not deleted, whoever forces it, until somebody says that it may be.
func TestProtectedDiskIsNotDeleted(t *testing.T) {
	w, v := withDisk(t)
	w.refused(errs.ErrUnavailable, &SetProtection{Volume: v, On: true}) // of a later level
	w.ok(&SetLevel{Level: LevelImages})
	w.refused(errs.ErrNotFound, &SetProtection{Volume: id.Volume{99}, On: true})
	w.ok(&SetProtection{Volume: v, On: true})
	w.Machine = restored(t, w.Machine)
	for _, c := range []Command{&DeleteVolume{Volume: v, Forced: true}, &RetireVolume{Volume: v, Forced: true}, &RetireVolume{Volume: v, Forced: true, Snapshots: SnapshotsGoToo}} {
		w.refused(errs.ErrConflict, c)
	}
	w.ok(&SetProtection{Volume: v})
	w.ok(&RetireVolume{Volume: v, Forced: true})
	w.refused(errs.ErrNotFound, &SetProtection{Volume: v, On: true})
}
