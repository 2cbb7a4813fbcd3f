package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// Archiver is metad as a snapshotd sees it. Safe for concurrent use.
type Archiver struct{ p *pool }

// NewArchiver makes a client. It connects when first used.
func NewArchiver(o Options) (*Archiver, error) {
	p, err := newPool(o)
	if err != nil {
		return nil, err
	}
	return &Archiver{p: p}, nil
}

// Close ends the connections.
func (a *Archiver) Close() error { return a.p.close() }

// Work says how far the worker is and gives what there is to do. It is called again and again, and not tried twice.
func (a *Archiver) Work(ctx context.Context, q *api.ArchiveWorkRequest) (rep *api.ArchiveWorkReply, err error) {
	err = a.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.archiver.Work(ctx, q)
		return err
	})
	return rep, err
}

// EndUpload says how an upload ended. ErrStaleEpoch: another has the lease.
func (a *Archiver) EndUpload(ctx context.Context, q *api.EndUploadRequest) error {
	return a.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.archiver.EndUpload(ctx, q)
		return err
	})
}

// Holds gives what must not be reclaimed.
func (a *Archiver) Holds(ctx context.Context) (rep *api.ArchiveHoldsReply, err error) {
	err = a.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.archiver.ArchiveHolds(ctx, &api.ArchiveHoldsRequest{})
		return err
	})
	return rep, err
}

// TakeBackup gives metad's state as of now, in the form of a file, whole, and the entry of its log that is in it.
func (a *Archiver) TakeBackup(ctx context.Context) (file []byte, entry uint64, err error) {
	err = a.p.call(ctx, retryUnknown, func(ctx context.Context, conn *target) error {
		file = nil
		stream, err := api.NewBackupsClient(conn.conn).TakeBackup(ctx, &api.TakeBackupRequest{})
		if err != nil {
			return err
		}
		for {
			part, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if entry, file = part.GetEntry(), append(file, part.GetData()...); len(file) > cluster.BackupBytesMax {
				return fmt.Errorf("backup of over %d bytes: %w", cluster.BackupBytesMax, errs.ErrInvalid)
			}
		}
	})
	if err == nil {
		_, err = cluster.DecodeBackup(file)
	}
	return file, entry, err
}

// ArchiveSnapshot has a snapshot archived, or gives that up. It returns when this is committed.
func (c *Cluster) ArchiveSnapshot(ctx context.Context, disk, snapshot string, cancel bool) (rep *api.ArchiveStatus, err error) {
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.archives.ArchiveSnapshot(ctx, &api.ArchiveSnapshotRequest{Disk: disk, Snapshot: snapshot, Cancel: cancel})
		return err
	})
	return rep, err
}

// Archive tells how far a snapshot is on its way into the archive.
func (c *Cluster) Archive(ctx context.Context, disk, snapshot string) (rep *api.ArchiveStatus, err error) {
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.archives.GetArchive(ctx, &api.GetArchiveRequest{Disk: disk, Snapshot: snapshot})
		return err
	})
	return rep, err
}

// NewTaskID names a task of the archive.
func NewTaskID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ArchiveTask has a snapshotd do something, or tells how far it is. What it failed with is the error.
func (c *Cluster) ArchiveTask(ctx context.Context, q *api.ArchiveTaskRequest) (rep *api.ArchiveTaskReply, err error) {
	err = c.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.archives.RunArchiveTask(ctx, q)
		return err
	})
	if err == nil && rep.GetDone() && rep.GetFailed() != "" {
		err = errs.FromCode(errs.Code(rep.GetFailedCode()), rep.GetFailed())
	}
	return rep, err
}

// RenewCertificate has a request (PKCS#10, DER) signed for the identity that this worker has.
func (a *Archiver) RenewCertificate(ctx context.Context, csr []byte) ([]byte, error) {
	return a.p.renew(ctx, csr)
}

// TrustedCAs are those of the cluster; see Blockd.TrustedCAs.
func (a *Archiver) TrustedCAs(ctx context.Context) ([]byte, error) { return a.p.trust(ctx) }
