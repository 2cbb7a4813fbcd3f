package server

import (
	"context"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
)

// ArchiveHolds tells what must not go from the archive: manifests of which disks still have something there only, bases of uploads, what is
// being copied, uploads under way.
func (x *archiver) ArchiveHolds(ctx context.Context, _ *api.ArchiveHoldsRequest) (*api.ArchiveHoldsReply, error) {
	if err := x.s.fresh(ctx); err != nil {
		return nil, x.s.fail(err)
	}
	r, err := x.s.ruling()
	if err != nil {
		return nil, x.s.fail(err)
	}
	out := &api.ArchiveHoldsReply{Manifests: r.archivesOf().copied()}
	var h reconcile.ArchiveHolds
	x.s.node.View(func(m *state.Machine) { h, err = reconcile.HoldsOf(m) })
	if err != nil {
		return nil, x.s.fail(err)
	}
	out.Manifests = append(out.Manifests, h.Disks...)
	for _, b := range h.Bases {
		out.Manifests = append(out.Manifests, manifestKey(b.Volume, b.Snapshot))
	}
	for _, u := range h.Uploads {
		out.Uploads = append(out.Uploads, u[:])
	}
	return out, nil
}
