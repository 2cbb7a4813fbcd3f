package record

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

func sampleSnapshots() *Checkpoint {
	c := sampleMeta()[2].Checkpoint
	root := func(slot uint16) blockmap.Root {
		return blockmap.Root{Location: id.MakeLocation(id.MakeSegment(900, 0xabc), slot), Height: 3}
	}
	c.Snapshots = []Snapshot{
		{ID: id.Raw{1}, Watermark: 1, Blocks: 1 << 20}, // of an empty disk: no tree
		{ID: id.Raw{2, 15: 9}, Root: root(7), Watermark: 900, Blocks: 1 << 27},
		{ID: id.Raw{3}, Root: root(8), Watermark: c.Watermark, Blocks: 1 << 28},
	}
	c.line()
	return c
}

// Without this a volume could lose its snapshots with the next opening, or with the next version.
func TestSnapshotsReadBack(t *testing.T) {
	c := sampleSnapshots()
	alone := EncodeCheckpoint(c)
	golden(t, "snapshots.golden", alone)
	back, err := DecodeCheckpoint("test", alone)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%v: the checkpoint came back as %+v", err, back)
	}
	recs, err := ReadMeta("test", AppendCheckpoint(nil, c), 5, 1)
	if err != nil || !reflect.DeepEqual(recs[0].Checkpoint, c) {
		t.Errorf("%v: the record came back as %+v", err, recs)
	}
	for i := range alone {
		bad := bytes.Clone(alone)
		bad[i] ^= 4
		if _, err := DecodeCheckpoint("test", bad); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

// Watermarks decide what is dead: a list in which they do not rise must not be believed.
func TestWatermarksThatDoNotRiseAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(c *Checkpoint){
		"two alike":                 func(c *Checkpoint) { c.Snapshots[1].Watermark = 1 },
		"none":                      func(c *Checkpoint) { c.Snapshots[0].Watermark = 0 },
		"not the checkpoint's":      func(c *Checkpoint) { c.Watermark++ },
		"a snapshot without name":   func(c *Checkpoint) { c.Snapshots[1].ID = id.Raw{} },
		"a parent that comes after": func(c *Checkpoint) { c.Snapshots[0].Parent = id.Raw{2, 15: 9} },
		"a disk of no snapshot":     func(c *Checkpoint) { c.Parent = id.Raw{99} },
		"a root that is none":       func(c *Checkpoint) { c.Snapshots[1].Root.Height = 200 },
	} {
		c := sampleSnapshots()
		spoil(c)
		if c.checkSnapshots() == "" {
			t.Errorf("%s: not refused", what)
		}
	}
}

// Without this a clone would be opened as a disk of its own, and what it has of its ancestors would
// read as damage.
func TestOriginOfACheckpointReadsBack(t *testing.T) {
	for _, snapshots := range []bool{true, false} {
		c := sampleSnapshots()
		c.Origin = &lineage.Origin{Volume: id.Volume{4}, Snapshot: id.Snapshot{5}, Root: c.Map, Watermark: 899, Blocks: 1 << 20,
			Ancestors: []lineage.Ancestor{{Volume: id.Volume{3}, Watermark: 12}}}
		c.Origin.Root.Location = id.MakeLocation(id.MakeSegment(899, 1), 3)
		if c.Snapshots = c.Snapshots[1:]; !snapshots {
			c.Snapshots = nil
		}
		c.line()
		alone := EncodeCheckpoint(c)
		if snapshots {
			golden(t, "origin.golden", alone)
		}
		back, err := DecodeCheckpoint("test", alone)
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Errorf("%v: the checkpoint came back as %+v", err, back)
		}
		recs, err := ReadMeta("test", AppendCheckpoint(nil, c), 5, 1)
		if err != nil || !reflect.DeepEqual(recs[0].Checkpoint, c) {
			t.Errorf("%v: the record came back as %+v", err, recs)
		}
	}
	c := sampleSnapshots()
	c.Origin = &lineage.Origin{Watermark: 1}
	if c.checkSnapshots() == "" {
		t.Error("a snapshot at the watermark of the origin is not refused")
	}
}

// Without this a disk that was rolled back would be opened as one that was not: what it drops
// would be taken for what a snapshot of the abandoned branch has.
func TestTreeOfSnapshotsReadsBack(t *testing.T) {
	c := sampleSnapshots()
	c.Snapshots[2].Parent, c.Parent = c.Snapshots[0].ID, c.Snapshots[1].ID
	alone := EncodeCheckpoint(c)
	golden(t, "tree.golden", alone)
	if back, err := DecodeCheckpoint("test", alone); err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%v: the checkpoint came back as %+v", err, back)
	}
}
