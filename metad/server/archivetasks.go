package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// Tasks are what an operator has a snapshotd do with the archive: it alone has the credentials. They are in the leader's
// memory only, and forgotten when nobody asks for them any more: whoever waits begins them anew.

const (
	tasksMax    = 64
	taskForgets = 20 * time.Second // since somebody asked
)

type archiveTask struct {
	req    *api.ArchiveTaskRequest
	reply  *api.ArchiveTaskReply
	worker string // that has it
	given  time.Duration
	asked  time.Duration
}

// tasksFor takes in how far a worker's tasks are, and gives it those that it is to do.
func (a *archives) tasksFor(q *api.ArchiveWorkRequest, now time.Duration) (out []*api.ArchiveTaskRequest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	me := holderOf(q)
	for _, p := range q.GetTasks() {
		if t := a.tasks[p.GetTaskId()]; t != nil && t.worker == me && !t.reply.GetDone() {
			p.Worker, p.Place = q.GetWorker(), q.GetPlace()
			t.reply, t.given = p, now
		}
	}
	for key, t := range a.tasks {
		switch {
		case now-t.asked > taskForgets:
			delete(a.tasks, key)
		case t.reply.GetDone():
		case t.worker == me:
			out = append(out, t.req)
		case t.worker == "" || strings.HasPrefix(t.worker, q.GetWorker()+"#") || now-t.given > workerSilent: // nobody's, of an earlier life of who asks, or of who is gone
			t.worker, t.given = me, now
			out = append(out, t.req)
		}
	}
	return out
}

func (x *archiver) RunArchiveTask(_ context.Context, q *api.ArchiveTaskRequest) (*api.ArchiveTaskReply, error) {
	r, err := x.s.ruling()
	if err != nil {
		return nil, x.s.fail(err)
	}
	if n := len(q.GetTaskId()); n == 0 || n > 64 || q.GetKind() == api.ArchiveTaskKind_ARCHIVE_TASK_KIND_UNSPECIFIED {
		return nil, x.s.fail(fmt.Errorf("task without id or kind: %w", errs.ErrInvalid))
	}
	if err := checkCopy(q); err != nil {
		return nil, x.s.fail(err)
	}
	a, now := r.archivesOf(), x.s.clock.Now()
	if n, _ := a.living(now); n == 0 && now-a.began > workerSilent {
		return nil, x.s.fail(fmt.Errorf("no snapshotd is running: start one (its file needs archive.store), or look at its log: %w", errs.ErrUnavailable))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.tasks[q.GetTaskId()]
	if t == nil {
		if len(a.tasks) >= tasksMax {
			return nil, x.s.fail(fmt.Errorf("%d tasks of the archive are under way: %w", len(a.tasks), errs.ErrUnavailable))
		}
		t = &archiveTask{req: q, reply: &api.ArchiveTaskReply{TaskId: q.GetTaskId()}}
		a.tasks[q.GetTaskId()] = t
	}
	t.asked = now
	return t.reply, nil
}
