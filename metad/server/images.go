package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// imageService answers operators about images. An image is committed when its snapshot stands in a checkpoint that is
// committed: so a disk can be made of it at once, whatever becomes of the snapshot's disk and its owner.
type imageService struct {
	api.UnimplementedImagesServer
	c *clusterService
}

// CreateImage makes an image of a snapshot, or of a disk as it is now.
func (i *imageService) CreateImage(ctx context.Context, q *api.CreateImageRequest) (*api.Image, error) {
	s := i.c.s
	find := i.c.found
	if q.GetFromSnapshot() != "" {
		find = i.c.foundKept
	}
	r, v, err := find(ctx, q.GetFromDisk())
	if err != nil {
		return nil, err
	}
	cmd, there, err := i.imageCommand(v, q)
	if err != nil {
		return nil, s.fail(err)
	}
	if there {
		return i.show(cmd.Image.ID)
	}
	snapshot, err := i.snapshotFor(ctx, v, cmd, q)
	if err != nil {
		return nil, err
	}
	if _, err := i.c.standing(ctx, r, v, snapshot); err != nil {
		return nil, s.fail(err)
	}
	if _, err := s.commit(ctx, cmd); err != nil {
		i.undo(ctx, r, cmd, err)
		return nil, err
	}
	s.note(state.Info, "image_created", aboutImage, cmd.Image.Name, caller(ctx).String(), "image %s of %d bytes from %s", cmd.Image.ID, snapshot.Size, cmd.Image.Source)
	s.log.Info("image created", "image", cmd.Image.ID.String(), "name", cmd.Image.Name, "volume", v.ID.String(), "snapshot", snapshot.ID.String(), "by", caller(ctx).String())
	return i.show(cmd.Image.ID)
}

// imageCommand checks a request, so that nonsense is not committed to be refused by everyone, and that no snapshot is
// taken for an image that cannot be. There: it is made already.
func (i *imageService) imageCommand(v *state.Volume, q *api.CreateImageRequest) (c *state.CreateImage, there bool, err error) {
	x, err := id.ParseImage(q.GetImageId())
	if err != nil {
		return nil, false, err
	}
	c = &state.CreateImage{Keep: q.GetFromSnapshot() == "", Image: state.Image{ID: x, Name: q.GetName(), Description: q.GetDescription(), Volume: v.ID,
		Created: i.c.s.clock.Wall().UTC().Truncate(time.Millisecond), Source: firstBytes(q.GetSource(), 512), Format: firstBytes(q.GetFormat(), 16)}}
	if c.Image.Source == "" {
		if c.Image.Source = "disk " + v.Name; !c.Keep {
			c.Image.Source = firstBytes("snapshot "+v.Name+"@"+q.GetFromSnapshot(), 512)
		}
	}
	if err := state.CheckImage(c.Image.Name, c.Image.Description); err != nil {
		return nil, false, err
	}
	i.c.s.node.View(func(m *state.Machine) {
		if err = m.Ready(c); err != nil {
			return
		}
		if have, ok := m.FindImage(x.String()); ok {
			c.Image, there = *have, true
		} else if _, taken := m.FindImage(c.Image.Name); taken {
			err = fmt.Errorf("image %s: %w", c.Image.Name, errs.ErrExists)
		}
	})
	return c, there, err
}

// snapshotFor finds the snapshot that an image is to be of, or takes it. Asked again it is the same one.
func (i *imageService) snapshotFor(ctx context.Context, v *state.Volume, c *state.CreateImage, q *api.CreateImageRequest) (cluster.Snapshot, error) {
	if c.Keep {
		c.Image.Snapshot = id.Snapshot(c.Image.ID)
		_, err := i.c.CreateSnapshot(ctx, &api.CreateSnapshotRequest{Disk: v.ID.String(), Name: "image-" + c.Image.ID.String(), SnapshotId: c.Image.Snapshot.String()})
		return cluster.Snapshot{ID: c.Image.Snapshot, Name: "image-" + c.Image.ID.String(), Size: v.Size}, err
	}
	s, ok := v.FindSnapshot(q.GetFromSnapshot())
	if !ok || !s.Listed() {
		return s, i.c.s.fail(fmt.Errorf("snapshot %.140q of disk %s: %w", q.GetFromSnapshot(), v.Name, errs.ErrNotFound))
	}
	if s.State != cluster.SnapshotReady {
		return s, i.c.s.fail(fmt.Errorf("snapshot %s of disk %s is %s: %w", s.Name, v.Name, s.State, errs.ErrConflict))
	}
	c.Image.Snapshot = s.ID
	return s, nil
}

// undo lets a snapshot go that was taken for an image which was refused. Not knowing what became of it, it leaves it:
// the caller asks again, and it is hidden then.
func (i *imageService) undo(ctx context.Context, r *reign, c *state.CreateImage, err error) {
	if !c.Keep || errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || ctx.Err() != nil {
		return
	}
	if e := r.apply(ctx, &state.DeleteSnapshot{Volume: c.Image.Volume, ID: c.Image.Snapshot}); e != nil {
		i.c.s.log.Info("snapshot that was taken for an image stays", "volume", c.Image.Volume.String(), "snapshot", c.Image.Snapshot.String(), "err", e)
	}
	r.tellSnapped()
}

// describeImage is an image as people see it.
func describeImage(m *state.Machine, x *state.Image) *api.Image {
	out := &api.Image{ImageId: x.ID.String(), Name: x.Name, Description: x.Description, SizeBytes: x.Size, CreatedUnixMs: x.Created.UnixMilli(), State: "lost",
		Source: x.Source, Format: x.Format, DiskId: x.Volume.String(), SnapshotId: x.Snapshot.String(), Disks: uint32(m.Children(x.Snapshot))}
	if v, ok := m.Volume(x.Volume); ok && !v.Deleted {
		if _, ok := v.FindSnapshot(x.Snapshot.String()); ok {
			out.State = "available"
		}
	}
	return out
}

// show gives an image after a command.
func (i *imageService) show(x id.Image) (out *api.Image, err error) {
	i.c.s.node.View(func(m *state.Machine) {
		if y, ok := m.FindImage(x.String()); ok {
			out = describeImage(m, y)
			return
		}
		err = fmt.Errorf("image %s was deleted meanwhile: %w", x, errs.ErrNotFound)
	})
	if err != nil {
		return nil, i.c.s.fail(err)
	}
	return out, nil
}

// find is the start of every call about one image.
func (i *imageService) find(ctx context.Context, nameOrID string) (x *state.Image, d *api.Image, err error) {
	if err := i.c.s.fresh(ctx); err != nil {
		return nil, nil, i.c.s.fail(err)
	}
	i.c.s.node.View(func(m *state.Machine) {
		y, ok := m.FindImage(nameOrID)
		if !ok {
			err = fmt.Errorf("image %.140q: %w", nameOrID, errs.ErrNotFound)
			return
		}
		x, d = y, describeImage(m, y)
	})
	if err != nil {
		return nil, nil, i.c.s.fail(err)
	}
	return x, d, nil
}

// ListImages lists all of them.
func (i *imageService) ListImages(ctx context.Context, _ *api.ListImagesRequest) (*api.ListImagesReply, error) {
	if err := i.c.s.fresh(ctx); err != nil {
		return nil, i.c.s.fail(err)
	}
	out := &api.ListImagesReply{}
	i.c.s.node.View(func(m *state.Machine) {
		for _, x := range m.Images() {
			out.Images = append(out.Images, describeImage(m, x))
		}
	})
	return out, nil
}

// SetImage changes what people call an image.
func (i *imageService) SetImage(ctx context.Context, q *api.SetImageRequest) (*api.Image, error) {
	x, _, err := i.find(ctx, q.GetImage())
	if err != nil {
		return nil, err
	}
	cmd := &state.SetImage{ID: x.ID, Name: x.Name, Description: x.Description}
	if q.Name != nil {
		cmd.Name = q.GetName()
	}
	if q.Description != nil {
		cmd.Description = q.GetDescription()
	}
	if err := state.CheckImage(cmd.Name, cmd.Description); err != nil {
		return nil, i.c.s.fail(err)
	}
	if _, err := i.c.s.commit(ctx, cmd); err != nil {
		return nil, err
	}
	i.c.s.log.Info("image changed", "image", x.ID.String(), "name", cmd.Name, "by", caller(ctx).String())
	return i.show(x.ID)
}

// DeleteImage forgets an image.
func (i *imageService) DeleteImage(ctx context.Context, q *api.DeleteImageRequest) (*api.Image, error) {
	x, was, err := i.find(ctx, q.GetImage())
	if err != nil {
		return nil, err
	}
	if _, err := i.c.s.commit(ctx, &state.DeleteImage{ID: x.ID}); err != nil {
		return nil, err
	}
	if r, err := i.c.s.ruling(); err == nil {
		r.tellSnapped() // its snapshot may go now
	}
	i.c.s.note(state.Info, "image_deleted", aboutImage, x.Name, caller(ctx).String(), "image %s, %d disks were made of it", x.ID, was.Disks)
	i.c.s.log.Info("image deleted", "image", x.ID.String(), "name", x.Name, "by", caller(ctx).String())
	return was, nil
}

// CreateDiskFromImage makes a disk that begins as an image is.
func (i *imageService) CreateDiskFromImage(ctx context.Context, q *api.CreateDiskFromImageRequest) (*api.Disk, error) {
	s := i.c.s
	x, _, err := i.find(ctx, q.GetImage())
	if err != nil {
		return nil, err
	}
	r, err := s.ruling()
	if err != nil {
		return nil, s.fail(err)
	}
	var v *state.Volume
	var of cluster.Snapshot
	s.node.View(func(m *state.Machine) {
		var ok bool
		if v, ok = m.Volume(x.Volume); ok && !v.Deleted {
			of, ok = v.FindSnapshot(x.Snapshot.String())
		}
		if !ok {
			err = fmt.Errorf("what image %s held is gone: %w", x.Name, errs.ErrNotFound)
		}
	})
	if err != nil {
		return nil, s.fail(err)
	}
	of.Name = x.Name // what errors call it
	cmd, err := i.c.cloneOf(v, of, &api.CloneDiskRequest{Name: q.GetName(), SizeBytes: q.GetSizeBytes(), RequestId: q.GetRequestId(), Qos: q.GetQos()})
	if err != nil {
		return nil, s.fail(err)
	}
	o, err := i.c.standing(ctx, r, v, of)
	if err == nil {
		err = o.Validate()
	}
	if err != nil {
		return nil, s.fail(err)
	}
	cmd.Origin = *o
	res, err := s.commit(ctx, &state.CreateFromImage{Image: x.ID, CreateClone: *cmd})
	if err != nil {
		return nil, err
	}
	s.note(state.Info, "disk_created", aboutDisk, res.Volume.Name, caller(ctx).String(), "disk %s of %d bytes from image %s", res.Volume.ID, res.Volume.Size, x.Name)
	s.log.Info("disk made of an image", "volume", res.Volume.ID.String(), "name", res.Volume.Name, "bytes", res.Volume.Size, "image", x.ID.String(), "by", caller(ctx).String())
	return i.c.answer(r, res.Volume), nil
}
