package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

type archiveCommands struct {
	List   archiveList   `cmd:"" help:"List what is in the archive: snapshots of disks that are here, were here, or are of other clusters."`
	Usage  archiveUsage  `cmd:"" help:"Show what the archive takes."`
	Delete archiveDelete `cmd:"" help:"Take a snapshot out of the archive. What only it needs comes back with a later gc."`
	Gc     archiveGc     `cmd:"" help:"Reclaim what nothing in the archive needs any more."`
}

// archiveView is the way of a snapshot into the archive, in JSON.
type archiveView struct {
	Disk           string `json:"disk"`
	Snapshot       string `json:"snapshot"`
	SnapshotID     string `json:"snapshotId"`
	State          string `json:"state"` // empty, queued, uploading, archived, failed
	Base           string `json:"base,omitempty"`
	DoneBytes      uint64 `json:"doneBytes"`
	TotalBytes     uint64 `json:"totalBytes"`
	StoredBytes    uint64 `json:"storedBytes"`
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	Manifest       string `json:"manifest,omitempty"`
	Reason         string `json:"reason,omitempty"`
	Worker         string `json:"worker,omitempty"`
}

func viewArchive(x *api.ArchiveStatus) archiveView {
	return archiveView{Disk: x.GetDisk(), Snapshot: x.GetSnapshot(), SnapshotID: x.GetSnapshotId(), State: x.GetState(), Base: x.GetBase(), DoneBytes: x.GetDoneBytes(),
		TotalBytes: x.GetTotalBytes(), StoredBytes: x.GetStoredBytes(), BytesPerSecond: x.GetBytesPerSecond(), Manifest: x.GetManifest(), Reason: x.GetReason(), Worker: x.GetWorker()}
}

type snapshotArchive struct {
	Snapshot string `arg:"" help:"DISK@NAME, or its id." placeholder:"DISK@NAME"`
	Wait     bool   `help:"Wait for the end, and show how far it is."`
	Cancel   bool   `help:"Give an upload up that is on its way."`
}

// Help is printed by kong below the summary.
func (c *snapshotArchive) Help() string {
	return `A snapshotd uploads the snapshot to the archive: against the newest one of the disk's history that is there
already, and so only what changed, or whole. Asked again it changes nothing; of one that failed it goes on
where it ended. The snapshot cannot be deleted meanwhile; afterwards it can, the archive stands by itself.

The exit code is 1 if it failed; the reason is shown, and by ashlar snapshot list.`
}

const (
	archivePoll     = 300 * time.Millisecond
	archivePatience = time.Minute
)

// again asks every now and then until f says that it is done. A cluster that does not answer is asked again for a minute.
func (s *session) again(ctx context.Context, f func(ctx context.Context, cl Cluster) (done bool, err error)) error {
	heard := s.Clock.Now()
	for {
		done := false
		err := s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
			done, err = f(ctx, cl)
			return err
		})
		now := s.Clock.Now()
		passing := errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout)
		switch {
		case err == nil && done:
			return nil
		case err == nil:
			heard = now
		case !passing || now-heard > archivePatience:
			return err
		}
		if e := s.Clock.Sleep(ctx, archivePoll); e != nil {
			return fmt.Errorf("stopped waiting, it goes on: %w", e)
		}
	}
}

// Run is called by kong.
func (c *snapshotArchive) Run(ctx context.Context, s *session) error {
	disk, name, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	var x *api.ArchiveStatus
	err = s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
		x, err = cl.ArchiveSnapshot(ctx, disk, name, c.Cancel)
		return err
	})
	if errors.Is(err, errs.ErrNotFound) {
		return &hinted{err, "ashlar snapshot list shows them all"}
	}
	if err != nil {
		return err
	}
	if c.Wait && !c.Cancel {
		err = s.again(ctx, func(ctx context.Context, cl Cluster) (bool, error) {
			if x, err = cl.Archive(ctx, disk, name); err != nil {
				return false, err
			}
			s.line(archiveBar(x))
			return x.GetState() != "queued" && x.GetState() != "uploading", nil
		})
		s.line("")
		if err != nil {
			return &hinted{err, "ashlar snapshot archive " + c.Snapshot + " --wait looks again"}
		}
	}
	if err := s.show(viewArchive(x), func(w io.Writer) { c.print(w, x) }); err != nil {
		return err
	}
	if x.GetState() == "failed" {
		return &hinted{fmt.Errorf("snapshot %s is not archived: %s", c.Snapshot, x.GetReason()), "asked again, the upload goes on where it ended"}
	}
	return nil
}

func (c *snapshotArchive) print(w io.Writer, x *api.ArchiveStatus) {
	name := x.GetDisk() + "@" + x.GetSnapshot()
	switch x.GetState() {
	case "archived":
		how := "whole"
		if x.GetBase() != "" {
			how = "against " + x.GetBase()
		}
		fmt.Fprintf(w, "%s is archived (%s): %s stored, %s\n", name, how, size(x.GetStoredBytes()), x.GetManifest())
	case "queued", "uploading":
		fmt.Fprintf(w, "%s is %s; ashlar snapshot archive %s --wait follows it\n", name, x.GetState(), name)
		if x.GetWorkers() == 0 {
			fmt.Fprintln(w, "no snapshotd is running that would do it: start one")
		}
	case "failed":
	default:
		fmt.Fprintf(w, "%s is not on its way into the archive\n", name)
	}
}

// line writes over the line before, on a terminal.
func (s *session) line(text string) {
	if f, ok := s.Err.(*os.File); ok && s.flags.Output != "json" && isTerminal(f) {
		io.WriteString(s.Err, "\r\x1b[K"+text) // the terminal's loss
	}
}

// archiveBar is one line: how much is uploaded, how fast, how long it will take yet.
func archiveBar(x *api.ArchiveStatus) string {
	switch {
	case x.GetState() == "queued" && x.GetWorkers() == 0:
		return "no snapshotd is running"
	case x.GetState() == "queued":
		return "waiting for a snapshotd"
	case x.GetTotalBytes() == 0:
		return "looking at what the snapshot holds"
	}
	return progressBar(x.GetDoneBytes(), x.GetTotalBytes(), x.GetBytesPerSecond())
}

func progressBar(done, all, perSecond uint64) string {
	full := int(barWidth * done / max(all, 1))
	text := fmt.Sprintf("[%s%s] %3d%%  %s of %s", strings.Repeat("#", full), strings.Repeat("-", barWidth-full), 100*done/max(all, 1), size(done), size(all))
	if perSecond > 0 {
		left := time.Duration(float64(all-min(done, all)) / float64(perSecond) * float64(time.Second))
		text += fmt.Sprintf("  %s/s  %s left", size(perSecond), left.Round(time.Second))
	}
	return text
}

// task has a snapshotd do something and waits for it.
func (s *session) task(ctx context.Context, q *api.ArchiveTaskRequest) (rep *api.ArchiveTaskReply, err error) {
	q.TaskId = client.NewTaskID()
	began := s.Clock.Now()
	var failed error // what the task ended with: asked again it would say so again
	err = s.again(ctx, func(ctx context.Context, cl Cluster) (done bool, err error) {
		rep, err = cl.ArchiveTask(ctx, q)
		if err != nil && rep.GetDone() {
			failed, err = err, nil
		}
		if err == nil && rep.GetTotalBytes() > 0 {
			perSecond := float64(rep.GetDoneBytes()) / max((s.Clock.Now()-began).Seconds(), 0.1)
			s.line(progressBar(rep.GetDoneBytes(), rep.GetTotalBytes(), uint64(perSecond)))
		}
		return rep.GetDone(), err
	})
	s.line("")
	switch {
	case err != nil:
		return rep, err
	case errors.Is(failed, errs.ErrUnavailable):
		return rep, &hinted{failed, "the cluster runs, and does not reach its archive; ashlar status says where that is"}
	}
	return rep, failed
}

type snapshotVerify struct {
	Snapshot string `arg:"" help:"DISK@NAME, also of a disk or snapshot that is not here any more, by ids." placeholder:"DISK@NAME"`
}

// Help is printed by kong below the summary.
func (c *snapshotVerify) Help() string {
	return `A snapshotd reads every object that the archived snapshot needs and checks every block of it, and that
nothing is missing. Nothing is restored. The exit code is 1 if something is wrong.`
}

// verifyView is a verification in JSON.
type verifyView struct {
	Snapshot string `json:"snapshot"`
	Objects  uint64 `json:"objects"`
	Bytes    uint64 `json:"bytes"`
	Locked   string `json:"lockedUntil,omitempty"`
	Unlocked uint64 `json:"unlockedObjects,omitempty"` // that it needs, and that are not locked for as long
}

// Run is called by kong.
func (c *snapshotVerify) Run(ctx context.Context, s *session) error {
	diskID, snapshotID, err := s.archivedIDs(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_VERIFY, DiskId: diskID, SnapshotId: snapshotID})
	if errors.Is(err, errs.ErrNotFound) {
		return &hinted{fmt.Errorf("%s is not whole in the archive, or not there: %w", c.Snapshot, err), "ashlar archive list shows what is there"}
	}
	if err != nil {
		return err
	}
	v := verifyView{c.Snapshot, rep.GetDoneObjects(), rep.GetDoneBytes(), rfc3339(rep.GetLockedUntilUnixMs()), rep.GetUnlockedObjects()}
	return s.show(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s is whole: %d objects, %s, every block is right\n", c.Snapshot, v.Objects, size(v.Bytes))
		if v.Locked != "" {
			fmt.Fprintf(w, "it is locked until %s: nobody can delete or change it before\n", v.Locked)
		}
		if v.Unlocked > 0 {
			fmt.Fprintf(w, "but %d objects that it needs are not locked for as long: somebody has put or unlocked them by other means\n", v.Unlocked)
		}
	})
}

// archivedIDs finds the ids of an archived snapshot: in the cluster, else in the archive.
func (s *session) archivedIDs(ctx context.Context, text string) (disk, snapshot string, err error) {
	disk, name, err := s.snapshotOf(ctx, text)
	if err != nil {
		return "", "", err
	}
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, _, err := cl.Snapshots(ctx, disk)
		for _, x := range all {
			if x.Name == name || x.SnapshotId == name {
				disk, snapshot = x.DiskId, x.SnapshotId
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, errs.ErrNotFound) || snapshot != "" {
		return disk, snapshot, err
	}
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_LIST})
	if err != nil {
		return "", "", err
	}
	for _, e := range rep.GetEntries() {
		if (e.GetDisk() == disk || e.GetDiskId() == disk) && (e.GetSnapshot() == name || e.GetSnapshotId() == name) {
			if snapshot != "" {
				return "", "", &hinted{fmt.Errorf("%s may be several snapshots: %w", text, errs.ErrConflict), "name it by ids; ashlar archive list shows them"}
			}
			snapshot, diskID := e.GetSnapshotId(), e.GetDiskId()
			return diskID, snapshot, nil
		}
	}
	return "", "", &hinted{fmt.Errorf("snapshot %s: %w", text, errs.ErrNotFound), "ashlar archive list shows what is there"}
}

type archiveList struct {
	Disk string `arg:"" optional:"" help:"Name or id of a disk; all if not given."`
}

// Help is printed by kong below the summary.
func (c *archiveList) Help() string {
	return `STORED is what a snapshot's own upload put there, whole or changes only; NEEDS what is read to restore it. Each stands by
itself: whichever is deleted, the others stay whole. -o json shows manifests, by which any cluster that reaches this archive
makes a disk: ashlar disk create NAME --from-archive MANIFEST.`
}

// archiveEntryView is what is in the archive, in JSON.
type archiveEntryView struct {
	Disk        string `json:"disk"`
	DiskID      string `json:"diskId"`
	Snapshot    string `json:"snapshot"`
	SnapshotID  string `json:"snapshotId"`
	Created     string `json:"created,omitempty"`
	SizeBytes   uint64 `json:"sizeBytes"`
	StoredBytes uint64 `json:"storedBytes"` // of its own upload
	NeedsBytes  uint64 `json:"needsBytes"`  // of all objects it needs
	Base        string `json:"base,omitempty"`
	Manifest    string `json:"manifest"`
	ClusterID   string `json:"clusterId,omitempty"`
	Note        string `json:"note,omitempty"`
	Locked      string `json:"lockedUntil,omitempty"` // nobody can delete it before
}

// Run is called by kong.
func (c *archiveList) Run(ctx context.Context, s *session) error {
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_LIST})
	if err != nil {
		return err
	}
	views, locks := []archiveEntryView{}, false
	for _, e := range rep.GetEntries() {
		if c.Disk != "" && e.GetDisk() != c.Disk && e.GetDiskId() != c.Disk {
			continue
		}
		views = append(views, archiveEntryView{e.GetDisk(), e.GetDiskId(), e.GetSnapshot(), e.GetSnapshotId(), rfc3339(e.GetCreatedUnixMs()), e.GetSizeBytes(),
			e.GetStoredBytes(), e.GetNeedsBytes(), e.GetBase(), e.GetManifest(), e.GetClusterId(), e.GetNote(), rfc3339(e.GetLockedUntilUnixMs())})
		locks = locks || e.GetLockedUntilUnixMs() != 0
	}
	return s.show(views, func(w io.Writer) {
		if len(views) == 0 {
			fmt.Fprintf(w, "nothing there in %s; put something in: ashlar snapshot archive DISK@NAME\n", rep.GetPlace())
			return
		}
		var rows [][]string
		heads := []string{"DISK", "SNAPSHOT", "TAKEN", "SIZE", "STORED", "NEEDS"}
		if locks {
			heads = append(heads, "LOCKED UNTIL")
		}
		for _, v := range views {
			how := "whole"
			if v.Base != "" {
				how = "changes"
			}
			if v.Note != "" {
				rows = append(rows, []string{v.Manifest, "", "", "", "", v.Note})
				continue
			}
			rows = append(rows, []string{v.Disk, v.Snapshot, v.Created, size(v.SizeBytes), size(v.StoredBytes) + " " + how, size(v.NeedsBytes), v.Locked}[:len(heads)])
		}
		table(w, heads, rows)
		if rep.GetMore() {
			fmt.Fprintln(w, "there are more")
		}
	})
}

type archiveUsage struct{}

// usageView is what an archive takes, in JSON.
type usageView struct {
	Place     string `json:"place"`
	Snapshots uint64 `json:"snapshots"`
	Objects   uint64 `json:"objects"`
	Bytes     uint64 `json:"bytes"`
	DiskBytes uint64 `json:"diskBytes"` // sizes of the disks, one for each snapshot
}

// Run is called by kong.
func (c *archiveUsage) Run(ctx context.Context, s *session) error {
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_USAGE})
	if err != nil {
		return err
	}
	v := usageView{rep.GetPlace(), rep.GetTotalObjects(), rep.GetDoneObjects(), rep.GetDoneBytes(), rep.GetTotalBytes()}
	return s.show(v, func(w io.Writer) {
		need := fmt.Sprintf("%d snapshots need", v.Snapshots)
		if v.Snapshots == 1 {
			need = "1 snapshot needs"
		}
		fmt.Fprintf(w, "%s: %s %d objects, %s\n", v.Place, need, v.Objects, size(v.Bytes))
	})
}

type archiveDelete struct {
	Snapshot string `arg:"" help:"DISK@NAME; ids for what is not here any more." placeholder:"DISK@NAME"`
}

// Help is printed by kong below the summary.
func (c *archiveDelete) Help() string {
	return `Only what is in the archive goes; the snapshot on the cluster, if it is there still, stays. Others in the archive stay whole,
also those that were archived against this one. Refused, and nothing is done, while somebody restores from it or uploads
against it, and while it is locked (object lock): the answer says until when.`
}

// Run is called by kong.
func (c *archiveDelete) Run(ctx context.Context, s *session) error {
	disk, name, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	diskID, snapshotID, err := s.archivedIDs(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	q := &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_DELETE, DiskId: diskID, SnapshotId: snapshotID, DryRun: true}
	if _, err = s.task(ctx, q); err != nil { // what is refused is refused before anything is done
		return err
	}
	// The cluster forgets it first: nothing is uploaded against it from now on.
	if err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		_, err := cl.ArchiveSnapshot(ctx, disk, name, true)
		return err
	}); err != nil && !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	q.DryRun = false
	if _, err := s.task(ctx, q); err != nil {
		return err
	}
	return s.show(struct {
		Snapshot string `json:"snapshot"`
	}{c.Snapshot}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is not in the archive any more; ashlar archive gc gives its space back\n", c.Snapshot)
	})
}

type archiveGc struct {
	Grace  config.Duration `help:"Only what was deleted, or given up, so long ago goes." default:"24h" placeholder:"24h"`
	DryRun bool            `help:"Only say what would go."`
}

// graceMin leaves time to whoever was just about to finish an upload.
const graceMin = time.Minute

// Help is printed by kong below the summary.
func (c *archiveGc) Help() string {
	return `Deletes from the archive the objects of deleted snapshots that no other one needs, and those of uploads that were
given up. What somebody restores from, or uploads against, stays, and what is locked (object lock): a later
gc takes that. It is safe beside all of it, and when it is killed the next one goes on.`
}

// gcView is what was reclaimed, in JSON.
type gcView struct {
	DryRun  bool   `json:"dryRun"`
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`

	LockedObjects uint64 `json:"lockedObjects,omitempty"` // that would have gone
	LockedBytes   uint64 `json:"lockedBytes,omitempty"`
	LockedUntil   string `json:"lockedUntil,omitempty"` // the last of them
}

// Run is called by kong.
func (c *archiveGc) Run(ctx context.Context, s *session) error {
	if c.Grace.Std() < graceMin && !c.DryRun {
		return &hinted{fmt.Errorf("grace of %s: %w", c.Grace.Std(), errs.ErrInvalid), "an upload or a restore may just be beginning to rely on it: give at least " + graceMin.String()}
	}
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_GC, DryRun: c.DryRun, GraceSeconds: uint32(c.Grace.Std() / time.Second)})
	if err != nil {
		return err
	}
	v := gcView{c.DryRun, rep.GetDoneObjects(), rep.GetDoneBytes(), rep.GetLockedObjects(), rep.GetLockedBytes(), rfc3339(rep.GetLockedUntilUnixMs())}
	return s.show(v, func(w io.Writer) {
		what := "reclaimed"
		if c.DryRun {
			what = "would reclaim"
		}
		fmt.Fprintf(w, "%s %d objects, %s\n", what, v.Objects, size(v.Bytes))
		if v.LockedObjects > 0 {
			fmt.Fprintf(w, "%d objects, %s, are locked and stay, the last until %s; a later gc takes them\n", v.LockedObjects, size(v.LockedBytes), v.LockedUntil)
		}
	})
}
