package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/snapshotd/archive"
)

const (
	workEvery   = 500 * time.Millisecond
	workTimeout = 5 * time.Second
	// leaseSilence: a worker that could not speak to metad for so long does not finish anything; metad gives it to
	// another after ten seconds.
	leaseSilence = 8 * time.Second
	endTries     = 20
)

// work is what metad has given this worker.
type work struct {
	s       *server
	mu      sync.Mutex
	uploads map[id.Snapshot]*uploading
	tasks   map[string]*tasking
	copies  chan struct{} // a place for each copy that goes on
}

// uploading is an upload under way.
type uploading struct {
	id    id.Snapshot
	epoch uint64
	stop  context.CancelFunc

	mu          sync.Mutex
	u           *api.Upload // as metad said last
	done, total uint64
	began       time.Duration
	first       uint64 // done when it began: what was there already
}

func (u *uploading) owner() (host, address string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.u.GetOwner(), u.u.GetOwnerAddress()
}

func newWork(s *server) *work {
	return &work{s: s, uploads: make(map[id.Snapshot]*uploading), tasks: make(map[string]*tasking), copies: make(chan struct{}, copiesMax)}
}

// dialer is for a connection to a host's data path.
func (s *server) dialer(host string) func() *tls.Config {
	if s.cfg.DataTLS == "off" {
		return nil
	}
	return s.creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}, Name: host})
}

// locking is for what is put into the archive from now on.
func (s *server) locking() archive.Locking {
	return archive.Locking{For: s.cfg.Lock.For.Std(), Mode: s.cfg.Lock.Mode, Wall: s.clock.Wall}
}

// run asks metad for work until ctx ends.
func (w *work) run(ctx context.Context) error {
	t := w.s.clock.NewTicker(workEvery)
	defer t.Stop()
	quiet := false
	for {
		err := w.step(ctx)
		if err != nil && ctx.Err() == nil && !quiet {
			w.s.log.Info("metad gives no work now", "err", err)
		}
		quiet = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
	}
}

func (w *work) step(ctx context.Context) error {
	ctx1, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	rep, err := w.s.metad.Work(ctx1, w.report())
	if err != nil {
		return err
	}
	w.s.heard.Store(int64(w.s.clock.Now()))
	w.take(ctx, rep)
	return nil
}

// report says how far everything is.
func (w *work) report() *api.ArchiveWorkRequest {
	q := &api.ArchiveWorkRequest{Worker: w.s.cfg.ID, Life: w.s.life, UploadsMax: uint32(w.s.cfg.Uploads), Place: w.s.store.String(), Backup: w.s.backup.report(), Memory: api.FromProcess(w.s.memory())}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.uploads {
		u.mu.Lock()
		p := &api.UploadProgress{Volume: u.u.GetVolume(), Snapshot: u.id[:], Epoch: u.epoch, DoneBytes: u.done, TotalBytes: u.total}
		if took := w.s.clock.Now() - u.began; took > 0 && u.done > u.first {
			p.BytesPerSecond = uint64(float64(u.done-u.first) / took.Seconds())
		}
		u.mu.Unlock()
		q.Uploads = append(q.Uploads, p)
	}
	for _, t := range w.tasks {
		q.Tasks = append(q.Tasks, t.report())
	}
	return q
}

// take begins what is new and stops what is not this worker's any more.
func (w *work) take(ctx context.Context, rep *api.ArchiveWorkReply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	mine := make(map[id.Snapshot]bool)
	for _, u := range rep.GetUploads() {
		s, err := api.SnapshotID(u.GetSnapshot())
		if err != nil {
			continue
		}
		if have := w.uploads[s]; have != nil && have.epoch == u.GetEpoch() {
			have.mu.Lock()
			have.u = u
			have.mu.Unlock()
			mine[s] = true
		} else if have == nil {
			w.begin(s, u, rep.GetClusterId())
			mine[s] = true
		}
	}
	for s, u := range w.uploads {
		if !mine[s] {
			u.stop() // its goroutine takes it out
		}
	}
	w.takeTasks(ctx, rep.GetTasks())
}

func (w *work) begin(s id.Snapshot, u *api.Upload, clusterID []byte) {
	ctx, stop := context.WithCancel(context.Background())
	x := &uploading{id: s, epoch: u.GetEpoch(), stop: stop, u: u, began: w.s.clock.Now()}
	w.uploads[s] = x
	w.s.metrics.uploads.Inc()
	w.s.group.Go("upload", func(group context.Context) error {
		defer context.AfterFunc(group, stop)()
		defer stop()
		w.upload(ctx, x, clusterID)
		w.s.metrics.uploads.Dec()
		w.mu.Lock()
		delete(w.uploads, s)
		w.mu.Unlock()
		return nil
	})
}

// upload does one and says how it ended.
func (w *work) upload(ctx context.Context, x *uploading, clusterID []byte) {
	log := w.s.log.With("volume", x.u.GetDisk(), "snapshot", x.id.String(), "epoch", x.epoch)
	job, err := w.job(x, clusterID)
	var res archive.Result
	if err == nil {
		log.Info("upload begins", "base", job.Base.String(), "again", job.Again)
		res, err = archive.Upload(ctx, job, source{w.s, x})
	}
	if ctx.Err() != nil {
		log.Info("upload is not ours any more")
		return
	}
	q := &api.EndUploadRequest{Worker: w.s.cfg.ID, Volume: x.u.GetVolume(), Snapshot: x.id[:], Epoch: x.epoch, StoredBytes: res.Stored, Manifest: res.Manifest}
	if err != nil {
		text := err.Error()
		q.Failed = text[:min(len(text), cluster.ArchiveReasonMax)]
		w.s.metrics.failed.Inc()
		log.Warn("snapshot could not be archived", "err", err)
	} else {
		w.s.metrics.archived.Inc()
		w.s.metrics.storedSize.Add(float64(res.Stored))
		log.Info("snapshot archived", "manifest", res.Manifest, "stored", res.Stored, "took", w.s.clock.Now()-x.began)
	}
	for try := range endTries {
		once, cancel := context.WithTimeout(ctx, workTimeout)
		err := w.s.metad.EndUpload(once, q)
		cancel()
		if err == nil || errors.Is(err, errs.ErrStaleEpoch) || errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNotFound) || ctx.Err() != nil {
			return // done, or not ours any more
		}
		log.Info("metad does not hear how the upload ended", "try", try+1, "err", err)
		if w.s.clock.Sleep(ctx, time.Second) != nil {
			return
		}
	}
}

func (w *work) job(x *uploading, clusterID []byte) (archive.Job, error) {
	u := x.u
	v, err := api.VolumeID(u.GetVolume())
	if err != nil || len(clusterID) != 16 || len(u.GetUpload()) != 16 {
		return archive.Job{}, fmt.Errorf("metad's order: %w", errors.Join(err, errs.ErrInvalid))
	}
	j := archive.Job{Cluster: [16]byte(clusterID), Volume: v, Disk: u.GetDisk(), Snapshot: x.id, Name: u.GetName(), Created: time.UnixMilli(u.GetCreatedUnixMs()).UTC(),
		Upload: id.Raw(u.GetUpload()), Again: true, AtOnce: w.s.cfg.ObjectsAtOnce, Store: w.s.store, Secret: w.s.secret,
		Lock: w.s.locking()}
	if len(u.GetBase()) == 16 {
		j.Base = id.Snapshot(u.GetBase())
	}
	j.Again = x.epoch > 1 // the first lease of all finds nothing
	j.StillMine = func(ctx context.Context) error {
		if silent := w.s.clock.Now() - time.Duration(w.s.heard.Load()); silent > leaseSilence {
			return fmt.Errorf("metad was not heard for %s, the upload may be another's: %w", silent.Round(time.Second), errs.ErrUnavailable)
		}
		return ctx.Err()
	}
	j.Tell = func(done, total uint64) {
		x.mu.Lock()
		if x.total == 0 {
			x.first = done
		}
		if done > x.done {
			w.s.metrics.blocks.Add(float64(done - x.done))
		}
		x.done, x.total = done, total
		x.mu.Unlock()
	}
	return j, nil
}
