package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// hydrationView is how far a disk is brought in from its archive, in JSON.
type hydrationView struct {
	Manifest       string `json:"manifest"`
	Segments       uint32 `json:"segments"`
	Left           uint32 `json:"left"`
	Percent        uint32 `json:"percent"`
	BytesPerSecond uint64 `json:"bytesPerSecond,omitempty"` // at most; absent: the host's default
	Problem        string `json:"problem,omitempty"`
}

// hydrated is how much of a disk is here, in whole percent; 100 only when all is.
func hydrated(h *api.Hydration) uint32 {
	if h.GetSegments() == 0 {
		return 0
	}
	return uint32(uint64(h.Segments-min(h.Left, h.Segments)) * 100 / uint64(h.Segments))
}

func viewHydration(h *api.Hydration) *hydrationView {
	if h == nil {
		return nil
	}
	return &hydrationView{Manifest: h.Manifest, Segments: h.Segments, Left: h.Left, Percent: hydrated(h), BytesPerSecond: h.BytesPerSecond, Problem: h.Problem}
}

// hydrationRows tell of it in ashlar disk show: of the disk's own, or of what it reads of an ancestor.
func hydrationRows(d *api.Disk) (rows [][2]string) {
	h, of := d.Hydration, ""
	if h == nil {
		h, of = d.GetOrigin().GetHydration(), " of disk "+d.GetOrigin().GetHydratedDisk()
	}
	if h == nil {
		return nil
	}
	rate := ""
	if h.BytesPerSecond > 0 {
		rate = ", at most " + size(h.BytesPerSecond) + "/s"
	}
	rows = append(rows, [2]string{"brought in", fmt.Sprintf("%d %%; %d of %d segments%s still lie in the archive only%s", hydrated(h), h.Left, h.Segments, of, rate)},
		[2]string{"archived as", h.Manifest})
	if h.Problem != "" {
		rows = append(rows, [2]string{"archive", h.Problem})
	}
	return rows
}

// remark is the last column of ashlar disk list.
func remark(d *api.Disk) string {
	var parts []string
	if h := d.Hydration; h != nil {
		parts = append(parts, fmt.Sprintf("%d %% brought in from the archive", hydrated(h)))
		if h.Problem != "" {
			parts = append(parts, h.Problem)
		}
	}
	if h := d.GetOrigin().GetHydration(); h != nil {
		parts = append(parts, "reads what lies in the archive")
		if h.Problem != "" {
			parts = append(parts, h.Problem)
		}
	}
	parts = append(parts, flatteningRemark(d.Flattening)...)
	if d.Problem != "" {
		parts = append(parts, d.Problem)
	}
	return strings.Join(parts, "; ")
}

// rateFlag is how many bytes a second are brought in.
type rateFlag struct{ value *uint64 }

// UnmarshalText reads a size, with "/s" behind it or not, or "default".
func (r *rateFlag) UnmarshalText(text []byte) error {
	var n config.ByteSize
	var err error
	if string(text) != "default" {
		n, err = config.ParseByteSize(strings.TrimSuffix(string(text), "/s"))
		if err == nil && n < 1<<20 {
			err = fmt.Errorf("rate %s: want 1MiB or more, or default: %w", n, errs.ErrInvalid)
		}
	}
	if err == nil {
		r.value = (*uint64)(&n)
	}
	return err
}

func (r *rateFlag) rate() uint64 {
	if r.value == nil {
		return 0
	}
	return *r.value
}

// restore makes the disk of an archived snapshot.
func (c *diskCreate) restore(ctx context.Context, cl Cluster, limits cluster.QoS) (*api.Disk, error) {
	d, err := cl.RestoreDisk(ctx, client.Restore{Name: c.Name, Manifest: c.Archive, SizeBytes: uint64(c.Size), QoS: limits, Rate: c.Hydrate.rate()})
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return nil, explainManifest(err)
	case errors.Is(err, errs.ErrInvalid) && c.Size != 0:
		return nil, &hinted{err, "a disk cannot be smaller than what was archived; leave --size out for the same size"}
	}
	return d, err
}

// archivedPatience bounds the look into the archive for what is not here.
const archivedPatience = 10 * time.Second

// archived says of a snapshot that is not here, or whose disk is not, how to make a disk of what the archive has of it.
func (c *diskCreate) archived(ctx context.Context, s *session, notHere error) error {
	ctx, cancel := context.WithTimeout(ctx, archivedPatience)
	defer cancel()
	disk, snapshot, err := s.archivedIDs(ctx, c.From)
	if err != nil {
		return notHere // nor there, or nobody can look
	}
	return &hinted{fmt.Errorf("%w, and it is in the archive", notHere),
		fmt.Sprintf("ashlar disk create %s --from-archive manifests/%s/%s", c.Name, disk, snapshot)}
}

// setHydrate changes how fast a disk is brought in; done: there is nothing else to change.
func (c *diskSet) setHydrate(ctx context.Context, s *session, cl Cluster, x cluster.QoSChange) (done bool, err error) {
	d, err := cl.SetHydrate(ctx, c.Disk, c.Hydrate.rate())
	switch {
	case errors.Is(err, errs.ErrConflict):
		return true, &hinted{err, "ashlar disk show " + c.Disk + " tells how far it is"}
	case err != nil:
		return true, explain(err, c.Disk)
	case x != (cluster.QoSChange{}):
		return false, nil
	}
	return true, s.show(viewDisk(d), func(w io.Writer) {
		rate := "as fast as its host does by default"
		if c.Hydrate.rate() > 0 {
			rate = "at most " + size(c.Hydrate.rate()) + "/s"
		}
		fmt.Fprintf(w, "disk %s: brought in %s\n", d.Name, rate)
	})
}
