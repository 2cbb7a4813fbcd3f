package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// blockdService answers blockd.
type blockdService struct {
	api.UnimplementedBlockdServer
	s *Server
}

// ruling is the present reign, unless its state is being rebuilt.
func (b *blockdService) ruling() (*reign, error) {
	r, err := b.s.ruling()
	if err == nil {
		err = b.s.rebuilding()
	}
	return r, err
}

const (
	ensembleWant     = 3
	ensembleFallback = 2
	purgesPerBeat    = 256
	streamsPerBeat   = 1024
	listDefault      = 256
	listMax          = 1024
	retryAfterMin    = 50 * time.Millisecond
)

func (b *blockdService) RegisterHost(ctx context.Context, q *api.RegisterHostRequest) (*api.RegisterHostReply, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	holder := q.GetHolder().Value()
	if err := mustBe(ctx, holder.Host); err != nil {
		return nil, b.s.fail(err)
	}
	c := &state.RegisterHost{Holder: holder, DataAddress: q.GetDataAddress(), Zone: q.GetZone(), Exports: q.GetExports(),
		NBDUnixPath: q.GetNbdUnixPath(), NBDTCP: q.GetNbdTcpAddress(), NBDTLS: q.GetNbdTcpTls()}
	for _, x := range q.GetStores() {
		ref, err := x.GetRef().Value()
		if err != nil {
			return nil, b.s.fail(err)
		}
		c.Stores = append(c.Stores, state.RegisterStore{StoreRef: ref, Capacity: x.GetCapacityBytes()})
	}
	if err := b.beforeRegister(r, q, c); err != nil {
		return nil, b.s.fail(err)
	}
	res, err := b.s.commit(ctx, c)
	if err != nil {
		return nil, err
	}
	again := false // it lives already, and has a store more
	rep := &api.RegisterHostReply{}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		again = l.Spoke(holder)
		l.Registered(now, holder)
		cid := m.ClusterID()
		rep.ClusterId, rep.Settings, rep.Floors = cid[:], api.FromSettings(m.Settings()), floorsOf(m)
	})
	for _, x := range c.Stores {
		if why := res.Refused[x.Store]; why != "" {
			rep.Refused = append(rep.Refused, &api.RefusedStore{Ref: api.FromRef(x.StoreRef), Reason: why})
			b.s.note(state.Warning, "store_refused", aboutStore, x.Store.String(), string(holder.Host), "%s", why)
			b.s.log.Warn("store refused", "host", string(holder.Host), "store", x.Store.String(), "why", why)
		}
	}
	if !again {
		b.s.note(state.Info, "host_started", aboutHost, string(holder.Host), "", "blockd started with %d stores, its life %d", len(c.Stores), holder.Number)
	}
	b.s.log.Info("host registered", "host", string(holder.Host), "life", holder.Number, "stores", len(c.Stores))
	rep.Topology = api.FromTopology(r.refresh())
	return rep, nil
}

// beforeRegister refuses a host of another cluster and fills in which stores may come
// from another host: those that this leader does not hear of there.
func (b *blockdService) beforeRegister(r *reign, q *api.RegisterHostRequest, c *state.RegisterHost) (err error) {
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if cid := m.ClusterID(); len(q.GetClusterId()) > 0 && string(q.GetClusterId()) != string(cid[:]) {
			err = fmt.Errorf("host %s belongs to cluster %x, this is %x: %w", c.Holder.Host, q.GetClusterId(), cid, errs.ErrDenied)
			return
		}
		for i := range c.Stores {
			if have, ok := m.Store(c.Stores[i].Store); ok && have.Host != c.Holder.Host {
				up, _ := l.StoreUp(now, have.StoreRef, have.Host)
				c.Stores[i].MayMove = !up
			}
		}
	})
	return err
}

func (b *blockdService) Heartbeat(ctx context.Context, q *api.HeartbeatRequest) (*api.HeartbeatReply, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	beat, err := readBeat(q)
	if err == nil {
		err = mustBe(ctx, beat.Holder.Host)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	rep := &api.HeartbeatReply{}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if err = knownLife(m, beat.Holder); err != nil {
			return
		}
		for _, x := range beat.Stores {
			if m.Forgotten(x.StoreRef) {
				rep.Gone = append(rep.Gone, api.FromRef(x.StoreRef))
			}
		}
		// Only what is registered on this host counts, whatever it says.
		beat.Stores = slices.DeleteFunc(beat.Stores, func(x reconcile.StoreBeat) bool {
			s, ok := m.Store(x.Store)
			return !ok || s.Host != beat.Holder.Host || s.Incarnation != x.Incarnation || s.Lost
		})
		b.s.noteRenewal(l, &beat)
		l.Beat(now, beat)
		rep.Volumes = volumeNews(m, beat)
		rep.Purges = purges(m, beat)
		rep.Drops, err = drops(m, q)
		for _, o := range r.mu.scrubs.Beat(beat) {
			order := &api.ScrubOrder{Store: o.Store[:], ScrubId: o.ID[:]}
			if !o.Volume.IsZero() {
				order.Volume = o.Volume[:]
			}
			rep.Scrubs = append(rep.Scrubs, order)
		}
		r.lookOrders(l, beat, rep)
		if q.GetSealed() {
			rep.Floors = floorsOf(m)
		}
		rep.Handoffs, rep.Opens = r.orders(now, m, beat.Holder.Host)
		for _, x := range r.mu.rescues[beat.Holder.Host] {
			if v, ok := m.Volume(x.Volume); ok && v.Epoch == x.Epoch {
				rep.Rescues = append(rep.Rescues, x.Volume[:])
			}
		}
	})
	if err != nil {
		return nil, b.s.fail(err)
	}
	if len(q.Events) > 0 {
		if err := b.s.hostEvents(beat.Holder, q.Events); err != nil {
			return nil, b.s.fail(err)
		}
		b.s.node.View(func(m *state.Machine) { rep.EventsTaken = m.Heard(beat.Holder) })
	}
	if t := b.s.trust(); len(t.CAs) > 0 {
		hash := pki.HashOf(t.CAs)
		rep.TrustHash = hash[:]
	}
	r.poke()
	top, _ := r.topology()
	rep.TopologyVersion = top.Version
	return rep, nil
}

// floorsOf are the epochs below which stores create no streams; see storeproto/core, Seal.
func floorsOf(m *state.Machine) (all []*api.VolumeFloor) {
	for _, v := range m.Volumes() {
		all = append(all, &api.VolumeFloor{Volume: v.ID[:], Epoch: uint64(v.Epoch)})
	}
	return all
}

func readBeat(q *api.HeartbeatRequest) (reconcile.Beat, error) {
	beat := reconcile.Beat{Holder: q.GetHolder().Value(), CPU: time.Duration(q.GetCpuMs()) * time.Millisecond, ResidentBytes: q.GetResidentBytes()}
	beat.Identity = q.GetIdentity().Value()
	if len(q.Stores) > state.StoresPerHostMax || len(q.Volumes) > state.VolumesMax || len(q.Memory) > cluster.MemoryUsesMax {
		return beat, fmt.Errorf("heartbeat of %s: too many parts: %w", beat.Holder, errs.ErrInvalid)
	}
	for _, x := range q.Stores {
		ref, err := x.GetRef().Value()
		if err != nil {
			return beat, err
		}
		groups, err := api.GroupUses(x.Groups)
		if err != nil {
			return beat, err
		}
		page, err := x.Use.Value()
		if err != nil {
			return beat, err
		}
		remains, err := api.Remains(x.Remains)
		if err != nil {
			return beat, err
		}
		scrubs, err := readScrubs(x.Scrubs)
		if err != nil {
			return beat, err
		}
		beat.Stores = append(beat.Stores, reconcile.StoreBeat{StoreRef: ref, Care: x.Care.Value(), Scrubs: scrubs, Free: x.FreeBytes, Traffic: x.Traffic.Value(), Groups: groups, Use: page, Remains: remains, Capacity: x.CapacityBytes, Used: x.UsedBytes,
			LogUsed: x.LogUsedBytes, LogCapacity: x.LogCapacityBytes, Full: x.Full, Dead: x.Dead, Repairs: readRepairs(x.Repairs), Stuck: api.Segments(x.Stuck, cluster.StuckMax)})
	}
	for _, x := range q.Volumes {
		v, err := api.VolumeID(x.Volume)
		if err != nil {
			return beat, err
		}
		lost, looks, err := readLooks(x)
		if err != nil {
			return beat, err
		}
		flat, err := flattening(x.Flattening)
		if err != nil {
			return beat, err
		}
		beat.Volumes = append(beat.Volumes, reconcile.VolumeBeat{Lost: lost, Looks: looks, Volume: v, Epoch: id.Epoch(x.Epoch), Unpacked: x.UnpackedBytes,
			Sessions: x.Sessions, State: reconcile.VolumeState(x.State), Problem: firstBytes(x.Problem, 256), Space: x.Space.Value(), Cleaning: x.Cleaning.Value(), Traffic: x.Traffic.Value(), Hydration: hydration(x.Hydration), Flattening: flat})
	}
	var err error
	if beat.Waits, err = api.StoreWaits(q.Waits); err != nil {
		return beat, err
	}
	beat.Memory, beat.HeapLimit, beat.Heap = api.MemoryUses(q.Memory), q.HeapLimitBytes, q.HeapBytes
	return beat, nil
}

func readScrubs(xs []*api.ScrubProgress) (out []cluster.ScrubProgress, err error) {
	for _, x := range xs[:min(len(xs), cluster.ScrubsMax)] {
		p, err := x.Value()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func readRepairs(xs []*api.RepairBeat) []reconcile.RepairBeat {
	var out []reconcile.RepairBeat
	for _, x := range xs[:min(len(xs), int(id.PGMax)+1)] {
		out = append(out, reconcile.RepairBeat{PG: id.PG(min(x.Pg, uint32(id.PGMax))), Version: x.Version, Whole: x.Whole, Done: x.SegmentsDone, Left: x.SegmentsLeft,
			BytesDone: x.BytesDone, BytesLeft: x.BytesLeft, BytesPerSecond: x.BytesPerSecond, Stuck: x.Stuck, Problem: firstBytes(x.Problem, 256)})
	}
	return out
}

// knownLife: a host that is not registered with this life registers first; one with a
// newer life has been replaced.
func knownLife(m *state.Machine, h id.Holder) error {
	have, ok := m.Host(h.Host)
	switch {
	case !ok || have.HolderNumber < h.Number:
		return fmt.Errorf("host %s is not registered: %w", h, errs.ErrNotFound)
	case have.HolderNumber > h.Number:
		return fmt.Errorf("host %s has life %d: %w", h, have.HolderNumber, errs.ErrStaleEpoch)
	}
	return nil
}

func volumeNews(m *state.Machine, beat reconcile.Beat) []*api.VolumeNews {
	var out []*api.VolumeNews
	for _, x := range beat.Volumes {
		v, ok := m.Volume(x.Volume)
		switch {
		case !ok:
			// Its deletion is complete; ids do not recur.
			out = append(out, &api.VolumeNews{Volume: x.Volume[:], Epoch: uint64(x.Epoch) + 1, Deleted: true})
		case v.Epoch >= x.Epoch: // else we are behind the owner, and know nothing new
			out = append(out, &api.VolumeNews{Volume: x.Volume[:], Epoch: uint64(v.Epoch), Owned: v.Owner == beat.Holder && v.Epoch == x.Epoch,
				SizeBytes: v.Size, Deleted: v.Deleted, Qos: api.FromQoS(v.QoS), HydrateBytesPerSecond: hydrateRate(v), Flatten: api.FromFlatten(v.Flatten), NoRollback: v.Rollback == nil})
		}
	}
	return out
}

func purges(m *state.Machine, beat reconcile.Beat) []*api.Purge {
	var out []*api.Purge
	for _, v := range m.Deleted() {
		for _, s := range beat.Stores {
			if slices.Contains(v.Purging(), s.StoreRef) && len(out) < purgesPerBeat {
				out = append(out, &api.Purge{Store: s.Store[:], Volume: v.ID[:], Epoch: uint64(v.Epoch)})
			}
		}
	}
	return out
}

// drops names streams that no list has and none will. Only ensembles of epochs below
// the present one: those of the present epoch can still be added, and an answer may
// arrive late. Below it lists only shrink, so even a stale answer harms nothing.
func drops(m *state.Machine, q *api.HeartbeatRequest) ([]*api.DropStreams, error) {
	var out []*api.DropStreams
	for _, s := range q.Stores {
		if len(s.Streams) > streamsPerBeat {
			return nil, fmt.Errorf("heartbeat: %d streams of one store, at most %d: %w", len(s.Streams), streamsPerBeat, errs.ErrInvalid)
		}
		named := make(map[id.Volume]bool)
		for _, x := range s.Streams {
			vid, err := api.VolumeID(x.Volume)
			if err != nil {
				return nil, err
			}
			v, ok := m.Volume(vid)
			e := x.GetEnsemble().Value()
			if !ok || v.Deleted || named[vid] || e.Epoch >= v.Epoch {
				continue
			}
			if _, listed := v.Ensemble(e); listed {
				continue
			}
			named[vid] = true
			d := &api.DropStreams{Store: s.GetRef().GetStore(), Volume: x.Volume, Epoch: uint64(v.Epoch) - 1}
			for _, l := range v.List {
				d.Keep = append(d.Keep, api.FromEnsembleID(l.ID))
			}
			// A store spares what is newer than all that it is to keep; below the present epoch
			// there is no such thing but targets of openings that broke off.
			d.Keep = append(d.Keep, api.FromEnsembleID(id.Ensemble{Epoch: v.Epoch - 1, N: math.MaxUint32}))
			out = append(out, d)
		}
	}
	return out, nil
}

func (b *blockdService) WatchTopology(_ *api.WatchTopologyRequest, stream grpc.ServerStreamingServer[api.Topology]) error {
	r, err := b.ruling()
	if err != nil {
		return b.s.fail(err)
	}
	var sent uint64
	for {
		top, changed := r.topology()
		if top.Version > sent {
			if err := stream.Send(api.FromTopology(top)); err != nil {
				return err
			}
			sent = top.Version
			continue
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		case <-r.ctx.Done():
			return b.s.fail(b.s.node.NotLeader())
		}
	}
}

func (b *blockdService) GetVolume(ctx context.Context, q *api.GetVolumeRequest) (*api.VolumeRecord, error) {
	if _, err := b.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	// A barrier, so that whoever lost an answer sees what it did.
	if err := b.s.node.Barrier(ctx); err != nil {
		return nil, b.s.fail(err)
	}
	var found *state.Volume
	if len(q.GetVolume()) > 0 {
		v, err := api.VolumeID(q.Volume)
		if err != nil {
			return nil, b.s.fail(err)
		}
		b.s.node.View(func(m *state.Machine) { found, _ = m.Volume(v) })
	} else {
		b.s.node.View(func(m *state.Machine) {
			find := m.Find
			if q.GetKept() {
				find = m.FindKept
			}
			found, _ = find(q.GetNameOrId())
		})
	}
	if found == nil {
		return nil, b.s.fail(fmt.Errorf("disk %q: %w", q.GetNameOrId(), errs.ErrNotFound))
	}
	return api.FromVolume(&found.Volume), nil
}

func (b *blockdService) ListVolumes(ctx context.Context, q *api.ListVolumesRequest) (*api.ListVolumesReply, error) {
	if _, err := b.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	if err := b.s.fresh(ctx); err != nil {
		return nil, b.s.fail(err)
	}
	rep := &api.ListVolumesReply{}
	b.s.node.View(func(m *state.Machine) {
		vs, more := m.Named(q.GetAfterName(), pageLimit(q.GetLimit()))
		rep.More = more
		for _, v := range vs {
			rep.Volumes = append(rep.Volumes, &api.VolumeSummary{Volume: v.ID[:], Name: v.Name, SizeBytes: v.Size})
		}
	})
	return rep, nil
}

func pageLimit(asked uint32) int {
	if asked == 0 {
		return listDefault
	}
	return int(min(asked, listMax))
}

func (b *blockdService) AcquireVolume(ctx context.Context, q *api.AcquireVolumeRequest) (*api.AcquireVolumeReply, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	by := q.GetHolder().Value()
	v, err := api.VolumeID(q.GetVolume())
	if err == nil {
		err = mustBe(ctx, by.Host)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	if to, address := r.movedTo(v, by.Host); to != (id.Holder{}) {
		return &api.AcquireVolumeReply{Refused: &api.AcquireRefused{Owner: api.FromHolder(to), DataAddress: address, RetryAfterMs: uint32(retryAfterMin.Milliseconds())}}, nil
	}
	res, err := b.s.commit(ctx, &state.Acquire{Volume: v, By: by, Gone: r.goneOwner(v)})
	if err != nil {
		return nil, err
	}
	if res.Owner != (id.Holder{}) {
		return &api.AcquireVolumeReply{Refused: b.refused(r, res)}, nil
	}
	kind := acquiredKind(q.GetWhy())
	r.with(func(l *reconcile.Liveness, _ *state.Machine, now time.Duration) {
		l.Granted(now, v, res.Volume.Epoch)
		if x, ok := r.mu.moves[v]; ok && x.to == by.Host { // the host does not know why metad had it open the disk
			kind = "disk_moved"
		}
	})
	b.s.note(state.Info, kind, aboutDisk, res.Volume.Name, string(by.Host), "%s goes to %s under %s", v, by.Host, res.Volume.Epoch)
	b.s.log.Info("volume acquired", "volume", v.String(), "epoch", res.Volume.Epoch.String(), "holder", by.String(), "why", q.GetWhy().String())
	out := &api.AcquireVolumeReply{}
	b.s.node.View(func(m *state.Machine) { out.Granted = api.FromVolume(reconcile.Lent(m, &res.Volume.Volume)) })
	return out, nil
}

func acquiredKind(why api.AcquireWhy) string {
	switch why {
	case api.AcquireWhy_ACQUIRE_WHY_TAKEOVER:
		return "disk_taken_over"
	case api.AcquireWhy_ACQUIRE_WHY_HANDOFF:
		return "disk_moved"
	}
	return "disk_opened"
}

func (b *blockdService) refused(r *reign, res state.Result) *api.AcquireRefused {
	rep := &api.AcquireRefused{Owner: api.FromHolder(res.Owner), Epoch: uint64(res.Volume.Epoch)}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if h, ok := m.Host(res.Owner.Host); ok {
			rep.DataAddress = h.DataAddress
		}
		ago, _ := l.LastSeen(now, res.Owner.Host)
		rep.RetryAfterMs = uint32(max(m.Settings().HeartbeatTimeout-ago, retryAfterMin).Milliseconds())
	})
	return rep
}

func (b *blockdService) ReleaseVolume(ctx context.Context, q *api.ReleaseVolumeRequest) (*api.VolumeRecord, error) {
	by := q.GetHolder().Value()
	v, err := api.VolumeID(q.GetVolume())
	if err == nil {
		err = mustBe(ctx, by.Host)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	return b.record(ctx, &state.Release{Volume: v, Epoch: id.Epoch(q.GetEpoch()), By: by})
}

// record commits c and answers with the volume.
func (b *blockdService) record(ctx context.Context, c state.Command) (*api.VolumeRecord, error) {
	if _, err := b.ruling(); err != nil {
		return nil, b.s.fail(err)
	}
	res, err := b.s.commit(ctx, c)
	if err != nil {
		return nil, err
	}
	return api.FromVolume(&res.Volume.Volume), nil
}

func at(volume []byte, epoch, version uint64) (state.At, error) {
	v, err := api.VolumeID(volume)
	return state.At{Volume: v, Epoch: id.Epoch(epoch), Version: version}, err
}

func (b *blockdService) AddEnsemble(ctx context.Context, q *api.AddEnsembleRequest) (*api.VolumeRecord, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	a, err := at(q.GetVolume(), q.GetEpoch(), q.GetListVersion())
	exclude, excludeErr := api.StoreIDs(q.GetExcludeStores())
	seed, seedErr := b.s.seed()
	if err = errors.Join(err, excludeErr, seedErr); err != nil {
		return nil, b.s.fail(err)
	}
	c := &state.AddEnsemble{At: a, Want: uint8(min(q.GetWant(), 255)), Fallback: uint8(min(q.GetFallback(), 255)), Seed: seed, Better: q.GetBetter()}
	if c.Want == 0 {
		c.Want = ensembleWant
	}
	if c.Fallback == 0 {
		c.Fallback = min(ensembleFallback, c.Want)
	}
	c.Candidates = reconcile.EnsembleCandidates(r.refresh(), exclude)
	worth := true // spares the log what would be refused, again and again while hosts are away
	b.s.node.View(func(m *state.Machine) { worth = m.WorthAdding(c) })
	if !worth {
		return nil, b.s.fail(&final{fmt.Errorf("there are no stores for a better ensemble than the newest: %w", errs.ErrUnavailable)})
	}
	return b.record(ctx, c)
}

func (b *blockdService) CloseEnsemble(ctx context.Context, q *api.CloseEnsembleRequest) (*api.VolumeRecord, error) {
	a, err := at(q.GetVolume(), q.GetEpoch(), q.GetListVersion())
	holders, holdersErr := api.Refs(q.GetHolders())
	if err = errors.Join(err, holdersErr); err != nil {
		return nil, b.s.fail(err)
	}
	return b.record(ctx, &state.CloseEnsemble{At: a, Ensemble: q.GetEnsemble().Value(), From: id.LSN(q.GetFromLsn()), To: id.LSN(q.GetToLsn()),
		MetaFrom: id.LSN(q.GetFromMeta()), MetaTo: id.LSN(q.GetToMeta()), Holders: holders})
}

func (b *blockdService) RemoveEnsembles(ctx context.Context, q *api.RemoveEnsemblesRequest) (*api.VolumeRecord, error) {
	a, err := at(q.GetVolume(), q.GetEpoch(), q.GetListVersion())
	if err == nil && len(q.GetEnsembles()) > state.EnsemblesMax {
		err = fmt.Errorf("remove %d ensembles at once: %w", len(q.GetEnsembles()), errs.ErrInvalid)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	c := &state.RemoveEnsembles{At: a, Released: id.LSN(q.GetReleasedLsn())}
	for _, e := range q.GetEnsembles() {
		c.Ensembles = append(c.Ensembles, e.Value())
	}
	return b.record(ctx, c)
}

func (b *blockdService) ReplaceList(ctx context.Context, q *api.ReplaceListRequest) (*api.VolumeRecord, error) {
	a, err := at(q.GetVolume(), q.GetEpoch(), q.GetListVersion())
	if err != nil {
		return nil, b.s.fail(err)
	}
	return b.record(ctx, &state.ReplaceList{At: a, Keep: q.GetKeep().Value()})
}

func (b *blockdService) AllocRange(ctx context.Context, q *api.AllocRangeRequest) (*api.AllocRangeReply, error) {
	v, err := api.VolumeID(q.GetVolume())
	if err != nil {
		return nil, b.s.fail(err)
	}
	res, err := b.s.commit(ctx, &state.AllocRange{Volume: v, Epoch: id.Epoch(q.GetEpoch())})
	if err != nil {
		return nil, err
	}
	return &api.AllocRangeReply{Epoch: q.GetEpoch(), First: uint64(res.First), Count: uint64(res.Count)}, nil
}

func (b *blockdService) ForgetSpans(ctx context.Context, q *api.ForgetSpansRequest) (*api.VolumeRecord, error) {
	v, err := api.VolumeID(q.GetVolume())
	if err != nil {
		return nil, b.s.fail(err)
	}
	return b.record(ctx, &state.ForgetSpans{Volume: v, Epoch: id.Epoch(q.GetEpoch()), Below: id.Epoch(q.GetBelowEpoch())})
}

func (b *blockdService) CommitCheckpoint(ctx context.Context, q *api.CommitCheckpointRequest) (*api.CommitCheckpointReply, error) {
	v, err := api.VolumeID(q.GetVolume())
	cp := q.GetCheckpoint().Value()
	switch {
	case err != nil:
	case cp == nil:
		err = fmt.Errorf("no checkpoint: %w", errs.ErrInvalid)
	case len(cp.Opaque) > cluster.CheckpointBytesMax:
		err = fmt.Errorf("checkpoint of %d bytes, at most %d: %w", len(cp.Opaque), cluster.CheckpointBytesMax, errs.ErrInvalid)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	if _, err := b.record(ctx, &state.CommitCheckpoint{Volume: v, Epoch: id.Epoch(q.GetEpoch()), Checkpoint: *cp}); err != nil {
		return nil, err
	}
	return &api.CommitCheckpointReply{}, nil
}

func (b *blockdService) EnsurePlacement(ctx context.Context, q *api.EnsurePlacementRequest) (*api.Topology, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	exclude, err := api.StoreIDs(q.GetExcludeStores())
	if err != nil {
		return nil, b.s.fail(err)
	}
	top := r.refresh()
	healthy := reconcile.Healthy(top, exclude)
	if len(healthy) < 2 {
		return nil, b.s.fail(&final{fmt.Errorf("form placement groups over %d healthy stores: %w", len(healthy), errs.ErrUnavailable)})
	}
	if needed, over := r.needed(top, exclude); needed {
		if err := r.ensure(ctx, over); err != nil {
			return nil, b.s.fail(err)
		}
	}
	return api.FromTopology(r.refresh()), nil
}

func (b *blockdService) ReportStore(ctx context.Context, q *api.ReportStoreRequest) (*api.ReportStoreReply, error) {
	r, err := b.ruling()
	if err != nil {
		return nil, b.s.fail(err)
	}
	ref, err := q.GetStore().Value()
	if err == nil {
		err = mustBe(ctx, id.Host(q.GetReporter()))
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		if m.Alive(ref) {
			l.Report(now, id.Host(q.GetReporter()), ref, firstBytes(q.GetProblem(), 256))
		}
	})
	b.s.log.Debug("store reported", "store", ref.String(), "by", q.GetReporter(), "problem", firstBytes(q.GetProblem(), 256))
	r.poke()
	return &api.ReportStoreReply{}, nil
}

func firstBytes(s string, n int) string { return s[:min(len(s), n)] }

func (b *blockdService) ConfirmPurge(ctx context.Context, q *api.ConfirmPurgeRequest) (*api.ConfirmPurgeReply, error) {
	ref, err := q.GetStore().Value()
	if err != nil {
		return nil, b.s.fail(err)
	}
	v, err := api.VolumeID(q.GetVolume())
	if err == nil {
		err = mustBe(ctx, id.Host(q.GetHost()))
	}
	b.s.node.View(func(m *state.Machine) {
		if s, ok := m.Store(ref.Store); err == nil && ok && string(s.Host) != q.GetHost() {
			err = fmt.Errorf("store %s is on host %s: %w", ref, s.Host, errs.ErrDenied)
		}
	})
	if err != nil {
		return nil, b.s.fail(err)
	}
	if _, err := b.s.commit(ctx, &state.ConfirmPurge{Store: ref, Volume: v}); err != nil {
		return nil, err
	}
	return &api.ConfirmPurgeReply{}, nil
}
