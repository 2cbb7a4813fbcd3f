package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/diskfile"
	"ashlar.dev/pkg/errs"
)

// Files become images, and images files, in the process of who asks for it: the file is where its owner is, and what is
// in it is read with that person's rights and nobody else's. No daemon opens files that an API caller names. What is on
// its way has a disk of its own, import-… or export-…, which goes at the end, however that comes; one that is left
// by a SIGKILL is nobody's image and is deleted like any disk.

// DiskFiles converts between files and exports; *diskfile.Tool is the real one.
type DiskFiles interface {
	Inspect(ctx context.Context, f *os.File, is diskfile.Format) (uint64, error)
	ToNBD(ctx context.Context, f *os.File, is diskfile.Format, uri string, p diskfile.Progress) error
	FromNBD(ctx context.Context, uri, path string, as diskfile.Format, compress bool, p diskfile.Progress) error
}

const (
	importSizeMin = 1 << 20 // bytes of the smallest disk
	cleanPatience = 15 * time.Second
	sideNameMax   = 64 // bytes of an image's name in that of a disk on its way
)

// realDiskFiles finds the programs.
func realDiskFiles() (DiskFiles, error) {
	t, err := diskfile.Find()
	if err != nil {
		return nil, &hinted{err, "install it: on Debian apt-get install qemu-utils util-linux, or run deploy/dev/install-tools"}
	}
	return t, nil
}

// nbdFlags say how a disk is reached.
type nbdFlags struct {
	Certificates string `name:"tls-certificates" help:"Folder with ca-cert.pem, client-cert.pem and client-key.pem for NBD over TLS; pki/nbd in the cluster's folder if not given." type:"path" placeholder:"DIR"`
}

// reach gives where a disk, or a snapshot of it, is served.
func (f *nbdFlags) reach(ctx context.Context, s *session, disk, snapshot string) (uri string, size uint64, err error) {
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.DiskEndpoints(ctx, disk)
		if err != nil {
			return explain(err, disk)
		}
		size = r.SizeBytes
		d := snapshotDiff{Certificates: f.Certificates}
		all := reachable(viewEndpoints(r), snapshot, d.certificates(s.flags.Data))
		if len(all) == 0 {
			return &hinted{fmt.Errorf("no blockd can be reached: %w", errs.ErrUnavailable), "see ashlar status, and ashlar disk nbd " + disk}
		}
		uri = all[0]
		return nil
	})
	return uri, size, err
}

// sideDisk makes the name of a disk on its way.
func sideDisk(kind, name string) string {
	return kind + "-" + name[:min(len(name), sideNameMax)] + "-" + client.NewTaskID()[:8]
}

// drop deletes a disk on its way, also when we were told to stop.
func (s *session) drop(ctx context.Context, disk string) error {
	return s.hold(func(cl Cluster) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanPatience)
		defer cancel()
		_, err := cl.DeleteDisk(ctx, disk, client.Deletion{Force: true, Purge: true})
		if errors.Is(err, errs.ErrNotFound) {
			return nil
		}
		return err
	})
}

// follow shows how far a conversion is.
func (s *session) follow(all uint64) diskfile.Progress {
	began := s.Clock.Now()
	return func(done uint32) {
		bytes := uint64(float64(all) * float64(done) / 100_000)
		perSecond := float64(bytes) / max((s.Clock.Now()-began).Seconds(), 0.1)
		s.line(progressBar(bytes, all, uint64(perSecond)))
	}
}

type imageImport struct {
	Name        string `arg:"" help:"A name that no other image has."`
	File        string `arg:"" help:"A file that holds a disk, here or at s3://BUCKET/KEY or https://…" placeholder:"FILE"`
	Format      string `help:"What the file is. By itself it is looked at; a file is taken as raw bytes, whatever they say, with raw." enum:"auto,raw,qcow2,vpc,vhdx,vmdk,vdi" default:"auto" placeholder:"auto|raw|qcow2|vpc|vhdx|vmdk|vdi"`
	Description string `help:"What people should know of it." placeholder:"TEXT"`
	nbdFlags
	remoteFlags
}

// Help is printed by kong below the summary.
func (c *imageImport) Help() string {
	return `Reads a file that holds a disk, by qemu-img on this machine, onto a new disk, and makes an image of that. Zeros take
no space. The disk is as large as the file says, rounded up to 4 KiB, and at least 1 MiB; at most ` + size(diskfile.SizeMax) + `.

A file may come from strangers: one that names other files (backing files, data files, VMDKs in parts) or is encrypted
is refused before qemu-img sees it, and qemu-img runs with limits of memory and, while it looks at headers, of time.

Until the end there is no image. Interrupted or failed, nothing stays; killed (SIGKILL), a disk import-NAME-… is left
that is like any other: ashlar disk list shows it, ashlar disk delete deletes it.`
}

// Run is called by kong.
func (c *imageImport) Run(ctx context.Context, s *session) error {
	tool, err := s.DiskFiles()
	if err != nil {
		return err
	}
	f, bytes, err := c.open(ctx, s, c.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	want := diskfile.Format(c.Format)
	if want == "auto" {
		want = ""
	}
	is, err := diskfile.Sniff(f, bytes, want)
	if err != nil {
		return fmt.Errorf("import %s: %w", baseName(c.File), err)
	}
	all, err := tool.Inspect(ctx, f, is)
	if err != nil {
		return fmt.Errorf("import %s: %w", baseName(c.File), err)
	}
	disk, err := c.begin(ctx, s, all)
	if err != nil {
		return err
	}
	m, err := c.bring(ctx, s, tool, f, is, disk, all)
	s.line("")
	if dropped := s.drop(ctx, disk); err == nil && dropped != nil {
		fmt.Fprintf(s.Err, "image %s is made; disk %s, which it came over, could not be deleted: %v\n", m.Name, disk, dropped)
	} else if dropped != nil {
		return &hinted{err, "disk " + disk + " is left; ashlar disk delete " + disk + " --force deletes it"}
	}
	if err != nil {
		return explainImage(cleaned(ctx, err), c.Name)
	}
	return s.show(viewImage(m), func(w io.Writer) { printMade(w, m) })
}

// openFile opens what is a file or a block device, and gives its size.
func openFile(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("file %s: %w", path, errs.ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return nil, 0, &hinted{fmt.Errorf("open %s: %w", path, errs.ErrDenied), "you may not read it"}
	case err != nil:
		return nil, 0, fmt.Errorf("open file: %w", err)
	}
	is, err := f.Stat()
	if err == nil && !is.Mode().IsRegular() && is.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != fs.ModeDevice {
		err = fmt.Errorf("%s is neither a file nor a block device: %w", path, errs.ErrInvalid)
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open file: %w", err), f.Close())
	}
	return f, size, nil
}

// begin makes the disk that the file comes onto.
func (c *imageImport) begin(ctx context.Context, s *session, all uint64) (disk string, err error) {
	disk = sideDisk("import", c.Name)
	return disk, s.with(ctx, func(ctx context.Context, cl Cluster) error {
		have, err := cl.Images(ctx)
		if err != nil {
			return err
		}
		for _, x := range have {
			if x.Name == c.Name {
				return explainImage(fmt.Errorf("image %s: %w", c.Name, errs.ErrExists), c.Name)
			}
		}
		size := max(importSizeMin, (all+blockBytes-1)/blockBytes*blockBytes)
		_, err = cl.CreateLimitedDisk(ctx, disk, size, cluster.QoS{})
		return err
	})
}

// bring converts, and makes the image.
func (c *imageImport) bring(ctx context.Context, s *session, tool DiskFiles, f *os.File, is diskfile.Format, disk string, all uint64) (m *api.Image, err error) {
	uri, _, err := c.reach(ctx, s, disk, "")
	if err != nil {
		return nil, err
	}
	if err := tool.ToNBD(ctx, f, is, uri, s.follow(all)); err != nil {
		return nil, fmt.Errorf("import %s: %w", baseName(c.File), err)
	}
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		m, err = cl.CreateImage(ctx, client.NewImage{Name: c.Name, Description: c.Description, Disk: disk, Source: "file " + baseName(c.File), Format: string(is)})
		return err
	})
	return m, err
}

// exportFlags say what a file is to be.
type exportFlags struct {
	Format   string `help:"What the file is to be; by default what its name ends in, or qcow2." enum:"auto,raw,qcow2,vpc,vhdx,vmdk,vdi" default:"auto" placeholder:"raw|qcow2|vpc|vhdx|vmdk|vdi"`
	Compress bool   `help:"Compress what is written (qcow2 and vmdk)."`
	Force    bool   `help:"Take the place of a file that is there."`
	nbdFlags
	remoteFlags
}

// endings of file names.
var endings = map[string]diskfile.Format{".raw": diskfile.Raw, ".img": diskfile.Raw, ".qcow2": diskfile.QCOW2, ".vhd": diskfile.VPC, ".vpc": diskfile.VPC,
	".vhdx": diskfile.VHDX, ".vmdk": diskfile.VMDK, ".vdi": diskfile.VDI}

func (c *exportFlags) format(file string) diskfile.Format {
	if c.Format != "auto" {
		return diskfile.Format(c.Format)
	}
	if f, ok := endings[strings.ToLower(filepath.Ext(file))]; ok {
		return f
	}
	return diskfile.QCOW2
}

// exported is a file that was written, in JSON.
type exported struct {
	File      string `json:"file"`
	Format    string `json:"format"`
	SizeBytes uint64 `json:"sizeBytes"` // of the disk in it
	FileBytes uint64 `json:"fileBytes"`
}

// write makes the file of an export, under its name only when all of it is there and durable.
func (c *exportFlags) write(ctx context.Context, s *session, disk, snapshot, file string) error {
	tool, err := s.DiskFiles()
	if err != nil {
		return err
	}
	uri, all, err := c.reach(ctx, s, disk, snapshot)
	if err != nil {
		return err
	}
	out := exported{File: file, Format: string(c.format(file)), SizeBytes: all}
	out.FileBytes, err = c.put(ctx, s, tool, uri, file, all)
	s.line("")
	switch {
	case errors.Is(err, errs.ErrExists):
		return &hinted{err, "choose another name, or take its place with --force"}
	case errors.Is(err, errs.ErrNoSpace) || errors.Is(err, syscall.ENOSPC):
		return &hinted{fmt.Errorf("export to %s: %w: %w", baseName(file), errs.ErrNoSpace, err), noSpaceFor(file)}
	case err != nil:
		return fmt.Errorf("export to %s: %w", baseName(file), cleaned(ctx, err))
	}
	return s.show(out, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s: %s of disk in %s, %s\n", file, size(all), size(out.FileBytes), out.Format)
	})
}

// noSpaceFor says where an export found no space: the cluster's stores have nothing to do with it.
func noSpaceFor(file string) string {
	if isRemote(file) {
		return "free space where the bucket is, or in " + os.TempDir() + " of this machine (TMPDIR names another place), where the file is made before it is sent; nothing was left behind"
	}
	return "free space on the disk that " + filepath.Dir(file) + " is on, or write the file elsewhere (--compress makes a qcow2 smaller); nothing was left behind"
}

// whole has a file written beside its place, syncs it and moves it there; what fails leaves nothing.
func whole(file string, replace bool, write func(path string) error) (bytes uint64, err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return 0, fmt.Errorf("name the file: %w", err)
	}
	if _, err := os.Lstat(path); err == nil && !replace {
		return 0, fmt.Errorf("%s: %w", path, errs.ErrExists)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-")
	if err != nil {
		return 0, fmt.Errorf("make the file: %w", err)
	}
	side := f.Name()
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = os.Remove(side) // it failed already
		}
	}()
	if err := write(side); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil { // of the file, whoever wrote it
		return 0, fmt.Errorf("sync the file: %w", err)
	}
	is, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("look at the file: %w", err)
	}
	if replace {
		err = os.Rename(side, path)
	} else if err = os.Link(side, path); err == nil { // fails where there is a file by now
		err = os.Remove(side)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return 0, fmt.Errorf("%s: %w", path, errs.ErrExists)
	case err != nil:
		return 0, fmt.Errorf("name the file: %w", err)
	}
	return uint64(is.Size()), syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("sync the folder: %w", err)
	}
	return nil
}

type imageExport struct {
	Image string `arg:"" help:"Name or id."`
	File  string `arg:"" help:"The file to write, here or to s3://BUCKET/KEY." placeholder:"FILE"`
	exportFlags
}

// Help is printed by kong below the summary.
func (c *imageExport) Help() string {
	return `Writes what an image holds into a file, by qemu-img on this machine. The file has its name only when all of it is
there and synced; interrupted or failed, nothing stays. It is read through a disk export-NAME-… that is
made of the image and goes at the end; killed (SIGKILL), that and a file .NAME.part-… are left, which may be deleted.`
}

// Run is called by kong.
func (c *imageExport) Run(ctx context.Context, s *session) error {
	disk := ""
	err := s.with(ctx, func(ctx context.Context, cl Cluster) error {
		x, err := image(ctx, cl, c.Image)
		if err != nil {
			return err
		}
		disk = sideDisk("export", x.Name)
		_, err = cl.CreateDiskFromImage(ctx, disk, x.ImageId, 0, cluster.QoS{})
		return err
	})
	if err != nil {
		return err
	}
	err = c.write(ctx, s, disk, "", c.File)
	if dropped := s.drop(ctx, disk); dropped != nil {
		return &hinted{errors.Join(err, dropped), "disk " + disk + " is left; ashlar disk delete " + disk + " --force deletes it"}
	}
	return err
}

type snapshotExport struct {
	Snapshot string `arg:"" help:"DISK@NAME, or its id." placeholder:"DISK@NAME"`
	File     string `arg:"" help:"The file to write, here or to s3://BUCKET/KEY." placeholder:"FILE"`
	exportFlags
}

// Run is called by kong.
func (c *snapshotExport) Run(ctx context.Context, s *session) error {
	disk, snapshot, err := s.snapshotOf(ctx, c.Snapshot)
	if err != nil {
		return err
	}
	err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, _, err := cl.Snapshots(ctx, disk)
		if err != nil {
			return explain(err, disk)
		}
		for _, x := range all {
			if x.Name == snapshot || x.SnapshotId == snapshot {
				return nil
			}
		}
		return &hinted{fmt.Errorf("snapshot %s: %w", strconv.Quote(c.Snapshot), errs.ErrNotFound), "ashlar snapshot list " + disk + " shows what there is"}
	})
	if err != nil {
		return err
	}
	return c.write(ctx, s, disk, snapshot, c.File)
}
