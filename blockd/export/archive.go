package export

import (
	"context"
	"fmt"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

var _ archproto.Owner = (*Exports)(nil)

// ownedForArchive gives a disk for the archive, which asks its owner; a disk that nobody owns is opened.
func (x *Exports) ownedForArchive(ctx context.Context, v id.Volume) (*volume.Volume, error) {
	d, err := x.disk(v)
	if err != nil {
		return nil, err
	}
	vol, _, refused, err := x.own(ctx, d, client.AcquireOpen)
	if err == nil && refused != nil {
		err = fmt.Errorf("disk %s: %s has it: %w", v, refused.Owner, errs.ErrConflict)
	}
	return vol, err
}

// PlanSnapshot is part of archproto.Owner.
func (x *Exports) PlanSnapshot(ctx context.Context, q archproto.PlanQuery) (*archproto.Plan, error) {
	vol, err := x.ownedForArchive(ctx, q.Volume)
	if err != nil {
		return nil, err
	}
	p, err := vol.PlanSnapshot(ctx, q.Snapshot, q.Base, q.After)
	if err != nil {
		return nil, err
	}
	out := &archproto.Plan{Root: p.Tree.Root, Blocks: p.Tree.Blocks, Watermark: p.Tree.Watermark, More: p.More}
	for _, h := range p.Held {
		out.Held = append(out.Held, archproto.Held(h))
	}
	return out, nil
}

// ReadSnapshot is part of archproto.Owner.
func (x *Exports) ReadSnapshot(ctx context.Context, q archproto.ReadQuery, dst []byte) ([]segment.Entry, []uint32, error) {
	vol, err := x.ownedForArchive(ctx, q.Volume)
	if err != nil {
		return nil, nil, err
	}
	return vol.ReadHeld(ctx, q.Segment, q.Slots, dst)
}
