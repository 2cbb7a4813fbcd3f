package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Limits of a status answer.
const (
	reasonsMax     = 100
	statusDisksMax = 1000
)

func (c *clusterService) Status(ctx context.Context, q *api.StatusRequest) (*api.StatusReply, error) {
	if err := c.s.fresh(ctx); err != nil {
		return nil, c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	rep := &api.StatusReply{AtUnixMs: c.s.clock.Wall().UnixMilli(), Counts: &api.Counts{}}
	rep.Backup = r.archivesOf().backup(c.s.clock.Wall())
	unheard := r.archivesOf().unheard(c.s.clock.Now())
	members := c.s.node.Members()
	var known []reconcile.Member
	for _, m := range members {
		if !m.Voter {
			continue
		}
		known = append(known, reconcile.Member{ID: m.ID, Up: m.Up})
		rep.Metads = append(rep.Metads, &api.MetadMember{Id: m.ID, ApiAddress: m.API, RaftAddress: m.Raft, Leader: m.Leader, Up: m.Up, AppliedIndex: m.Applied})
		rep.Counts.Metads++
		if m.Up {
			rep.Counts.MetadsUp++
		}
	}
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		top := reconcile.Topology(m, l, now)
		rep.ClusterId = clusterName(m.ClusterID())
		health := reconcile.Health(m, top, l, known, now)
		c.s.sayCertificates(health, l, m)
		sayBackup(health, rep.Backup)
		sayArchiver(health, m, unheard)
		fillHealth(rep, health)
		rep.Hosts = hosts(m, l, top, now)
		stores := stores(m, l, top, now)
		fillStores(rep, stores)
		rep.Repair = repairs(l, top)
		r.fillHealing(rep, m, l)
		fillDisks(rep, m, l, top, now, q.GetWithDisks())
		fillRoom(rep, m, l, top)
		fillRisk(rep, health)
		if q.GetWithDisks() {
			rep.Stores = stores
			rep.Processes = blockdMemories(l, top)
		}
		for _, h := range rep.Hosts {
			rep.Counts.Hosts++
			if h.Up {
				rep.Counts.HostsUp++
			}
		}
	})
	if q.GetWithDisks() {
		rep.Processes = append(c.s.memories(ctx, members), rep.Processes...)
		rep.Processes = append(rep.Processes, r.archivesOf().memories(c.s.clock.Now())...)
	}
	return rep, nil
}

func clusterName(x [16]byte) string { return id.Incarnation(x).String() }

func fillHealth(rep *api.StatusReply, h *reconcile.Report) {
	rep.Health = api.Health(h.Level)
	rep.ReasonsTotal = uint32(len(h.Reasons))
	for _, x := range h.Reasons[:min(len(h.Reasons), reasonsMax)] {
		rep.Reasons = append(rep.Reasons, &api.Reason{Code: x.Code, Health: api.Health(x.Level), Subject: x.Subject, Text: x.Text})
	}
	c := rep.Counts
	c.Pgs, c.PgsFullMargin, c.PgsReducedMargin = uint32(h.Total.Groups), uint32(h.Total.Full), uint32(h.Total.Reduced)
	c.PgsNoMargin, c.PgsUnreadable = uint32(h.Total.None), uint32(h.Total.Unreadable)
	c.DisksAttached, c.DisksStuck, c.DisksDeleting = uint32(h.Attached), uint32(h.Stuck), uint32(h.Deleting)
	for _, p := range slices.SortedFunc(maps.Keys(h.Profiles), func(a, b placement.Profile) int {
		return placement.Scheme{Profile: a}.Rank() - placement.Scheme{Profile: b}.Rank()
	}) {
		x := h.Profiles[p]
		rep.Profiles = append(rep.Profiles, &api.ProfileCount{K: uint32(p.K), M: uint32(p.M), Pgs: uint32(x.Groups), FullMargin: uint32(x.Full),
			ReducedMargin: uint32(x.Reduced), NoMargin: uint32(x.None), Unreadable: uint32(x.Unreadable), Preferred: x.Preferred})
	}
}

func fillStores(rep *api.StatusReply, stores []*api.Store) {
	for _, s := range stores {
		rep.Counts.Stores++
		switch s.State {
		case cluster.StoreUp.String(), cluster.StoreDraining.String():
			rep.Counts.StoresUp++
		case cluster.StoreLost.String():
			rep.Counts.StoresLost++
			continue
		case cluster.StoreOut.String():
			continue
		}
		rep.CapacityBytes += s.CapacityBytes
		rep.UsedBytes += s.UsedBytes
	}
}

func fillDisks(rep *api.StatusReply, m *state.Machine, l *reconcile.Liveness, top *cluster.Topology, now time.Duration, list bool) {
	for _, v := range m.Volumes() {
		if !v.Deleted && v.Kept != nil {
			continue // rep.Kept has them
		}
		if !v.Deleted {
			rep.Counts.Disks++
		}
		b, _ := l.Volume(v.Owner, v.ID, v.Epoch)
		rep.UnpackedBytes += b.Unpacked
		if list && len(rep.Disks) < statusDisksMax {
			rep.Disks = append(rep.Disks, described(l, m, v, top, now))
		}
	}
}

// hosts lists every blockd with what it said of itself.
func hosts(m *state.Machine, l *reconcile.Liveness, top *cluster.Topology, now time.Duration) []*api.Host {
	owned := make(map[id.Host]uint32)
	for _, v := range m.Volumes() {
		if v.Owner != (id.Holder{}) {
			owned[v.Owner.Host]++
		}
	}
	var out []*api.Host
	for _, h := range top.Hosts {
		x := &api.Host{Host: string(h.Host), Zone: h.Zone, Up: h.Up, DataAddress: h.DataAddress, Exports: h.Exports,
			HolderNumber: h.HolderNumber, LastSeenMs: -1, DisksOwned: owned[h.Host], Cordoned: h.Cordoned}
		if ago, heard := l.LastSeen(now, h.Host); heard {
			x.LastSeenMs = ago.Milliseconds()
		}
		if b, ok := l.HostBeat(h.Host); ok {
			x.CpuMs, x.ResidentBytes = uint64(b.CPU.Milliseconds()), b.ResidentBytes
			for _, u := range b.Memory {
				x.Memory = append(x.Memory, &api.Memory{Name: u.Name, LimitBytes: u.Limit, UsedBytes: u.Used})
			}
		}
		out = append(out, x)
	}
	return out
}

// stores lists every store with what its host said of it.
func stores(m *state.Machine, l *reconcile.Liveness, top *cluster.Topology, now time.Duration) []*api.Store {
	groups, leaving := make(map[cluster.StoreRef]uint32), make(map[cluster.StoreRef]uint32)
	for _, p := range top.PGs {
		current := p.Current().Stores
		for _, r := range current {
			groups[r]++
		}
		for _, r := range p.Members() {
			if !slices.Contains(current, r) {
				leaving[r]++
			}
		}
	}
	moving := reconcile.Moving(top)
	var out []*api.Store
	for _, s := range top.Stores {
		x := &api.Store{Traffic: &api.StoreTraffic{}, StoreId: s.Store.String(), Incarnation: s.Incarnation.String(), Host: string(s.Host), Zone: s.Zone, State: s.State.String(),
			CapacityBytes: s.Capacity, UsedBytes: s.Used, Full: s.Full, Pgs: groups[s.StoreRef], Ensembles: uint32(m.EnsembleCount(s.StoreRef)),
			PgsLeaving: leaving[s.StoreRef]}
		if b, ok := l.StoreBeat(s.StoreRef); ok {
			var sum reconcile.Repair
			sum.Add(b, moving)
			x.Repair, x.Problem = repair(sum), sum.Problem
			x.LogUsedBytes, x.LogCapacityBytes = b.LogUsed, b.LogCapacity
			x.Care = api.FromCare(b.Care)
			x.Traffic, x.FreeBytes = api.FromStoreTraffic(b.Traffic), b.Free
		}
		if s.State == cluster.StoreDown || s.State == cluster.StoreOut {
			_, x.Problem = l.StoreUp(now, s.StoreRef, s.Host)
		}
		if mean, others, slow := l.Slow(s.Store); slow && x.Problem == "" {
			x.Problem = fmt.Sprintf("slow: %v on average, others %v", mean.Round(time.Millisecond), others.Round(100*time.Microsecond))
		}
		out = append(out, x)
	}
	return out
}

// repairs sums up what is being moved in the whole cluster.
func repairs(l *reconcile.Liveness, top *cluster.Topology) *api.Repair {
	var sum reconcile.Repair
	moving := reconcile.Moving(top)
	for pg := range reconcile.Shifting(top) { // told of as balancing
		delete(moving, pg)
	}
	sum.Groups = len(moving)
	for _, s := range top.Stores {
		if b, ok := l.StoreBeat(s.StoreRef); ok && s.State.Serves() {
			sum.Add(b, moving)
		}
	}
	return repair(sum)
}

func repair(sum reconcile.Repair) *api.Repair {
	x := &api.Repair{Groups: uint32(sum.Groups), SegmentsDone: sum.Done, SegmentsLeft: sum.Left, BytesDone: sum.BytesDone, BytesLeft: sum.BytesLeft,
		BytesPerSecond: sum.BytesPerSecond, Stuck: sum.Stuck}
	if x.BytesPerSecond > 0 {
		x.SecondsLeft = (x.BytesLeft + x.BytesPerSecond - 1) / x.BytesPerSecond
	}
	return x
}

func (c *clusterService) ListHosts(ctx context.Context, _ *api.ListHostsRequest) (*api.ListHostsReply, error) {
	rep := &api.ListHostsReply{}
	return rep, c.look(ctx, func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		rep.Hosts = hosts(m, l, reconcile.Topology(m, l, now), now)
	})
}

func (c *clusterService) ListStores(ctx context.Context, _ *api.ListStoresRequest) (*api.ListStoresReply, error) {
	rep := &api.ListStoresReply{}
	return rep, c.look(ctx, func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		rep.Stores = stores(m, l, reconcile.Topology(m, l, now), now)
	})
}

// look runs f with everything this leader knows, once it is certain that it leads.
func (c *clusterService) look(ctx context.Context, f func(*reconcile.Liveness, *state.Machine, time.Duration)) error {
	if err := c.s.fresh(ctx); err != nil {
		return c.s.fail(err)
	}
	r, err := c.s.ruling()
	if err != nil {
		return c.s.fail(err)
	}
	r.with(f)
	return nil
}
