package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

type snapshotDiff struct {
	Snapshot     string `arg:"" help:"The older side, DISK@NAME or its id." placeholder:"DISK@NAME"`
	To           string `arg:"" optional:"" help:"The newer side: the name or id of another snapshot of the disk. The disk as it is, if not given."`
	Certificates string `name:"tls-certificates" help:"Folder with ca-cert.pem, client-cert.pem and client-key.pem for NBD over TLS; pki/nbd in the cluster's folder if not given." type:"path" placeholder:"DIR"`
}

// diffView is a comparison in JSON.
type diffView struct {
	Disk         string       `json:"disk"`
	DiskID       string       `json:"diskId"`
	From         string       `json:"from"`
	To           string       `json:"to,omitempty"` // of a snapshot; else the disk
	SizeBytes    uint64       `json:"sizeBytes"`
	ChangedBytes uint64       `json:"changedBytes"`
	Extents      []extentView `json:"extents"`
}

type extentView struct {
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length"`
	Zero   bool   `json:"zero"` // reads as zeros now
}

// Help is shown by --help.
func (c *snapshotDiff) Help() string {
	return `Lists the ranges of bytes in which a disk, or a later snapshot of it, differs from a snapshot. What
is not listed is the same, byte for byte. Backup tools get the same through NBD, from the
meta context ashlar:changed:SNAPSHOT of the exports DISK and DISK@SNAPSHOT: bit 0 of a state says
changed, bit 1 beside it that the range reads as zeros now.

A disk that is being written changes under the comparison: to compare with one moment, take a
snapshot and name it as the newer side.`
}

// Run is called by kong.
func (c *snapshotDiff) Run(ctx context.Context, s *session) error {
	disk, since, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	to := strings.TrimPrefix(c.To, disk+"@")
	if strings.Contains(to, "@") {
		return &hinted{fmt.Errorf("%s is of another disk: %w", c.To, errs.ErrInvalid), "name a snapshot of disk " + disk}
	}
	var v diffView
	var uris []string
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.DiskEndpoints(ctx, disk)
		if err != nil {
			return explain(err, disk)
		}
		v = diffView{Disk: r.Name, DiskID: r.DiskId, From: since, To: to, Extents: []extentView{}}
		uris = reachable(viewEndpoints(r), to, c.certificates(s.flags.Data))
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.compare(ctx, s, uris, &v); err != nil {
		return err
	}
	return s.show(v, func(w io.Writer) { printDiff(w, &v) })
}

// compare asks one host after the other until one can be reached.
func (c *snapshotDiff) compare(ctx context.Context, s *session, uris []string, v *diffView) error {
	err := error(&hinted{fmt.Errorf("no blockd can be reached: %w", errs.ErrUnavailable), "see ashlar status, and ashlar disk nbd " + v.Disk})
	for _, uri := range uris {
		v.Extents, v.ChangedBytes = v.Extents[:0], 0
		err = s.Changes(ctx, uri, v.From, func(x client.Change) error {
			v.Extents = append(v.Extents, extentView{x.Offset, x.Length, x.Zero})
			v.ChangedBytes += x.Length
			return nil
		})
		if errors.Is(err, errs.ErrNotFound) {
			return &hinted{err, "ashlar snapshot list " + v.Disk + " shows what there is"}
		}
		if !errors.Is(err, errs.ErrUnavailable) {
			break
		}
	}
	return err
}

func (c *snapshotDiff) certificates(data string) string {
	if dir := filepath.Join(data, "pki", "nbd"); c.Certificates == "" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	return c.Certificates
}

// reachable lists addresses of a disk, or of a snapshot of it, the best first: sockets on this machine, then hosts that are up.
func reachable(v nbdView, snapshot, certificates string) (uris []string) {
	for _, unix := range []bool{true, false} {
		for _, e := range v.All {
			text := e.TCP
			if unix {
				text = e.Unix
			}
			u, err := url.Parse(text)
			if err != nil || text == "" || !e.Up {
				continue
			}
			q := u.Query()
			if unix {
				if _, err := os.Stat(q.Get("socket")); err != nil {
					continue // on another machine
				}
			}
			if snapshot != "" {
				u.Path += "@" + snapshot
			}
			if strings.HasPrefix(u.Scheme, "nbds") && certificates != "" {
				q.Set("tls-certificates", certificates)
				u.RawQuery = q.Encode()
			}
			uris = append(uris, u.String())
		}
	}
	return uris
}

func printDiff(w io.Writer, v *diffView) {
	what := "disk " + v.Disk
	if v.To != "" {
		what = "snapshot " + v.To + " of disk " + v.Disk
	}
	if len(v.Extents) == 0 {
		fmt.Fprintf(w, "%s is as %s was\n", what, v.From)
		return
	}
	var rows [][]string
	for _, x := range v.Extents {
		now := "data"
		if x.Zero {
			now = "zeros"
		}
		rows = append(rows, []string{fmt.Sprint(x.Offset), fmt.Sprint(x.Length), size(x.Length), now})
	}
	table(w, []string{"OFFSET", "BYTES", "SIZE", "NOW"}, rows)
	ranges := "1 range"
	if n := len(v.Extents); n > 1 {
		ranges = fmt.Sprintf("%d ranges", n)
	}
	fmt.Fprintf(w, "%s differs from %s in %s, %s\n", what, v.From, size(v.ChangedBytes), ranges)
}

// changes is Surroundings.Changes for real.
func changes(ctx context.Context, uri, since string, each func(client.Change) error) error {
	return client.Changes(ctx, uri, since, nbd.ClientOptions{}, each)
}
