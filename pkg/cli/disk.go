package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

type diskCommands struct {
	Create     diskCreate     `cmd:"" help:"Make a disk, empty or as a snapshot or an image is. It costs nothing until it is written."`
	List       diskList       `cmd:"" help:"List all disks."`
	Show       diskShow       `cmd:"" help:"Show one disk."`
	Resize     diskResize     `cmd:"" help:"Grow a disk. Shrinking is refused."`
	Set        diskSet        `cmd:"" help:"Limit how fast a disk may be, while it is in use too, or protect it against deletion."`
	Rollback   diskRollback   `cmd:"" help:"Make a disk what it was at one of its snapshots. What it is now is kept by another snapshot."`
	Flatten    diskFlatten    `cmd:"" help:"Make a clone stand alone: copy what it still reads of other disks, while it is in use."`
	Delete     diskDelete     `cmd:"" help:"Delete a disk and everything on it. Clones of it stay as they are; of its snapshots say what is to become."`
	Move       diskMove       `cmd:"" help:"Let another host own a disk: it is handed over in order, and its clients connect again."`
	NBD        diskNBD        `cmd:"" name:"nbd" help:"Print where to attach a disk. Every blockd serves every disk; the first is the best."`
	Lost       diskLost       `cmd:"" help:"List the bytes of disks that cannot be read any more."`
	AcceptLoss diskAcceptLoss `cmd:"" help:"Let a disk open although records of it are lost for good (see ashlar status)."`
}

// diskView is a disk in JSON.
type diskView struct {
	DiskID        string `json:"diskId"`
	Name          string `json:"name"`
	SizeBytes     uint64 `json:"sizeBytes"`
	State         string `json:"state"`
	Owner         string `json:"owner,omitempty"`
	Sessions      uint32 `json:"sessions"`
	Epoch         uint64 `json:"epoch"`
	UnpackedBytes uint64 `json:"unpackedBytes"`
	Created       string `json:"created,omitempty"`
	Lossy         bool   `json:"lossy"`
	Protected     bool   `json:"protected"`
	Problem       string `json:"problem,omitempty"`
	// UsedBytes are those on stores, with redundancy; of them, about, ReclaimableBytes are of no use.
	UsedBytes        uint64       `json:"usedBytes"`
	ReclaimableBytes uint64       `json:"reclaimableBytes"`
	Space            *spaceView   `json:"space,omitempty"` // absent: no owner has told
	Cleaning         cleaningView `json:"cleaning"`
	Limits           qosView      `json:"limits"`
	// By the owner's last look: what cannot be read any more, and until stores are back.
	LostBytes uint64 `json:"lostBytes"`
	AwayBytes uint64 `json:"awayBytes"`
	// Origin is the snapshot that it began with and still reads.
	Origin *originView `json:"origin,omitempty"`
	// Hydration is how far it is brought in from the archive that it was made from.
	Hydration *hydrationView `json:"hydration,omitempty"`
	// Flattening is how far it is made to stand alone.
	Flattening *flatteningView `json:"flattening,omitempty"`
}

func viewDisk(d *api.Disk) diskView {
	return diskView{DiskID: d.DiskId, Name: d.Name, SizeBytes: d.SizeBytes, State: d.State, Owner: d.OwnerHost, Sessions: d.Sessions,
		Epoch: d.Epoch, UnpackedBytes: d.UnpackedBytes, Created: rfc3339(d.CreatedUnixMs), Lossy: d.Lossy, Protected: d.GetIsProtected(), Problem: d.Problem,
		UsedBytes: d.UsedBytes, ReclaimableBytes: d.ReclaimableBytes, Space: viewSpace(d.Space), Cleaning: viewCleaning(d.Cleaning), Limits: viewQoS(d.Qos), LostBytes: d.LostBytes, AwayBytes: d.AwayBytes, Origin: viewOrigin(d.Origin), Hydration: viewHydration(d.Hydration), Flattening: viewFlattening(d.Flattening)}
}

// blockBytes is what sizes of disks are multiples of.
const blockBytes = 4096

func checkSize(n config.ByteSize) error {
	if n == 0 || n%blockBytes != 0 {
		return &hinted{fmt.Errorf("size %s is not a positive multiple of 4 KiB: %w", n, errs.ErrInvalid), "write it like 4GiB, 500M or 1.5T"}
	}
	return nil
}

// explain adds the advice that fits a disk's name.
func explain(err error, name string) error {
	if errors.Is(err, errs.ErrNotFound) {
		return &hinted{err, "no disk has the name or id " + strconv.Quote(name) + "; ashlar disk list shows them all"}
	}
	return err
}

type diskCreate struct {
	Name    string          `arg:"" help:"A name that no other disk has."`
	Size    config.ByteSize `help:"How large it looks, such as 4GiB. Of a snapshot or image: at least as large as that, which is the default." placeholder:"SIZE"`
	From    string          `name:"from-snapshot" help:"Begin as this snapshot was: a clone. Nothing is copied; the snapshot's disk and the clone go their own ways, and deleting either leaves the other as it is." placeholder:"DISK@NAME"`
	Image   string          `name:"from-image" help:"Begin as this image is. Nothing is copied, and the disk stays as it is when the image is deleted." placeholder:"IMAGE"`
	Archive string          `name:"from-archive" help:"Begin as this archived snapshot was. The disk is there at once: what is read is fetched, and the rest is brought in behind." placeholder:"MANIFEST"`
	Hydrate rateFlag        `help:"With --from-archive: bytes a second that are brought in at most, such as 100MiB." placeholder:"SIZE"`
	protectFlag
	qosFlags
}

// Run is called by kong.
func (c *diskCreate) Run(ctx context.Context, s *session) error {
	switch {
	case given(c.From)+given(c.Image)+given(c.Archive) > 1:
		return &hinted{fmt.Errorf("--from-snapshot, --from-image, --from-archive: name one of them: %w", errs.ErrInvalid), "see ashlar disk create --help"}
	case c.Hydrate.value != nil && c.Archive == "":
		return &hinted{fmt.Errorf("--hydrate is for disks made with --from-archive: %w", errs.ErrInvalid), "see ashlar disk create --help"}
	case c.From == "" && c.Image == "" && c.Archive == "" && c.Size == 0:
		return &hinted{fmt.Errorf("a disk needs a --size above 0, or --from-snapshot, or --from-image, or --from-archive: %w", errs.ErrInvalid), "see ashlar disk create --help"}
	case c.Size != 0:
		if err := checkSize(c.Size); err != nil {
			return err
		}
	}
	limits := c.change().Apply(cluster.QoS{})
	if err := limits.Validate(); err != nil {
		return &hinted{err, "see ashlar disk create --help"}
	}
	err := s.with(ctx, func(ctx context.Context, cl Cluster) error {
		var d *api.Disk
		var err error
		switch {
		case c.Archive != "":
			d, err = c.restore(ctx, cl, limits)
		case c.From != "":
			d, err = c.clone(ctx, cl, limits)
		case c.Image != "":
			d, err = c.fromImage(ctx, cl, limits)
		default:
			d, err = cl.CreateLimitedDisk(ctx, c.Name, uint64(c.Size), limits)
		}
		if errors.Is(err, errs.ErrExists) {
			return &hinted{err, "choose another name, or use the disk that has it: ashlar disk show " + c.Name}
		}
		if err == nil {
			d, err = c.protect(ctx, cl, d)
		}
		if err != nil {
			return err
		}
		return s.show(viewDisk(d), func(w io.Writer) {
			limited := ""
			if limits.Limited() {
				limited = ", " + qosText(d.Qos)
			}
			if c.Archive != "" {
				limited = ", as archived; it is brought in while it is used" + limited
			}
			if c.From != "" {
				limited = ", as " + c.From + " was" + limited
			}
			if c.Image != "" {
				limited = ", as image " + c.Image + limited
			}
			fmt.Fprintf(w, "created disk %s (%s), %s%s\n  attach it: ashlar disk nbd %s\n", d.Name, d.DiskId, size(d.SizeBytes), limited, d.Name)
		})
	})
	if c.From != "" && errors.Is(err, errs.ErrNotFound) {
		return c.archived(ctx, s, err)
	}
	return err
}

// given counts an argument.
func given(arg string) int { return min(len(arg), 1) }

type diskList struct{}

// Run is called by kong.
func (c *diskList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		disks, err := cl.Disks(ctx)
		if err != nil {
			return err
		}
		views := make([]diskView, len(disks))
		for i, d := range disks {
			views[i] = viewDisk(d)
		}
		return s.show(views, func(w io.Writer) {
			if len(disks) == 0 {
				fmt.Fprintln(w, "no disks yet; make one: ashlar disk create NAME --size 4GiB")
				return
			}
			now := s.Clock.Wall()
			var rows [][]string
			for _, d := range disks {
				rows = append(rows, []string{d.Name, d.DiskId, size(d.SizeBytes), size(d.UsedBytes), reclaimable(d), d.State, dash(d.OwnerHost), strconv.Itoa(int(d.Sessions)), age(now, d.CreatedUnixMs), remark(d)})
			}
			table(w, []string{"NAME", "ID", "SIZE", "USED", "RECLAIM", "STATE", "OWNER", "CLIENTS", "AGE", ""}, rows)
		})
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type diskShow struct {
	Disk string `arg:"" help:"Name or id."`
}

// Run is called by kong.
func (c *diskShow) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		d, err := cl.Disk(ctx, c.Disk)
		if err != nil {
			return explain(err, c.Disk)
		}
		return s.show(viewDisk(d), func(w io.Writer) { printDisk(w, d) })
	})
}

func printDisk(w io.Writer, d *api.Disk) {
	rows := [][2]string{
		{"name", d.Name}, {"id", d.DiskId}, {"size", fmt.Sprintf("%s (%d bytes)", size(d.SizeBytes), d.SizeBytes)}, {"limits", qosText(d.Qos)}, {"state", d.State},
		{"owner", dash(d.OwnerHost)}, {"clients", strconv.Itoa(int(d.Sessions))}, {"epoch", fmt.Sprintf("e%d", d.Epoch)},
		{"not packed yet", size(d.UnpackedBytes)}, {"created", rfc3339(d.CreatedUnixMs)},
		{"used", size(d.UsedBytes) + " on stores, redundancy included"},
	}
	if d.GetIsProtected() {
		rows = append(rows, [2]string{"protected", "against deletion"})
	}
	rows = append(rows, spaceRows(d)...)
	if d.Origin != nil {
		rows = append(rows, [2]string{"began as", originText(d.Origin)})
	}
	rows = append(rows, hydrationRows(d)...)
	rows = append(rows, flatteningRows(d)...)
	if d.Lossy {
		rows = append(rows, [2]string{"loss", "an operator accepted that acknowledged writes are gone"})
	}
	if d.LostBytes > 0 || d.AwayBytes > 0 {
		rows = append(rows, [2]string{"unreadable", fmt.Sprintf("%s lost, %s away; where: ashlar disk lost %s", size(d.LostBytes), size(d.AwayBytes), d.Name)})
	}
	if d.Problem != "" {
		rows = append(rows, [2]string{"problem", d.Problem})
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%-15s %s\n", r[0], r[1])
	}
}

type diskResize struct {
	Disk string          `arg:"" help:"Name or id."`
	Size config.ByteSize `required:"" help:"The new size, at least the present one." placeholder:"SIZE"`
}

// Run is called by kong.
func (c *diskResize) Run(ctx context.Context, s *session) error {
	if err := checkSize(c.Size); err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		d, err := cl.ResizeDisk(ctx, c.Disk, uint64(c.Size))
		if errors.Is(err, errs.ErrInvalid) {
			return &hinted{err, "disks only grow: what lies behind the new end would be lost; copy to a smaller disk instead"}
		}
		if err != nil {
			return explain(err, c.Disk)
		}
		return s.show(viewDisk(d), func(w io.Writer) {
			fmt.Fprintf(w, "disk %s has %s now; NBD clients see it when they attach anew\n", d.Name, size(d.SizeBytes))
		})
	})
}

type diskAcceptLoss struct {
	Disk     string `arg:"" help:"Name or id."`
	Ensemble string `required:"" help:"The ensemble that ashlar status names, such as e17.2." placeholder:"eEPOCH.N"`
}

// Run is called by kong.
func (c *diskAcceptLoss) Run(ctx context.Context, s *session) error {
	e, err := id.ParseEnsemble(c.Ensemble)
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		d, err := cl.AcceptLoss(ctx, c.Disk, e)
		if err != nil {
			return explain(err, c.Disk)
		}
		return s.show(viewDisk(d), func(w io.Writer) {
			fmt.Fprintf(w, "loss accepted; disk %s is marked and may open again. Check what is on it.\n", d.Name)
		})
	})
}

type diskNBD struct {
	Disk string `arg:"" help:"Name or id."`
	QEMU bool   `name:"qemu" help:"Print a QEMU command line that boots with the disk."`
}

// nbdView is where a disk is served, in JSON. The outer two are the best of each kind.
type nbdView struct {
	DiskID    string         `json:"diskId"`
	Name      string         `json:"name"`
	SizeBytes uint64         `json:"sizeBytes"`
	Unix      string         `json:"unix,omitempty"`
	TCP       string         `json:"tcp,omitempty"`
	All       []endpointView `json:"all"` // one for each blockd, the owner first
}

type endpointView struct {
	Host  string `json:"host"`
	Unix  string `json:"unix,omitempty"`
	TCP   string `json:"tcp,omitempty"`
	Owner bool   `json:"owner"`
	Up    bool   `json:"up"`
}

func viewEndpoints(r *api.DiskEndpointsReply) nbdView {
	v := nbdView{DiskID: r.DiskId, Name: r.Name, SizeBytes: r.SizeBytes, All: []endpointView{}}
	for _, e := range r.Endpoints {
		v.All = append(v.All, endpointView{Host: e.Host, Unix: e.UnixUri, TCP: e.TcpUri, Owner: e.Owner, Up: e.Up})
	}
	// The first that is up; if none is known to be up, the first at all.
	for _, wantUp := range []bool{true, false} {
		for _, e := range v.All {
			if wantUp && !e.Up {
				continue
			}
			if v.Unix == "" {
				v.Unix = e.Unix
			}
			if v.TCP == "" {
				v.TCP = e.TCP
			}
		}
	}
	return v
}

// Run is called by kong.
func (c *diskNBD) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.DiskEndpoints(ctx, c.Disk)
		if err != nil {
			return explain(err, c.Disk)
		}
		v := viewEndpoints(r)
		if len(v.All) == 0 {
			return &hinted{fmt.Errorf("no blockd serves disks: %w", errs.ErrUnavailable), "see ashlar status"}
		}
		if c.QEMU {
			line, err := qemuCommand(v)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, line)
			return nil
		}
		return s.show(v, func(w io.Writer) { printEndpoints(w, v) })
	})
}

func printEndpoints(w io.Writer, v nbdView) {
	var rows [][]string
	for _, e := range v.All {
		role := "proxy"
		if e.Owner {
			role = "owner"
		}
		if !e.Up {
			role += ", down"
		}
		for _, uri := range []string{e.Unix, e.TCP} {
			if uri != "" {
				rows = append(rows, []string{e.Host, role, uri})
			}
		}
	}
	table(w, []string{"HOST", "ROLE", "URI"}, rows)
	best := v.Unix
	if best == "" {
		best = v.TCP
	}
	fmt.Fprintf(w, "\ntry: nbdinfo '%s'\n     nbdcopy IMAGE '%s'\n", best, best)
}

// qemuCommand makes a command line for KVM. reconnect-delay lets the guest wait, instead
// of seeing errors, while a blockd is restarted.
func qemuCommand(v nbdView) (string, error) {
	uri := v.Unix
	if uri == "" {
		uri = v.TCP
	}
	u, err := url.Parse(uri)
	if err != nil {
		return "", fmt.Errorf("address of disk %s: %w", v.Name, err)
	}
	export := strings.TrimPrefix(u.Path, "/")
	object, server := "", ""
	if socket := u.Query().Get("socket"); socket != "" {
		server = fmt.Sprintf(`"server":{"type":"unix","path":%q}`, socket)
	} else {
		server = fmt.Sprintf(`"server":{"type":"inet","host":%q,"port":%q}`, u.Hostname(), u.Port())
	}
	if strings.HasPrefix(u.Scheme, "nbds") {
		// QEMU wants ca-cert.pem, client-cert.pem and client-key.pem in the folder.
		object = "  -object tls-creds-x509,id=tls0,endpoint=client,dir=CERTIFICATES \\\n"
		server += `,"tls-creds":"tls0"`
	}
	return fmt.Sprintf(`qemu-system-x86_64 -machine q35,accel=kvm -cpu host -smp 2 -m 2G \
%s  -blockdev '{"driver":"nbd","node-name":"disk0","export":%q,%s,"reconnect-delay":60,"cache":{"direct":true},"discard":"unmap"}' \
  -device virtio-blk-pci,drive=disk0,serial=%.20s -nographic`, object, export, server, v.DiskID), nil
}
