package core

import (
	"fmt"
	"slices"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
)

// SnapshotTree says where the tree of a snapshot is, and its watermark. Who reads it does so page by page and
// outside of the core: what a snapshot holds never changes. ErrUnavailable: it is not passed yet.
func (c *Core) SnapshotTree(x id.Raw) (record.Snapshot, error) {
	s, ok := c.snapshot(x)
	switch {
	case !ok && slices.ContainsFunc(c.snaps.marks, func(m *mark) bool { return m.Snapshot == x }):
		return record.Snapshot{}, fmt.Errorf("snapshot is being taken: %w", errs.ErrUnavailable)
	case !ok || c.snaps.doomed[x]:
		return record.Snapshot{}, fmt.Errorf("snapshot: %w", errs.ErrNotFound)
	}
	return s.Snapshot, nil
}

// WhereIs says how a segment is kept now; false if nothing of the volume refers to it any more.
func (c *Core) WhereIs(s id.Segment) (Where, bool) {
	if c.table == nil {
		return Where{}, false
	}
	return c.placeOf(s)
}
