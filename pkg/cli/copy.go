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
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

type snapshotCopy struct {
	Snapshot    string `arg:"" help:"DISK@NAME of an archived snapshot; ids for what is not here any more." placeholder:"DISK@NAME"`
	To          string `required:"" help:"The other archive: s3://HOST:PORT/BUCKET[/PREFIX], over TLS, or file:///FOLDER at the snapshotd that copies." placeholder:"URL"`
	Credentials string `help:"File with the lines access_key = … and secret_key = … for the bucket, readable by you only." placeholder:"FILE" type:"existingfile"`
	CA          string `name:"ca" help:"File of certificates to trust for it instead of the system's." placeholder:"FILE" type:"existingfile"`
	Region      string `help:"What requests to it are signed for." placeholder:"REGION"`

	Lock     config.Duration `help:"Lock the copy for so long, in a bucket with object lock: nobody can delete or change it before." placeholder:"30d"`
	LockMode string          `help:"governance, or compliance: that lock is taken away by nobody." enum:"governance,compliance" default:"governance" placeholder:"governance"`
}

// Help is printed by kong below the summary.
func (c *snapshotCopy) Help() string {
	return `A snapshotd copies what the archived snapshot needs from this cluster's archive to another one: every object is read
whole and checked on the way, what is there already is not copied again, the manifest comes last. Killed in the middle,
or asked again, it goes on where it ended. The snapshot stays in the archive meanwhile, whoever deletes it.

A cluster that has that archive for its own (and the key, if it is encrypted) lists and verifies the snapshot, and makes disks of it:
ashlar disk create NAME --from-archive MANIFEST. The credentials are sent to the snapshotd, kept in memory and
forgotten after the copy.`
}

// copyView is a copy in JSON.
type copyView struct {
	Snapshot string `json:"snapshot"`
	To       string `json:"to"`
	Manifest string `json:"manifest"`
	Objects  uint64 `json:"objects"`
	Found    uint64 `json:"found"` // that were there already
	Bytes    uint64 `json:"bytes"`
	Locked   string `json:"lockedUntil,omitempty"`
}

// target reads the files that the flags name.
func (c *snapshotCopy) target() (*api.CopyTarget, error) {
	cfg, err := objectstore.ParsePlace(c.To)
	if err != nil {
		return nil, err
	}
	t := &api.CopyTarget{Url: c.To, Region: c.Region}
	switch {
	case c.Lock > 0 && (cfg.Directory != "" || c.Lock.Std() < time.Minute):
		return nil, &hinted{fmt.Errorf("--lock %s: only a bucket of S3 can lock what is in it, for a minute or longer: %w", c.Lock, errs.ErrInvalid), "leave --lock out for a folder"}
	case c.Lock > 0:
		t.LockMs, t.LockMode = uint64(c.Lock.Std().Milliseconds()), c.LockMode
	case cfg.Directory != "":
		return t, nil
	}
	if c.Credentials == "" {
		return nil, &hinted{fmt.Errorf("%s needs credentials: %w", c.To, errs.ErrInvalid), "name a file with the lines access_key = … and secret_key = …: --credentials FILE"}
	}
	k, err := objectstore.ReadCredentials(c.Credentials)
	if err == nil && c.CA != "" {
		t.Ca, err = os.ReadFile(c.CA)
	}
	t.AccessKey, t.SecretKey = k.Access, k.Secret
	return t, err
}

// Run is called by kong.
func (c *snapshotCopy) Run(ctx context.Context, s *session) error {
	to, err := c.target()
	if err != nil {
		return err
	}
	diskID, snapshotID, err := s.archivedIDs(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	rep, err := s.task(ctx, &api.ArchiveTaskRequest{Kind: api.ArchiveTaskKind_ARCHIVE_TASK_KIND_COPY, DiskId: diskID, SnapshotId: snapshotID, To: to})
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return &hinted{fmt.Errorf("%s is not whole in the archive, or not there: %w", c.Snapshot, err), "ashlar snapshot archive " + c.Snapshot + " --wait brings it there first"}
	case errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout):
		return &hinted{err, "asked again, the copy goes on where it ended"}
	case err != nil:
		return err
	}
	v := copyView{c.Snapshot, strings.TrimSuffix(c.To, "/"), "manifests/" + diskID + "/" + snapshotID, rep.GetDoneObjects(), rep.GetFoundObjects(), rep.GetDoneBytes(), rfc3339(rep.GetLockedUntilUnixMs())}
	if c.Lock > 0 && v.Locked == "" {
		return &hinted{fmt.Errorf("%s is copied, and not locked: the snapshotd is of an earlier version: %w", c.Snapshot, errs.ErrUnavailable), "update it and ask again: what is there is not copied again"}
	}
	return s.show(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s is in %s: %d objects, %s, of which %d were there already\n  on a cluster that has that archive: ashlar disk create NAME --from-archive %s\n",
			v.Snapshot, v.To, v.Objects, size(v.Bytes), v.Found, v.Manifest)
		if v.Locked != "" {
			fmt.Fprintf(w, "  locked until %s, with everything it needs\n", v.Locked)
		}
	})
}
