package server

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// The state is put into the archive by snapshotds, which alone have its credentials: one asks for the state now and then, and
// says with its work what is there. That is the leader's belief, shown by status, and forgotten with the term.

// backupService gives the state to snapshotds.
type backupService struct {
	api.UnimplementedBackupsServer
	s *Server
}

// TakeBackup gives the state of now, by a leader that is certain to be one.
func (b *backupService) TakeBackup(_ *api.TakeBackupRequest, stream grpc.ServerStreamingServer[api.TakeBackupPart]) error {
	if err := b.s.fresh(stream.Context()); err != nil {
		return b.s.fail(err)
	}
	file, entry, err := b.s.backupFile()
	if err != nil {
		return b.s.fail(err)
	}
	for part := range slices.Chunk(file, backupPartBytes) {
		if err := stream.Send(&api.TakeBackupPart{Data: part, Entry: entry}); err != nil {
			return err
		}
	}
	return nil
}

// backupFile is the state as a file, and the entry of the log up to which it has everything.
func (s *Server) backupFile() (file []byte, entry uint64, err error) {
	b := &cluster.Backup{Cluster: s.creds.Self().Cluster, Taken: s.clock.Wall(), Member: s.node.ID(), Term: s.node.Term()}
	rebuilding := false
	entry = s.node.AppliedIndex() // before the look: the state has that and perhaps more
	s.node.View(func(x *state.Machine) { b.State, rebuilding = x.Snapshot(), x.Rebuilding() })
	if rebuilding {
		return nil, 0, fmt.Errorf("the state is being rebuilt; what it has now is less than the backup it came from: %w", errs.ErrConflict)
	}
	return b.Encode(), entry, nil
}

// Limits of what a snapshotd says.
const (
	backupKeyMax    = 512
	backupReasonMax = 500
	// backupLateTurns is how many turns may pass without a backup before the health says so.
	backupLateTurns = 2
)

func backupFits(r *api.BackupReport) bool {
	return len(r.GetNewestKey()) <= backupKeyMax && len(r.GetFailed()) <= backupReasonMax
}

// backupOf is what a worker said last.
func (a *archives) backupOf(worker string) *api.BackupReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[worker]; w != nil {
		return w.backup
	}
	return nil
}

// noteBackup makes an event of a failure, and of its end.
func (s *Server) noteBackup(worker string, was, is *api.BackupReport) {
	switch {
	case is.GetFailed() != "" && was.GetFailed() == "":
		s.note(state.Warning, "backup_failed", aboutCluster, worker, worker, "backup of metad not written to the archive: %s", is.GetFailed())
	case is.GetFailed() == "" && was.GetFailed() != "" && is.GetNewestUnixMs() > was.GetNewestUnixMs():
		s.note(state.Info, "backup_written", aboutCluster, worker, worker, "backup of metad written to the archive again: %s", is.GetNewestKey())
	}
}

// backup is what is known of the backups in the archive; nil: no snapshotd makes any.
func (a *archives) backup(wall time.Time) *api.BackupStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out *api.BackupStatus
	for name, w := range a.workers {
		r := w.backup
		if r.GetEverySeconds() == 0 {
			continue
		}
		if out == nil || r.GetNewestUnixMs() > out.Report.GetNewestUnixMs() || r.GetNewestUnixMs() == out.Report.GetNewestUnixMs() && name < out.Worker {
			out = &api.BackupStatus{Report: r, Worker: name, Place: w.place}
		}
	}
	if out != nil {
		since := max(out.Report.GetNewestUnixMs(), 0)
		if since == 0 {
			since = out.Report.GetSinceUnixMs()
		}
		turn := time.Duration(out.Report.GetEverySeconds()) * time.Second
		out.Late = wall.Sub(time.UnixMilli(since)) > backupLateTurns*turn
	}
	return out
}

// sayBackup adds to the health that no backup is made though some should.
func sayBackup(h *reconcile.Report, b *api.BackupStatus) {
	if b.GetLate() {
		last, why := "there is none", b.GetReport().GetFailed()
		if t := b.GetReport().GetNewestUnixMs(); t != 0 {
			last = "the last is of " + time.UnixMilli(t).UTC().Format(time.RFC3339)
		}
		if why == "" {
			why = fmt.Sprintf("snapshotd %s does not say why: see whether it runs", b.GetWorker())
		}
		h.Add(reconcile.Degraded, "backup_late", b.GetWorker(), "metad's state is not backed up to the archive, %s: %s", last, why)
	}
}

// archiverSilent is for how long no snapshotd may be heard before the health says so: longer than a restart.
const archiverSilent = 3 * workerSilent

// sayArchiver adds to the health that snapshots are archived here and no snapshotd is heard, whatever it was
// to do: then there is nobody either who would say that it makes no backups.
func sayArchiver(h *reconcile.Report, m *state.Machine, unheard bool) {
	if unheard && usesArchive(m) {
		h.Add(reconcile.Degraded, "no_snapshotd", "", "snapshots are archived here, and no snapshotd is heard: nothing is put into the archive, metad's state is not backed up to it; start one, or look at its log")
	}
}

// unheard tells that no snapshotd was heard for long.
func (a *archives) unheard(now time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.began
	for _, w := range a.workers {
		last = max(last, w.heard)
	}
	return now-last > archiverSilent
}

// usesArchive tells whether some snapshot is in the archive, or on its way.
func usesArchive(m *state.Machine) bool {
	for _, v := range m.Volumes() {
		for i := range v.Snapshots {
			if x := &v.Snapshots[i].Archived; !v.Deleted && (x.Pending() || x.Manifest != "") {
				return true
			}
		}
	}
	return false
}
