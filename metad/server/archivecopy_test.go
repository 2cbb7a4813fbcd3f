package server

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// Without this what is copied could be deleted and reclaimed in the middle of it, or be held for ever after.
func TestWhatIsCopiedIsHeld(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops, s1 := g.operator(), g.archiver("s1", pki.RoleSnapshotd)
	work := func(tasks ...*api.ArchiveTaskReply) *api.ArchiveWorkReply {
		t.Helper()
		rep, err := s1.Work(g.ctx(), &api.ArchiveWorkRequest{Worker: "s1", Life: "x", Place: "here", Tasks: tasks})
		must(t, err)
		return rep
	}
	work()
	v, s := id.Volume{1}, id.Snapshot{2}
	q := &api.ArchiveTaskRequest{TaskId: "t", Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY, DiskId: v.String(), SnapshotId: s.String(),
		To: &api.CopyTarget{Url: "s3://there/b", AccessKey: "me", SecretKey: "hidden"}}
	_, err := ops.ArchiveTask(g.ctx(), q)
	must(t, err)
	held := func() bool {
		t.Helper()
		h, err := s1.Holds(g.ctx())
		must(t, err)
		return slices.Contains(h.GetManifests(), manifestKey(v, s))
	}
	if !held() {
		t.Fatal("it is not held")
	}
	if got := work().GetTasks(); len(got) != 1 || got[0].GetTo().GetSecretKey() != "hidden" {
		t.Fatalf("the worker was given %d tasks", len(got))
	}
	work(&api.ArchiveTaskReply{TaskId: "t", Done: true})
	if held() {
		t.Fatal("it is held after its end")
	}
}

// Without this a caller could fill the leader's memory, or read secrets in an error.
func TestCopiesAreChecked(t *testing.T) {
	v, s := id.Volume{1}.String(), id.Snapshot{2}.String()
	const kind = api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY
	for _, q := range []*api.ArchiveTaskRequest{
		{Kind: kind, DiskId: v, SnapshotId: s},
		{Kind: kind, DiskId: "x", SnapshotId: s, To: &api.CopyTarget{Url: "s3://a/b"}},
		{Kind: kind, DiskId: v, SnapshotId: s, To: &api.CopyTarget{Url: strings.Repeat("x", copyURLMax+1)}},
		{Kind: kind, DiskId: v, SnapshotId: s, To: &api.CopyTarget{Url: "s3://a/b", SecretKey: strings.Repeat("hidden", copySecretMax)}},
		{Kind: kind, DiskId: v, SnapshotId: s, To: &api.CopyTarget{Url: "s3://a/b", Ca: make([]byte, copyCAMax+1)}},
		{Kind: kind, DiskId: v, SnapshotId: s, To: &api.CopyTarget{Url: "s3://a/b", LockMs: uint64(copyLockMax.Milliseconds()) + 1}},
		{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_LIST, To: &api.CopyTarget{Url: "s3://a/b"}},
	} {
		if err := checkCopy(q); !errors.Is(err, errs.ErrInvalid) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%v", err)
		}
	}
	if err := checkCopy(&api.ArchiveTaskRequest{Kind: kind, DiskId: v, SnapshotId: s, To: &api.CopyTarget{Url: "s3://a/b"}}); err != nil {
		t.Error(err)
	}
}
