package server

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Copies of archived snapshots are tasks with secrets: they are in the leader's memory for as long as somebody waits, and nowhere
// else. What is copied is held meanwhile. That the hold is believed and not committed is enough: it keeps a
// copy from ending half done and loses nothing, for what is deleted somebody has deleted, and a copy without its
// source ends with an error and no manifest.

// Limits of what a caller names.
const (
	copyURLMax    = 1 << 10
	copySecretMax = 1 << 10
	copyCAMax     = 256 << 10
	copyLockMax   = 10 * 366 * 24 * time.Hour
)

// checkCopy refuses a copy that names no place, or too long a one. Errors have no secrets.
func checkCopy(q *api.ArchiveTaskRequest) error {
	to := q.GetTo()
	if q.GetKind() != api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY {
		if to != nil {
			return fmt.Errorf("a place for what is no copy: %w", errs.ErrInvalid)
		}
		return nil
	}
	_, e1 := id.ParseVolume(q.GetDiskId())
	_, e2 := id.ParseSnapshot(q.GetSnapshotId())
	switch {
	case e1 != nil || e2 != nil:
		return fmt.Errorf("copy of %.64q and %.64q, which are no disk and snapshot: %w", q.GetDiskId(), q.GetSnapshotId(), errs.ErrInvalid)
	case to.GetUrl() == "" || len(to.GetUrl()) > copyURLMax:
		return fmt.Errorf("copy to a place of %d bytes, want 1 to %d: %w", len(to.GetUrl()), copyURLMax, errs.ErrInvalid)
	case len(to.GetAccessKey())+len(to.GetSecretKey())+len(to.GetRegion()) > copySecretMax || len(to.GetCa()) > copyCAMax:
		return fmt.Errorf("credentials or CA for %.200s are too long: %w", to.GetUrl(), errs.ErrInvalid)
	case to.GetLockMs() > uint64(copyLockMax.Milliseconds()) || len(to.GetLockMode()) > 16:
		return fmt.Errorf("a lock of %d ms, at most ten years: %w", to.GetLockMs(), errs.ErrInvalid)
	}
	return nil
}

// copied are the manifests that are being copied elsewhere.
func (a *archives) copied() (keys []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.tasks {
		if t.req.GetKind() != api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY || t.reply.GetDone() {
			continue
		}
		v, e1 := id.ParseVolume(t.req.GetDiskId())
		s, e2 := id.ParseSnapshot(t.req.GetSnapshotId())
		if e1 == nil && e2 == nil {
			keys = append(keys, manifestKey(v, s))
		}
	}
	return keys
}
