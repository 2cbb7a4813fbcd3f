package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

type metadBackup struct {
	File string `arg:"" help:"File to write; one that is there is replaced whole." type:"path"`
}

// Help is the long form.
func (metadBackup) Help() string {
	return `Writes what metad knows: disks, hosts, stores, placement. It is small, and it has no bytes of disks
and no keys. A cluster whose metads are all lost begins again from it and from what its stores have:

  metad --config metad.yaml --restore FILE    on one machine, into an empty data folder
  ashlar metad rebuild                        which stores have told what they have
  ashlar metad rebuild --finish               when all have`
}

// Run is called by kong.
func (c *metadBackup) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		file, err := m.Backup(ctx)
		if err != nil {
			return err
		}
		b, err := cluster.DecodeBackup(file)
		if err != nil {
			return err
		}
		if err := config.WriteFile(c.File, file, 0o600); err != nil {
			return err
		}
		view := struct {
			File    string `json:"file"`
			Bytes   int    `json:"bytes"`
			Cluster string `json:"cluster"`
			Member  string `json:"member"`
			Taken   string `json:"taken"`
		}{c.File, len(file), b.Cluster, b.Member, rfc3339(b.Taken.UnixMilli())}
		return s.show(view, func(w io.Writer) {
			fmt.Fprintf(w, "%s has the state of cluster %s, %s\n", filepath.Base(c.File), b.Cluster, size(uint64(len(file))))
		})
	})
}

type metadRebuild struct {
	Finish  bool     `help:"All stores there are have told what they have: grant again. Stores that came after the backup and have not told are not known here; wait for all hosts."`
	Without []string `help:"With --finish: go on without this store, which is lost; may be given again." placeholder:"STORE"`
}

// rebuildView is how far a rebuilding is, in JSON.
type rebuildView struct {
	Rebuilding bool     `json:"rebuilding"`
	Told       []string `json:"told"`
	Waiting    []string `json:"waiting"`
	Found      []string `json:"found"`
	Gone       []string `json:"gone"`
}

// Run is called by kong.
func (c *metadRebuild) Run(ctx context.Context, s *session) error {
	if len(c.Without) > 0 && !c.Finish {
		return fmt.Errorf("--without is for --finish: %w", errs.ErrInvalid)
	}
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		if !c.Finish {
			r, err := m.RebuildStatus(ctx)
			if err != nil {
				return err
			}
			return s.show(viewRebuild(r), func(w io.Writer) { tellRebuild(w, r) })
		}
		r, err := m.FinishRebuild(ctx, c.Without)
		if errors.Is(err, errs.ErrConflict) {
			return &hinted{err, "start its host; if its disk is gone for good, name it with --without"}
		}
		if err != nil {
			return err
		}
		return s.show(viewRebuild(r), func(w io.Writer) { tellRebuild(w, r) })
	})
}

func viewRebuild(r *api.RebuildStatusReply) rebuildView {
	some := func(x []string) []string { return append([]string{}, x...) }
	return rebuildView{r.Rebuilding, some(r.Told), some(r.Waiting), some(r.Found), some(r.Gone)}
}

func tellRebuild(w io.Writer, r *api.RebuildStatusReply) {
	switch {
	case r.Rebuilding:
		fmt.Fprintf(w, "rebuilding: nothing is granted or deleted; %d stores have told what they have\n", len(r.Told))
		for _, x := range r.Waiting {
			fmt.Fprintf(w, "  waiting for %s\n", x)
		}
		if len(r.Waiting) == 0 {
			fmt.Fprintln(w, "  if these are all stores there are: ashlar metad rebuild --finish")
		}
		return
	case len(r.Told) == 0:
		fmt.Fprintln(w, "not rebuilding: this state was never restored")
		return
	}
	fmt.Fprintf(w, "rebuilt from %d stores\n", len(r.Told))
	if len(r.Found) > 0 {
		fmt.Fprintf(w, "  disks that were not in the backup: %s\n", strings.Join(r.Found, ", "))
	}
	if len(r.Gone) > 0 {
		fmt.Fprintf(w, "  disks that were deleted since the backup: %s\n", strings.Join(r.Gone, ", "))
	}
}
