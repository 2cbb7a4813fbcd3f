package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"ashlar.dev/pkg/api"
	pkgarchive "ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/snapshotd/archive"
)

// tasking is a task under way, or done and not forgotten by metad.
type tasking struct {
	stop context.CancelFunc
	mu   sync.Mutex
	rep  *api.ArchiveTaskReply
}

// report is how far it is now.
func (t *tasking) report() *api.ArchiveTaskReply {
	t.mu.Lock()
	defer t.mu.Unlock()
	return proto.Clone(t.rep).(*api.ArchiveTaskReply)
}

// tell notes how far it is.
func (t *tasking) tell(now *api.ArchiveTaskReply) {
	now = proto.Clone(now).(*api.ArchiveTaskReply)
	t.mu.Lock()
	t.rep = now
	t.mu.Unlock()
}

// takeTasks begins those that are new and forgets those that metad has heard the end of.
func (w *work) takeTasks(ctx context.Context, all []*api.ArchiveTaskRequest) {
	given := make(map[string]bool)
	for _, q := range all {
		given[q.GetTaskId()] = true
		if w.tasks[q.GetTaskId()] == nil {
			w.beginTask(q)
		}
	}
	for key, t := range w.tasks {
		if !given[key] {
			t.stop()
			delete(w.tasks, key)
		}
	}
}

func (w *work) beginTask(q *api.ArchiveTaskRequest) {
	ctx, stop := context.WithCancel(context.Background())
	t := &tasking{stop: stop, rep: &api.ArchiveTaskReply{TaskId: q.GetTaskId()}}
	w.tasks[q.GetTaskId()] = t
	w.s.group.Go("task", func(group context.Context) error {
		defer context.AfterFunc(group, stop)()
		defer stop()
		w.s.log.Info("task begins", "kind", q.GetKind().String(), "snapshot", q.GetSnapshotId())
		out := &api.ArchiveTaskReply{TaskId: q.GetTaskId()}
		err := w.task(ctx, q, t, out)
		if err != nil {
			out.Failed, out.FailedCode = err.Error(), uint32(errs.CodeOf(err))
			w.s.log.Info("task failed", "kind", q.GetKind().String(), "snapshot", q.GetSnapshotId(), "err", err)
		}
		out.Done = true
		t.mu.Lock()
		t.rep = out
		t.mu.Unlock()
		return nil
	})
}

func (w *work) keeper() *archive.Keeper {
	return &archive.Keeper{Store: w.s.store, Secret: w.s.secret, Wall: w.s.clock.Wall, Clock: w.s.clock, Locks: w.s.cfg.Lock.For > 0, Holds: func(ctx context.Context) (archive.Holds, error) {
		rep, err := w.s.metad.Holds(ctx)
		h := archive.Holds{Manifests: make(map[string]bool), Uploads: make(map[string]bool)}
		for _, m := range rep.GetManifests() {
			h.Manifests[m] = true
		}
		for _, u := range rep.GetUploads() {
			h.Uploads[hex.EncodeToString(u)] = true
		}
		return h, err
	}}
}

// task does what is asked, into out; while it goes on t has how far it is.
func (w *work) task(ctx context.Context, q *api.ArchiveTaskRequest, t *tasking, out *api.ArchiveTaskReply) (err error) {
	k := w.keeper()
	switch q.GetKind() {
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_LIST:
		out.Entries, out.More, err = k.List(ctx, q.GetDiskId())
		return err
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_USAGE:
		return k.Usage(ctx, out)
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_GC:
		return k.Gc(ctx, time.Duration(q.GetGraceSeconds())*time.Second, q.GetDryRun(), out)
	}
	v, err := id.ParseVolume(q.GetDiskId())
	if err != nil {
		return err
	}
	snap, err := id.ParseSnapshot(q.GetSnapshotId())
	if err != nil {
		return err
	}
	switch q.GetKind() {
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_VERIFY:
		return k.Verify(ctx, v, snap, out, func(p pkgarchive.Progress) {
			out.DoneObjects, out.TotalObjects, out.DoneBytes, out.TotalBytes = uint64(p.Objects), uint64(p.ObjectsAll), p.Bytes, p.BytesAll
			t.tell(out)
		})
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_DELETE:
		return k.Delete(ctx, v, snap, q.GetDryRun())
	case api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY:
		done, err := w.copyTurn(ctx)
		if err != nil {
			return err
		}
		defer done()
		return w.copy(ctx, q.GetTo(), pkgarchive.ManifestKey(v, snap), t, out)
	}
	return fmt.Errorf("task of kind %s: %w", q.GetKind(), errs.ErrInvalid)
}
