package server

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// withOwner is a group with a disk whose owner takes every snapshot, and then lists it in a checkpoint that it commits.
func withOwner(t *testing.T) (*group, *client.Cluster, *host) {
	g := newGroup(t, 1)
	g.leader()
	ops, h := g.operator(), g.host("h1", 1)
	_ = g.host("h2", 1)
	d, err := ops.CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	got, err := h.Acquire(g.ctx(), volumeID(t, d.DiskId), h.holder, client.AcquireOpen)
	must(t, err)
	v := open(t, g, h, got.Volume)
	_, err = h.AllocRange(g.ctx(), v.ID, v.Epoch)
	must(t, err)
	ctx, cancel := context.WithCancel(g.ctx())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	k := record.Checkpoint{Volume: v.ID, Epoch: v.Epoch, Blocks: 2048}
	have := make(map[id.Snapshot]bool)
	wg.Go(func() {
		h.WatchSnapshots(ctx, h.holder, func(o client.SnapshotOrder) {
			err := h.TellSnapshot(ctx, h.holder, v.Epoch, o, "") // stale: the disk was deleted in this moment
			if err != nil && ctx.Err() == nil && !errors.Is(err, errs.ErrConflict) && !errors.Is(err, errs.ErrStaleEpoch) {
				t.Errorf("tell: %v", err)
			}
			if have[o.Snapshot] || o.Drop {
				return
			}
			have[o.Snapshot] = true
			k.Meta++
			k.Snapshots = append(k.Snapshots, record.Snapshot{ID: id.Raw(o.Snapshot), Root: blockmap.Root{}, Watermark: id.Sequence(len(have)), Blocks: 2048, Parent: k.Parent})
			k.Parent, k.Watermark = id.Raw(o.Snapshot), id.Sequence(len(have))
			err = h.CommitCheckpoint(ctx, v.ID, v.Epoch, cluster.Checkpoint{Epoch: v.Epoch, Meta: k.Meta, Opaque: record.EncodeCheckpoint(&k)})
			if err != nil && ctx.Err() == nil {
				t.Errorf("commit: %v", err)
			}
		}, func(string) {})
	})
	return g, ops, h
}

// Without this an image could not be made of a disk or a snapshot, would show the snapshot that it was made with, or
// leave it behind when it is refused or deleted.
func TestImagesHoldTheirSnapshots(t *testing.T) {
	g, ops, _ := withOwner(t)
	snapshots := func() (names []string) {
		all, _, err := ops.Snapshots(g.ctx(), "d")
		must(t, err)
		for _, x := range all {
			names = append(names, x.Name)
		}
		return names
	}
	g.until("the group to know images", func() bool {
		_, err := ops.CreateImage(g.ctx(), client.NewImage{Name: "a", Disk: "d", Description: "x"})
		return err == nil
	})
	if got := snapshots(); len(got) != 0 {
		t.Fatalf("the snapshot of the image is seen: %v", got)
	}
	if _, err := ops.CreateImage(g.ctx(), client.NewImage{Name: "a", Disk: "d"}); !errors.Is(err, errs.ErrExists) {
		t.Errorf("the same name: %v", err)
	}
	_, err := ops.CreateSnapshot(g.ctx(), "d", "s")
	must(t, err)
	_, err = ops.CreateImage(g.ctx(), client.NewImage{Name: "b", Disk: "d", Snapshot: "s"})
	must(t, err)
	_, err = ops.DeleteSnapshot(g.ctx(), "d", "s", true)
	must(t, err)
	for _, x := range []string{"a", "b"} {
		d, err := ops.CreateDiskFromImage(g.ctx(), "of-"+x, x, 16<<20, cluster.QoS{})
		must(t, err)
		if d.SizeBytes != 16<<20 || d.Origin.GetImage() != x {
			t.Errorf("disk of %s: %+v", x, d)
		}
	}
	if _, err := ops.CreateDiskFromImage(g.ctx(), "small", "a", 1<<20, cluster.QoS{}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("smaller than the image: %v", err)
	}
	name := "c"
	if _, err := ops.SetImage(g.ctx(), "b", &name, nil); err != nil {
		t.Error(err)
	}
	if _, err := ops.DeleteImage(g.ctx(), "b"); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("by its old name: %v", err)
	}
	all, err := ops.Images(g.ctx())
	must(t, err)
	if len(all) != 2 || all[0].Name != "a" || all[1].Name != "c" || all[1].Disks != 1 || all[1].State != "available" || !strings.Contains(all[1].Source, "d@s") || all[0].Description != "x" {
		t.Fatalf("%v", all)
	}
	for _, x := range []string{"a", "c"} {
		_, err = ops.DeleteImage(g.ctx(), x)
		must(t, err)
	}
	if _, err := ops.CreateDiskFromImage(g.ctx(), "late", "a", 0, cluster.QoS{}); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("of a deleted image: %v", err)
	}
	for _, x := range []string{"of-a", "of-b"} {
		_, err = ops.DeleteDisk(g.ctx(), x, client.Deletion{Force: true, Purge: true})
		must(t, err)
	}
	g.until("the disk to be without snapshots, the hidden ones too", func() bool {
		_, err := ops.DeleteDisk(g.ctx(), "d", client.Deletion{Force: true, Purge: true})
		return err == nil
	})
}
