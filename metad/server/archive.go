package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Uploads into the archive are handed to snapshotds under leases. What is committed says who has one; who lives is the
// leader's belief: a worker that was not heard for a while loses what it has to whoever asks. It may go on for a time and
// does no harm: objects are never overwritten, one manifest is put, and its word does not count.

const (
	workerSilent = 10 * time.Second
	workersMax   = 256
)

// archives is what a leader believes of workers, and what it has them do.
type archives struct {
	mu sync.Mutex
	// workers are those that were heard, by name.
	workers  map[string]*worker
	progress map[id.Snapshot]*api.UploadProgress
	tasks    map[string]*archiveTask
	began    time.Duration
}

type worker struct {
	life  string
	heard time.Duration
	place string
	// backup is what it said last of the backups of the state in its archive.
	backup *api.BackupReport
	memory *api.ProcessMemory
}

// archiver serves both services of the archive.
type archiver struct {
	api.UnimplementedArchiverServer
	api.UnimplementedArchivesServer
	s *Server
}

// archivesOf are those of a term, made when first asked for.
func (r *reign) archivesOf() *archives {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.archives == nil {
		r.mu.archives = &archives{workers: make(map[string]*worker), progress: make(map[id.Snapshot]*api.UploadProgress),
			tasks: make(map[string]*archiveTask), began: r.s.clock.Now()}
	}
	return r.mu.archives
}

// hear notes that a worker lives and how far it is.
func (a *archives) hear(q *api.ArchiveWorkRequest, now time.Duration) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[q.GetWorker()]
	if w == nil {
		if len(a.workers) >= workersMax {
			return fmt.Errorf("%d workers are known: %w", workersMax, errs.ErrConflict)
		}
		w = &worker{}
		a.workers[q.GetWorker()] = w
	}
	w.life, w.heard, w.place, w.backup, w.memory = q.GetLife(), now, q.GetPlace(), q.GetBackup(), q.GetMemory()
	for _, p := range q.GetUploads() {
		if s, err := api.SnapshotID(p.GetSnapshot()); err == nil {
			a.progress[s] = p
		}
	}
	return nil
}

// silent tells whether a lease's holder, "worker#life", may be taken for gone. A leader that was just made has not heard anybody yet.
func (a *archives) silent(holder, by string, now time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, w := range a.workers {
		if name+"#"+w.life == holder {
			return now-w.heard > workerSilent
		}
		if name == by && len(holder) > len(name) && holder[:len(name)+1] == name+"#" {
			return true // an earlier life of who asks
		}
	}
	return now-a.began > workerSilent
}

func (a *archives) living(now time.Duration) (n uint32, place string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.workers {
		if now-w.heard <= workerSilent {
			n, place = n+1, w.place
		}
	}
	return n, place
}

// holderOf names a life of a worker, in the 64 bytes that a lease has for it.
func holderOf(q *api.ArchiveWorkRequest) string { return q.GetWorker() + "#" + q.GetLife() }

func (x *archiver) Work(ctx context.Context, q *api.ArchiveWorkRequest) (*api.ArchiveWorkReply, error) {
	r, err := x.s.ruling()
	if err == nil {
		err = mustBe(ctx, id.Host(q.GetWorker()))
	}
	if err == nil && (len(q.GetLife()) == 0 || len(holderOf(q)) > id.HostMax || len(q.GetUploads()) > 64 || !backupFits(q.GetBackup())) {
		err = fmt.Errorf("worker without life, or with too much: %w", errs.ErrInvalid)
	}
	a := (*archives)(nil)
	if err == nil {
		a = r.archivesOf()
		x.s.noteBackup(q.GetWorker(), a.backupOf(q.GetWorker()), q.GetBackup())
		err = a.hear(q, x.s.clock.Now())
	}
	if err != nil {
		return nil, x.s.fail(err)
	}
	out := &api.ArchiveWorkReply{Tasks: a.tasksFor(q, x.s.clock.Now())}
	x.s.node.View(func(m *state.Machine) { c := m.ClusterID(); out.ClusterId = c[:] })
	for range 1 + q.GetUploadsMax() { // what it has, then one lease after the other up to what it wants
		var lease *state.LeaseArchive
		out.Uploads, lease = x.uploadsOf(r, a, q)
		if lease == nil || len(out.Uploads) >= int(q.GetUploadsMax()) {
			break
		}
		if _, err := x.s.commit(ctx, lease); err != nil {
			return nil, err
		}
		x.s.log.Info("upload leased", "volume", lease.Volume.String(), "snapshot", lease.ID.String(), "worker", lease.Worker, "epoch", lease.Epoch+1)
	}
	return out, nil
}

// uploadsOf are those that a worker has leases of, and the next one it may get.
func (x *archiver) uploadsOf(r *reign, a *archives, q *api.ArchiveWorkRequest) (out []*api.Upload, lease *state.LeaseArchive) {
	now := x.s.clock.Now()
	r.with(func(l *reconcile.Liveness, m *state.Machine, at time.Duration) {
		for _, v := range m.ArchiveWork() {
			for i := range v.Snapshots {
				s := &v.Snapshots[i]
				switch y := &s.Archived; {
				case !y.Pending():
				case y.State == cluster.ArchiveUploading && y.Worker == holderOf(q):
					out = append(out, uploadOf(l, m, at, v, s))
				case lease == nil && (y.State == cluster.ArchiveQueued || a.silent(y.Worker, q.GetWorker(), now)):
					lease = &state.LeaseArchive{Volume: v.ID, ID: s.ID, Worker: holderOf(q), Epoch: y.Epoch}
				}
			}
		}
	})
	return out, lease
}

// uploadOf says what a worker must know. The host to read from is the owner, or one that is to open the disk.
func uploadOf(l *reconcile.Liveness, m *state.Machine, at time.Duration, v *state.Volume, s *cluster.Snapshot) *api.Upload {
	u := &api.Upload{Volume: v.ID[:], Disk: v.Name, Snapshot: s.ID[:], Name: s.Name, CreatedUnixMs: s.Created.UnixMilli(),
		Upload: s.Archived.Upload[:], Epoch: s.Archived.Epoch}
	if !s.Archived.Base.IsZero() {
		u.Base = s.Archived.Base[:]
	}
	to := v.Owner.Host
	if !l.HostUp(at, to) {
		if openers := openersOf(l, m, at); len(openers) > 0 {
			to = openers[int(v.ID[15])%len(openers)]
		}
	}
	for _, h := range m.Hosts() {
		if h.Host == to {
			u.Owner, u.OwnerAddress = string(to), h.DataAddress
		}
	}
	return u
}

// openersOf are the hosts that may open a disk that nobody owns; cordoned ones only if there is no other.
func openersOf(l *reconcile.Liveness, m *state.Machine, now time.Duration) (out []id.Host) {
	for _, cordoned := range []bool{false, true} {
		for _, h := range m.Hosts() {
			if h.Exports && m.Cordoned(h.Host) == cordoned && l.HostUp(now, h.Host) {
				out = append(out, h.Host)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	return out
}

func (x *archiver) EndUpload(ctx context.Context, q *api.EndUploadRequest) (*api.EndUploadReply, error) {
	v, e1 := api.VolumeID(q.GetVolume())
	s, e2 := api.SnapshotID(q.GetSnapshot())
	_, err := x.s.ruling()
	for _, e := range []error{err, mustBe(ctx, id.Host(q.GetWorker())), e1, e2} {
		if e != nil {
			return nil, x.s.fail(e)
		}
	}
	c := &state.EndArchive{Volume: v, ID: s, Epoch: q.GetEpoch(), State: cluster.ArchiveDone, Bytes: q.GetStoredBytes(), Manifest: q.GetManifest()}
	if q.GetFailed() != "" {
		c.State, c.Reason = cluster.ArchiveFailed, q.GetFailed()[:min(len(q.GetFailed()), cluster.ArchiveReasonMax)]
	}
	res, err := x.s.commit(ctx, c)
	if err != nil {
		return nil, err
	}
	name := s.String()
	if y, ok := res.Volume.FindSnapshot(name); ok {
		name = y.Name
	}
	if c.State == cluster.ArchiveFailed {
		x.s.note(state.Warning, "archive_failed", aboutDisk, res.Volume.Name, q.GetWorker(), "snapshot %s: %s", name, c.Reason)
	} else {
		x.s.note(state.Info, "snapshot_archived", aboutDisk, res.Volume.Name, q.GetWorker(), "snapshot %s, %d bytes stored", name, c.Bytes)
	}
	return &api.EndUploadReply{}, nil
}

// manifestKey is where a snapshot's manifest lies (pkg/archive/FORMAT.md).
func manifestKey(v id.Volume, s id.Snapshot) string {
	return "manifests/" + v.String() + "/" + s.String()
}

// snapshotOf finds a snapshot by what people call it.
func (x *archiver) snapshotOf(ctx context.Context, disk, snapshot string) (*reign, *state.Volume, cluster.Snapshot, error) {
	if err := x.s.fresh(ctx); err != nil {
		return nil, nil, cluster.Snapshot{}, err
	}
	r, err := x.s.ruling()
	if err != nil {
		return nil, nil, cluster.Snapshot{}, err
	}
	v, err := (&clusterService{s: x.s}).kept(disk)
	if err != nil {
		return nil, nil, cluster.Snapshot{}, err
	}
	s, ok := v.FindSnapshot(snapshot)
	if !ok {
		return nil, nil, s, fmt.Errorf("snapshot %.140q of disk %s: %w", snapshot, v.Name, errs.ErrNotFound)
	}
	return r, v, s, nil
}

func (x *archiver) ArchiveSnapshot(ctx context.Context, q *api.ArchiveSnapshotRequest) (*api.ArchiveStatus, error) {
	r, v, s, err := x.snapshotOf(ctx, q.GetDisk(), q.GetSnapshot())
	if err != nil {
		return nil, x.s.fail(err)
	}
	var c state.Command
	switch {
	case !q.GetCancel():
		upload, err := id.NewRaw(x.s.clock.Wall(), x.s.random)
		if err != nil {
			return nil, x.s.fail(err)
		}
		c = &state.QueueArchive{Volume: v.ID, ID: s.ID, Upload: upload}
	case s.Archived.State != cluster.ArchiveNone: // given up, or forgotten
		c = &state.EndArchive{Volume: v.ID, ID: s.ID, Epoch: s.Archived.Epoch, State: cluster.ArchiveNone}
	default:
		return x.describe(r, v, s), nil
	}
	res, err := x.s.commit(ctx, c)
	if err != nil {
		return nil, err
	}
	s, _ = res.Volume.FindSnapshot(s.ID.String())
	return x.describe(r, res.Volume, s), nil
}

func (x *archiver) GetArchive(ctx context.Context, q *api.GetArchiveRequest) (*api.ArchiveStatus, error) {
	r, v, s, err := x.snapshotOf(ctx, q.GetDisk(), q.GetSnapshot())
	if err != nil {
		return nil, x.s.fail(err)
	}
	return x.describe(r, v, s), nil
}

func (x *archiver) describe(r *reign, v *state.Volume, s cluster.Snapshot) *api.ArchiveStatus {
	a := &s.Archived
	out := &api.ArchiveStatus{Disk: v.Name, Snapshot: s.Name, SnapshotId: s.ID.String(), State: a.State.String(), StoredBytes: a.Bytes,
		Manifest: a.Manifest, Reason: a.Reason, Worker: a.Worker}
	if !a.Base.IsZero() {
		out.Base = a.Base.String()
		if b, ok := v.FindSnapshot(out.Base); ok {
			out.Base = b.Name
		}
	}
	all := r.archivesOf()
	out.Workers, _ = all.living(x.s.clock.Now())
	all.mu.Lock()
	defer all.mu.Unlock()
	if p := all.progress[s.ID]; p != nil && a.State == cluster.ArchiveUploading && p.GetEpoch() == a.Epoch {
		out.DoneBytes, out.TotalBytes, out.BytesPerSecond = p.GetDoneBytes(), p.GetTotalBytes(), p.GetBytesPerSecond()
	}
	return out
}

// archiveText is how far a snapshot's archive is, in a word; of a failure with the reason.
func archiveText(a *cluster.Archived) string {
	if a.State == cluster.ArchiveFailed {
		return "failed: " + a.Reason
	}
	return a.State.String()
}
