package client

import (
	"context"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
)

// Blockd is Metad over gRPC.
type Blockd struct {
	p     *pool
	top   topologies
	group *lifecycle.Group
}

var _ Metad = (*Blockd)(nil)

// NewBlockd makes a client and begins to follow the topology. Close ends it.
func NewBlockd(o Options) (*Blockd, error) {
	p, err := newPool(o)
	if err != nil {
		return nil, err
	}
	b := &Blockd{p: p, group: lifecycle.NewGroup(context.Background())}
	b.group.Go("topology", b.watch)
	return b, nil
}

// Close ends the watch and the connections.
func (b *Blockd) Close() error {
	err := b.p.close()
	if e := b.group.Close(); err == nil {
		err = e
	}
	return err
}

// Topology is part of Metad.
func (b *Blockd) Topology() *cluster.Topology { return b.top.present() }

// OnTopology is part of Metad.
func (b *Blockd) OnTopology(f func(*cluster.Topology)) (stop func()) { return b.top.listen(f) }

// Register is part of Metad.
func (b *Blockd) Register(ctx context.Context, r Registration) (Registered, error) {
	req := &api.RegisterHostRequest{Holder: api.FromHolder(r.Holder), DataAddress: r.DataAddress, Zone: r.Zone, Exports: r.Exports,
		NbdUnixPath: r.NBDUnixPath, NbdTcpAddress: r.NBDTCP, NbdTcpTls: r.NBDTLS}
	if r.ClusterID != [16]byte{} {
		req.ClusterId = r.ClusterID[:]
	}
	for _, s := range r.Stores {
		req.Stores = append(req.Stores, &api.RegisterStore{Ref: api.FromRef(s.StoreRef), CapacityBytes: s.Capacity})
	}
	var rep *api.RegisterHostReply
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.blockd.RegisterHost(ctx, req)
		return err
	})
	if err != nil {
		return Registered{}, err
	}
	out := Registered{Settings: rep.GetSettings().Value(), Refused: make(map[id.Store]string)}
	copy(out.ClusterID[:], rep.ClusterId)
	for _, x := range rep.Refused {
		ref, err := x.GetRef().Value()
		if err != nil {
			return out, err
		}
		out.Refused[ref.Store] = x.Reason
	}
	if out.Floors, err = toFloors(rep.Floors); err != nil {
		return out, err
	}
	out.Topology, err = b.take(rep.Topology)
	return out, err
}

// take reads a topology that came with an answer.
func (b *Blockd) take(x *api.Topology) (*cluster.Topology, error) {
	t, err := x.Value()
	if err != nil {
		return nil, err
	}
	b.top.offer(t)
	return t, nil
}

// Heartbeat is part of Metad.
func (b *Blockd) Heartbeat(ctx context.Context, h Heartbeat) (HeartbeatReply, error) {
	req := fromHeartbeat(h)
	var rep *api.HeartbeatReply
	err := b.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) (err error) {
		if rep, err = t.blockd.Heartbeat(ctx, req); err == nil {
			b.top.movedTo(t.address)
		}
		return err
	})
	if err != nil {
		return HeartbeatReply{}, err
	}
	return toHeartbeatReply(rep)
}

func fromHeartbeat(h Heartbeat) *api.HeartbeatRequest {
	req := &api.HeartbeatRequest{Holder: api.FromHolder(h.Holder), CpuMs: uint64(h.CPU.Milliseconds()), ResidentBytes: h.ResidentBytes, Waits: api.FromStoreWaits(h.Waits)}
	for _, s := range h.Stores {
		beat := &api.StoreBeat{Ref: api.FromRef(s.StoreRef), CapacityBytes: s.Capacity, UsedBytes: s.Used, LogUsedBytes: s.LogUsed,
			LogCapacityBytes: s.LogCapacity, Full: s.Full, Dead: s.Dead, FreeBytes: s.Free,
			Traffic: api.FromStoreTraffic(s.Traffic), Groups: api.FromGroupUses(s.Groups), Use: api.FromVolumeUsePage(s.Use)}
		for _, x := range s.Streams {
			beat.Streams = append(beat.Streams, &api.StreamBeat{Volume: x.Volume[:], Ensemble: api.FromEnsembleID(x.Ensemble)})
		}
		for _, x := range s.Repairs {
			beat.Repairs = append(beat.Repairs, &api.RepairBeat{Pg: uint32(x.PG), Version: x.Version, Whole: x.Whole, SegmentsDone: x.Done, SegmentsLeft: x.Left,
				BytesDone: x.BytesDone, BytesLeft: x.BytesLeft, BytesPerSecond: x.BytesPerSecond, Stuck: x.Stuck, Problem: x.Problem})
		}
		beat.Remains = api.FromRemains(s.Remains)
		beat.Care, beat.Stuck = api.FromCare(s.Care), api.FromSegments(s.Stuck, cluster.StuckMax)
		for _, p := range s.Scrubs {
			beat.Scrubs = append(beat.Scrubs, api.FromScrub(p))
		}
		req.Stores = append(req.Stores, beat)
	}
	for _, v := range h.Volumes {
		b := &api.VolumeBeat{Volume: v.Volume[:], Epoch: uint64(v.Epoch), UnpackedBytes: v.Unpacked,
			Sessions: v.Sessions, State: api.VolumeState(v.State), Problem: v.Problem, Space: api.FromSpace(v.Space),
			Cleaning: api.FromCleaning(v.Cleaning), Traffic: api.FromTraffic(v.Traffic), Lost: api.FromLost(v.Lost), Hydration: api.FromHydration(v.Hydration), Flattening: api.FromFlattening(v.Flattening)}
		for i := range v.Looks {
			b.Looks = append(b.Looks, api.FromLost(&v.Looks[i]))
		}
		req.Volumes = append(req.Volumes, b)
	}
	req.Identity, req.Sealed = api.FromIdentity(h.Identity), h.Sealed
	for _, e := range h.Events {
		req.Events = append(req.Events, &api.HostEvent{N: e.N, AtUnixMs: e.At.UnixMilli(), Severity: api.Severity(e.Severity), Kind: e.Kind, About: e.About,
			Subject: e.Subject, Text: e.Text})
	}
	req.Memory, req.HeapLimitBytes, req.HeapBytes = api.FromMemory(h.Memory), h.HeapLimit, h.Heap
	return req
}

func toHeartbeatReply(rep *api.HeartbeatReply) (out HeartbeatReply, err error) {
	out.TopologyVersion, out.EventsTaken = rep.TopologyVersion, rep.EventsTaken
	out.TrustHash = rep.TrustHash
	if out.Floors, err = toFloors(rep.Floors); err != nil {
		return out, err
	}
	for _, x := range rep.Volumes {
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return out, err
		}
		out.Volumes = append(out.Volumes, VolumeNews{Volume: v, Epoch: id.Epoch(x.Epoch), Owned: x.Owned, Deleted: x.Deleted, Size: x.SizeBytes, QoS: x.Qos.Value(), HydrateRate: x.HydrateBytesPerSecond, Flatten: x.Flatten.Value(), NoRollback: x.NoRollback})
	}
	for _, x := range rep.Purges {
		s, err := api.StoreID(x.Store)
		if err != nil {
			return out, err
		}
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return out, err
		}
		out.Purges = append(out.Purges, Purge{Store: s, Volume: v, Epoch: id.Epoch(x.Epoch)})
	}
	for _, x := range rep.Rescues {
		v, err := api.VolumeID(x)
		if err != nil {
			return out, err
		}
		out.Rescues = append(out.Rescues, v)
	}
	if out.Scrubs, err = toScrubs(rep.Scrubs); err != nil {
		return out, err
	}
	if out.Looks, err = toLooks(rep.Looks); err != nil {
		return out, err
	}
	out.Doubts = api.Segments(rep.Doubts, cluster.DoubtsMax)
	for _, list := range []struct {
		from [][]byte
		to   *[]id.Volume
	}{{rep.Handoffs, &out.Handoffs}, {rep.Opens, &out.Opens}} {
		for _, x := range list.from {
			v, err := api.VolumeID(x)
			if err != nil {
				return out, err
			}
			*list.to = append(*list.to, v)
		}
	}
	err = toStoreOrders(rep, &out)
	return out, err
}

// toStoreOrders reads what is for stores of the host: those that are gone, streams that others are to drop.
func toStoreOrders(rep *api.HeartbeatReply, out *HeartbeatReply) error {
	for _, x := range rep.Gone {
		ref, err := x.Value()
		if err != nil {
			return err
		}
		out.Gone = append(out.Gone, ref)
	}
	for _, x := range rep.Drops {
		s, err := api.StoreID(x.Store)
		if err != nil {
			return err
		}
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return err
		}
		d := DropStreams{Store: s, Volume: v, Epoch: id.Epoch(x.Epoch)}
		for _, e := range x.Keep {
			d.Keep = append(d.Keep, e.Value())
		}
		out.Drops = append(out.Drops, d)
	}
	return nil
}

func toFloors(in []*api.VolumeFloor) (map[id.Volume]id.Epoch, error) {
	out := make(map[id.Volume]id.Epoch, len(in))
	for _, x := range in {
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return nil, err
		}
		out[v] = id.Epoch(x.Epoch)
	}
	return out, nil
}

func toLooks(in []*api.LookOrder) (out []LookOrder, err error) {
	for _, x := range in {
		o := LookOrder{Look: cluster.Look{From: x.From}}
		if o.Volume, err = api.VolumeID(x.Volume); err != nil {
			return nil, err
		}
		if o.ID, err = api.LookID(x.LookId); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func toScrubs(in []*api.ScrubOrder) (out []ScrubOrder, err error) {
	for _, x := range in {
		var o ScrubOrder
		if o.Store, err = api.StoreID(x.Store); err != nil {
			return nil, err
		}
		if o.ID, err = api.ScrubID(x.ScrubId); err != nil {
			return nil, err
		}
		if len(x.Volume) > 0 {
			if o.Volume, err = api.VolumeID(x.Volume); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// record runs a call that answers with a volume.
func (b *Blockd) record(ctx context.Context, again retry, f func(context.Context, api.BlockdClient) (*api.VolumeRecord, error)) (*cluster.Volume, error) {
	var rep *api.VolumeRecord
	err := b.p.call(ctx, again, func(ctx context.Context, t *target) (err error) {
		rep, err = f(ctx, t.blockd)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rep.Value()
}

// Volume is part of Metad.
func (b *Blockd) Volume(ctx context.Context, v id.Volume) (*cluster.Volume, error) {
	return b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.GetVolume(ctx, &api.GetVolumeRequest{Volume: v[:]})
	})
}

// FindVolume is part of Metad.
func (b *Blockd) FindVolume(ctx context.Context, nameOrID string) (*cluster.Volume, error) {
	return b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.GetVolume(ctx, &api.GetVolumeRequest{NameOrId: nameOrID})
	})
}

// Volumes is part of Metad.
func (b *Blockd) Volumes(ctx context.Context, after string, limit int) ([]cluster.Summary, bool, error) {
	var rep *api.ListVolumesReply
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.blockd.ListVolumes(ctx, &api.ListVolumesRequest{AfterName: after, Limit: uint32(max(limit, 0))})
		return err
	})
	if err != nil {
		return nil, false, err
	}
	var out []cluster.Summary
	for _, x := range rep.Volumes {
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return nil, false, err
		}
		out = append(out, cluster.Summary{ID: v, Name: x.Name, Size: x.SizeBytes})
	}
	return out, rep.More, nil
}

// Acquire is part of Metad.
func (b *Blockd) Acquire(ctx context.Context, v id.Volume, by id.Holder, why AcquireWhy) (Acquired, error) {
	var rep *api.AcquireVolumeReply
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.blockd.AcquireVolume(ctx, &api.AcquireVolumeRequest{Volume: v[:], Holder: api.FromHolder(by), Why: api.AcquireWhy(why)})
		return err
	})
	if err != nil {
		return Acquired{}, err
	}
	if r := rep.Refused; r != nil {
		return Acquired{Refused: &Refused{Owner: r.GetOwner().Value(), DataAddress: r.DataAddress, Epoch: id.Epoch(r.Epoch), RetryAfter: milliseconds(r.RetryAfterMs)}}, nil
	}
	got, err := rep.GetGranted().Value()
	return Acquired{Volume: got}, err
}

// Release is part of Metad.
func (b *Blockd) Release(ctx context.Context, v id.Volume, e id.Epoch, by id.Holder) error {
	_, err := b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.ReleaseVolume(ctx, &api.ReleaseVolumeRequest{Volume: v[:], Epoch: uint64(e), Holder: api.FromHolder(by)})
	})
	return err
}

// AddEnsemble is part of Metad.
func (b *Blockd) AddEnsemble(ctx context.Context, a AddEnsemble) (*cluster.Volume, error) {
	req := &api.AddEnsembleRequest{Volume: a.At.Volume[:], Epoch: uint64(a.At.Epoch), ListVersion: a.At.Version,
		ExcludeStores: storeBytes(a.Exclude), Want: uint32(max(a.Want, 0)), Fallback: uint32(max(a.Fallback, 0)), Better: a.Better}
	return b.record(ctx, retryUnknown, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.AddEnsemble(ctx, req)
	})
}

// CloseEnsemble is part of Metad.
func (b *Blockd) CloseEnsemble(ctx context.Context, a CloseEnsemble) (*cluster.Volume, error) {
	req := &api.CloseEnsembleRequest{Volume: a.At.Volume[:], Epoch: uint64(a.At.Epoch), ListVersion: a.At.Version,
		Ensemble: api.FromEnsembleID(a.Ensemble), FromLsn: uint64(a.From), ToLsn: uint64(a.To), FromMeta: uint64(a.MetaFrom), ToMeta: uint64(a.MetaTo),
		Holders: api.FromRefs(a.Holders)}
	return b.record(ctx, retryUnknown, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.CloseEnsemble(ctx, req)
	})
}

// RemoveEnsembles is part of Metad.
func (b *Blockd) RemoveEnsembles(ctx context.Context, a RemoveEnsembles) (*cluster.Volume, error) {
	req := &api.RemoveEnsemblesRequest{Volume: a.At.Volume[:], Epoch: uint64(a.At.Epoch), ListVersion: a.At.Version, ReleasedLsn: uint64(a.Released)}
	for _, e := range a.Ensembles {
		req.Ensembles = append(req.Ensembles, api.FromEnsembleID(e))
	}
	return b.record(ctx, retryUnknown, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.RemoveEnsembles(ctx, req)
	})
}

// ReplaceList is part of Metad.
func (b *Blockd) ReplaceList(ctx context.Context, at ListVersion, keep id.Ensemble) (*cluster.Volume, error) {
	req := &api.ReplaceListRequest{Volume: at.Volume[:], Epoch: uint64(at.Epoch), ListVersion: at.Version, Keep: api.FromEnsembleID(keep)}
	return b.record(ctx, retryUnknown, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.ReplaceList(ctx, req)
	})
}

// AllocRange is part of Metad.
func (b *Blockd) AllocRange(ctx context.Context, v id.Volume, e id.Epoch) (Range, error) {
	var rep *api.AllocRangeReply
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.blockd.AllocRange(ctx, &api.AllocRangeRequest{Volume: v[:], Epoch: uint64(e)})
		return err
	})
	if err != nil {
		return Range{}, err
	}
	return Range{Epoch: id.Epoch(rep.Epoch), First: id.Sequence(rep.First), Count: uint32(rep.Count)}, nil
}

// ForgetSpans is part of Metad.
func (b *Blockd) ForgetSpans(ctx context.Context, v id.Volume, e, below id.Epoch) error {
	_, err := b.record(ctx, retryAlways, func(ctx context.Context, c api.BlockdClient) (*api.VolumeRecord, error) {
		return c.ForgetSpans(ctx, &api.ForgetSpansRequest{Volume: v[:], Epoch: uint64(e), BelowEpoch: uint64(below)})
	})
	return err
}

// CommitCheckpoint is part of Metad.
func (b *Blockd) CommitCheckpoint(ctx context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error {
	req := &api.CommitCheckpointRequest{Volume: v[:], Epoch: uint64(e), Checkpoint: api.FromCheckpoint(&c)}
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.blockd.CommitCheckpoint(ctx, req)
		return err
	})
}

// EnsurePlacement is part of Metad.
func (b *Blockd) EnsurePlacement(ctx context.Context, exclude []id.Store) (*cluster.Topology, error) {
	var rep *api.Topology
	err := b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) (err error) {
		rep, err = t.blockd.EnsurePlacement(ctx, &api.EnsurePlacementRequest{ExcludeStores: storeBytes(exclude)})
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.take(rep)
}

// ReportStore is part of Metad.
func (b *Blockd) ReportStore(ctx context.Context, by id.Host, s cluster.StoreRef, problem string) error {
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.blockd.ReportStore(ctx, &api.ReportStoreRequest{Reporter: string(by), Store: api.FromRef(s), Problem: problem})
		return err
	})
}

// ConfirmPurge is part of Metad.
func (b *Blockd) ConfirmPurge(ctx context.Context, by id.Host, s cluster.StoreRef, v id.Volume) error {
	return b.p.call(ctx, retryAlways, func(ctx context.Context, t *target) error {
		_, err := t.blockd.ConfirmPurge(ctx, &api.ConfirmPurgeRequest{Host: string(by), Store: api.FromRef(s), Volume: v[:]})
		return err
	})
}

func storeBytes(in []id.Store) [][]byte {
	out := make([][]byte, len(in))
	for i := range in {
		out[i] = in[i][:]
	}
	return out
}
