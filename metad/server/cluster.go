package server

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// clusterService answers operators and tools.
type clusterService struct {
	api.UnimplementedClusterServer
	s *Server
}

// disk finds a disk that is not deleted.
func (c *clusterService) disk(nameOrID string) (*state.Volume, error) {
	var v *state.Volume
	c.s.node.View(func(m *state.Machine) { v, _ = m.Find(nameOrID) })
	if v == nil {
		return nil, fmt.Errorf("disk %.140q: %w", nameOrID, errs.ErrNotFound)
	}
	return v, nil
}

// describe is a disk as people see it. What a silent owner said last is no news.
func describe(l *reconcile.Liveness, v *state.Volume, top *cluster.Topology, now time.Duration) *api.Disk {
	d := &api.Disk{DiskId: v.ID.String(), Name: v.Name, SizeBytes: v.Size, CreatedUnixMs: v.Created.UnixMilli(), State: "available",
		OwnerHost: string(v.Owner.Host), Epoch: uint64(v.Epoch), Lossy: len(v.Losses) > 0, Ensembles: uint32(len(v.List)), Qos: api.FromQoS(v.QoS), IsProtected: v.Protected}
	b, heard := l.Volume(v.Owner, v.ID, v.Epoch)
	owned := v.Owner != id.Holder{}
	if owned && !l.HostUp(now, v.Owner.Host) {
		b, heard = reconcile.VolumeBeat{Unpacked: b.Unpacked, Problem: "its owner is silent"}, false
	}
	d.UnpackedBytes, d.Sessions, d.Problem = b.Unpacked, b.Sessions, b.Problem
	if b.Lost != nil {
		d.LostBytes, d.AwayBytes = b.Lost.Bytes, b.Lost.Away
	}
	fillFigures(d, l, v, top, &b)
	d.Hydration, d.Flattening = describeHydration(v, &b), describeFlattening(v, &b)
	switch {
	case !v.Live():
		d.State = "deleting"
	case v.Rollback != nil:
		d.State = "rolling back"
	case heard && b.State == reconcile.Stuck:
		d.State = "stuck"
	case heard && b.State == reconcile.Draining:
		d.State = "draining"
	case heard && b.State == reconcile.Opening, owned && !v.OpenComplete:
		d.State = "opening"
	case b.Sessions > 0:
		d.State = "attached"
	}
	return d
}

func (c *clusterService) answer(r *reign, v *state.Volume) *api.Disk {
	var d *api.Disk
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		d = described(l, m, v, reconcile.Topology(m, l, now), now)
	})
	return d
}

func (c *clusterService) CreateDisk(ctx context.Context, q *api.CreateDiskRequest) (*api.Disk, error) {
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	raw, err := id.NewRaw(c.s.clock.Wall(), c.s.random)
	if err != nil {
		return nil, c.s.fail(err)
	}
	if len(q.GetRequestId()) > state.NameMax {
		return nil, c.s.fail(fmt.Errorf("request id of %d bytes, at most %d: %w", len(q.GetRequestId()), state.NameMax, errs.ErrInvalid))
	}
	// Checked here too, so that nonsense is not committed to be refused by everyone.
	if err := state.CheckDiskName(q.GetName()); err != nil {
		return nil, c.s.fail(err)
	}
	if err := state.CheckDiskSize(q.GetSizeBytes()); err != nil {
		return nil, c.s.fail(err)
	}
	if err := q.GetQos().Value().Validate(); err != nil {
		return nil, c.s.fail(err)
	}
	res, err := c.s.commit(ctx, &state.CreateVolume{ID: id.Volume(raw), Name: q.GetName(), Size: q.GetSizeBytes(),
		RequestID: q.GetRequestId(), NowMS: c.s.clock.Wall().UnixMilli(), QoS: q.GetQos().Value()})
	if err != nil {
		return nil, err
	}
	c.s.note(state.Info, "disk_created", aboutDisk, res.Volume.Name, caller(ctx).String(), "disk %s of %d bytes", res.Volume.ID, res.Volume.Size)
	c.s.log.Info("disk created", "volume", res.Volume.ID.String(), "name", res.Volume.Name, "bytes", res.Volume.Size, "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

func (c *clusterService) ListDisks(ctx context.Context, q *api.ListDisksRequest) (*api.ListDisksReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	rep := &api.ListDisksReply{}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		vs, more := m.Named(q.GetAfterName(), pageLimit(q.GetLimit()))
		rep.More = more
		top := reconcile.Topology(m, l, now)
		for _, v := range vs {
			rep.Disks = append(rep.Disks, described(l, m, v, top, now))
		}
	})
	return rep, nil
}

// found is the start of every call about one disk.
func (c *clusterService) found(ctx context.Context, nameOrID string) (*reign, *state.Volume, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, nil, c.s.fail(err)
	}
	v, err := c.disk(nameOrID)
	if err != nil {
		return nil, nil, c.s.fail(err)
	}
	return r, v, nil
}

func (c *clusterService) GetDisk(ctx context.Context, q *api.GetDiskRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	return c.answer(r, v), nil
}

func (c *clusterService) ResizeDisk(ctx context.Context, q *api.ResizeDiskRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	res, err := c.s.commit(ctx, &state.ResizeVolume{Volume: v.ID, Size: q.GetSizeBytes()})
	if err != nil {
		return nil, err
	}
	c.s.note(state.Info, "disk_resized", aboutDisk, v.Name, caller(ctx).String(), "disk %s from %d to %d bytes", v.ID, v.Size, q.GetSizeBytes())
	c.s.log.Info("disk resized", "volume", v.ID.String(), "bytes", q.GetSizeBytes(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

func (c *clusterService) SetDiskQoS(ctx context.Context, q *api.SetDiskQoSRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	change := cluster.QoSChange{IOPS: q.Iops, IOPSBurst: q.IopsBurst, Bytes: q.BytesPerSecond, BytesBurst: q.BurstBytes}
	res, err := c.s.commit(ctx, &state.SetQoS{Volume: v.ID, Change: change})
	if err != nil {
		return nil, err
	}
	now := res.Volume.QoS
	c.s.log.Info("disk limits changed", "volume", v.ID.String(), "iops", now.IOPS, "bytes", now.Bytes, "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

// idle refuses a disk whose owner said last that clients use it. Of an owner that lives
// but was not heard by this leader yet nothing is known: the caller asks again.
func (r *reign) idle(v *state.Volume) (err error) {
	if (v.Owner == id.Holder{}) {
		return nil
	}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		h, _ := m.Host(v.Owner.Host)
		b, _ := l.Volume(v.Owner, v.ID, v.Epoch)
		switch {
		case h.HolderNumber > v.Owner.Number: // its clients went with it
		case b.Sessions > 0:
			err = fmt.Errorf("disk %s has %d clients on %s; detach them, or force: %w", v.Name, b.Sessions, v.Owner.Host, errs.ErrConflict)
		case l.HostUp(now, v.Owner.Host) && !l.Spoke(v.Owner):
			err = fmt.Errorf("host %s has not told yet who uses disk %s: %w", v.Owner.Host, v.Name, errs.ErrUnavailable)
		}
	})
	return err
}

func (c *clusterService) DiskEndpoints(ctx context.Context, q *api.DiskEndpointsRequest) (*api.DiskEndpointsReply, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	rep := &api.DiskEndpointsReply{DiskId: v.ID.String(), Name: v.Name, SizeBytes: v.Size}
	top, _ := r.topology()
	for _, h := range top.Hosts {
		if h.Exports && (h.NBDUnixPath != "" || h.NBDTCP != "") {
			rep.Endpoints = append(rep.Endpoints, endpoint(h, v))
		}
	}
	order := func(e *api.Endpoint) int {
		h, _ := top.Host(id.Host(e.Host))
		return rank(e, h.Cordoned)
	}
	slices.SortStableFunc(rep.Endpoints, func(a, b *api.Endpoint) int { return order(a) - order(b) })
	return rep, nil
}

// rank puts the owner first, hosts that are down last, and those that are cordoned before them.
func rank(e *api.Endpoint, cordoned bool) int {
	switch {
	case e.Up && e.Owner:
		return 0
	case e.Up && !cordoned:
		return 1
	case e.Up:
		return 2
	}
	return 3
}

// endpoint makes the URIs by which clients attach v at h (the NBD URI specification).
// The export is the disk's id: a name could be another disk's tomorrow.
func endpoint(h cluster.Host, v *state.Volume) *api.Endpoint {
	e := &api.Endpoint{Host: string(h.Host), Owner: v.Owner.Host == h.Host, Up: h.Up}
	if h.NBDUnixPath != "" {
		e.UnixUri = "nbd+unix:///" + v.ID.String() + "?socket=" + strings.ReplaceAll(url.QueryEscape(h.NBDUnixPath), "%2F", "/")
	}
	if h.NBDTCP != "" {
		scheme := "nbd://"
		if h.NBDTLS {
			scheme = "nbds://"
		}
		e.TcpUri = scheme + h.NBDTCP + "/" + v.ID.String()
	}
	return e
}

func (c *clusterService) DeclareStoreLost(ctx context.Context, q *api.DeclareStoreLostRequest) (*api.DeclareStoreLostReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	store, err := id.ParseStore(q.GetStoreId())
	if err != nil {
		return nil, c.s.fail(err)
	}
	inc, err := id.ParseIncarnation(q.GetIncarnation())
	if err != nil {
		return nil, c.s.fail(err)
	}
	ref := cluster.StoreRef{Store: store, Incarnation: inc}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if s, ok := m.Store(store); ok && s.StoreRef == ref {
			if up, _ := l.StoreUp(now, ref, s.Host); up {
				err = fmt.Errorf("store %s on %s is up; stop it first: %w", store, s.Host, errs.ErrConflict)
			} else if !q.GetAcceptLoss() {
				err = reconcile.Losable(m, reconcile.Topology(m, l, now), s)
			}
		}
	})
	if err != nil {
		return nil, c.s.fail(err)
	}
	if _, err := c.s.commit(ctx, &state.LoseStore{Store: ref}); err != nil {
		return nil, err
	}
	c.s.note(state.Warning, "store_given_up", aboutStore, ref.Store.String(), caller(ctx).String(), "an operator gave the store up")
	c.s.log.Warn("store declared lost", "store", ref.String(), "by", caller(ctx).String())
	return &api.DeclareStoreLostReply{}, nil
}

func (c *clusterService) DrainStore(ctx context.Context, q *api.DrainStoreRequest) (*api.DrainStoreReply, error) {
	store, err := id.ParseStore(q.GetStoreId())
	if err != nil {
		return nil, c.s.fail(err)
	}
	var s state.Store
	rep := &api.DrainStoreReply{}
	lookErr := c.look(ctx, func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		var ok bool
		if s, ok = m.Store(store); !ok {
			err = fmt.Errorf("store %s: %w", store, errs.ErrNotFound)
			return
		}
		groups, lists := m.Needed(s.StoreRef)
		rep.Pgs, rep.Ensembles = uint32(groups), uint32(lists)
		if !q.GetStop() && !s.Leaving {
			err = reconcile.Drainable(m, reconcile.Topology(m, l, now), s)
		}
	})
	if lookErr != nil {
		return nil, lookErr
	}
	if err != nil {
		return nil, c.s.fail(err)
	}
	if _, err := c.s.commit(ctx, &state.MarkStore{Store: s.StoreRef, Leaving: !q.GetStop(), Out: s.Out}); err != nil {
		return nil, err
	}
	if q.GetStop() {
		c.s.note(state.Info, "drain_stopped", aboutStore, s.Store.String(), caller(ctx).String(), "the store on %s stays", s.Host)
	} else {
		c.s.note(state.Info, "drain_begun", aboutStore, s.Store.String(), caller(ctx).String(), "the store on %s is to be emptied: %d groups, %d journals", s.Host, rep.Pgs, rep.Ensembles)
	}
	c.s.log.Info("store is to be emptied", "store", s.StoreRef.String(), "stop", q.GetStop(), "by", caller(ctx).String())
	return rep, nil
}

func (c *clusterService) AcceptLoss(ctx context.Context, q *api.AcceptLossRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	e := id.Ensemble{Epoch: id.Epoch(q.GetEnsembleEpoch()), N: q.GetEnsembleN()}
	res, err := c.s.commit(ctx, &state.AcceptLoss{Volume: v.ID, Ensemble: e, By: caller(ctx).Name, NowMS: c.s.clock.Wall().UnixMilli()})
	if err != nil {
		return nil, err
	}
	c.s.note(state.Warning, "loss_accepted", aboutDisk, v.Name, caller(ctx).String(), "an operator accepted that writes of %s in ensemble %s may be gone", v.ID, e)
	c.s.log.Warn("loss accepted", "volume", v.ID.String(), "ensemble", e.String(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}
