package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

func hostOf(name string) id.Host { return id.Host(name) }

// register makes this host and its stores known to metad and waits for it as long as ctx lasts.
func (s *server) register(ctx context.Context) error {
	var err error
	s.metad, err = client.NewBlockd(client.Options{
		Addresses: s.cfg.Metad, LiveTLS: s.creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleMetad}}), Clock: s.clock, Log: s.log,
	})
	if err != nil {
		return err
	}
	s.stack.PushCloser("metad client", s.metad.Close)
	for {
		got, err := s.tryRegister(ctx)
		if err == nil {
			s.settings = got.Settings
			unseal(s.local.all(), got.Floors)
			if err := s.leaveOut(got.Refused); err != nil {
				return err
			}
			s.bar(got.Topology.Removed)
			s.stores.follow(got.Topology)
			return nil
		}
		if !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrTimeout) {
			return fmt.Errorf("register with metad: %w", err)
		}
		s.log.Info("metad does not answer yet", "err", err)
		s.tellInventory(ctx)
		if err := s.clock.Sleep(ctx, time.Second/4); err != nil {
			return fmt.Errorf("register with metad: %w", err)
		}
	}
}

// tryRegister names the stores that serve, and more that are to.
func (s *server) tryRegister(ctx context.Context, more ...*localStore) (client.Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r := client.Registration{
		Holder: s.life.holder, DataAddress: s.cfg.Listen, Zone: s.cfg.Zone, Exports: s.cfg.NBD.Unix != "" || s.cfg.NBD.TCP != "",
		NBDUnixPath: s.cfg.NBD.Unix, NBDTCP: s.cfg.NBD.TCP, NBDTLS: s.cfg.NBD.TLS == "required",
	}
	for _, st := range slices.Concat(s.local.all(), more) {
		u := st.Stats()
		r.Stores = append(r.Stores, client.RegisteredStore{StoreRef: refOf(st.Store), Capacity: uint64(u.CapacityBytes)})
	}
	return s.metad.Register(ctx, r)
}

func refOf(st *chunk.Store) cluster.StoreRef {
	return cluster.StoreRef{Store: st.ID(), Incarnation: st.Incarnation()}
}

// heartbeats tells metad how this host fares and does what it answers.
func (s *server) heartbeats(ctx context.Context) error {
	t := s.clock.NewTicker(s.settings.HeartbeatInterval)
	defer t.Stop()
	for {
		if err := s.beat(ctx); err != nil && ctx.Err() == nil {
			if errors.Is(err, errs.ErrStaleEpoch) {
				return fmt.Errorf("a newer life of this host is registered: %w", err)
			}
			s.log.Info("heartbeat not answered", "err", err)
			if errors.Is(err, errs.ErrUnavailable) {
				s.tellInventory(ctx)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		case <-s.beatNow:
		}
	}
}

// beat sends one heartbeat and takes its answer.
func (s *server) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.settings.HeartbeatInterval)
	defer cancel()
	local := s.local.all()
	h := s.heartbeat(local)
	reply, err := s.metad.Heartbeat(ctx, h)
	if errors.Is(err, errs.ErrNotFound) {
		var got client.Registered
		got, err = s.tryRegister(ctx)
		reply.Floors = got.Floors
	}
	if err != nil {
		return err
	}
	if h.Sealed {
		unseal(local, reply.Floors)
	}
	s.tales.taken(reply.EventsTaken)
	s.trust.Store(&reply.TrustHash)
	for _, n := range reply.Volumes {
		s.exports.News(n)
	}
	for _, p := range reply.Purges {
		if _, busy := s.purging.LoadOrStore(p, true); !busy { // metad names it until it is confirmed
			s.group.Go("purge", func(ctx context.Context) error {
				defer s.purging.Delete(p)
				s.purge(ctx, p)
				return nil
			})
		}
	}
	if len(reply.Gone) > 0 {
		select {
		case s.gone <- reply.Gone:
		default: // it is named again until it is closed
		}
	}
	s.takeScrubs(reply.Scrubs)
	s.takeLooks(reply.Looks, reply.Doubts)
	for _, d := range reply.Drops {
		s.group.Go("drop", func(ctx context.Context) error { s.dropStreams(ctx, d); return nil })
	}
	s.moveDisks(reply.Handoffs, reply.Opens)
	for _, v := range reply.Rescues {
		s.group.Go("rescue", func(ctx context.Context) error { s.rescue(ctx, v); return nil })
	}
	return nil
}

// unseal lets the stores that metad was told of create streams again: it answers, so it is not being restored, or no longer.
func unseal(local []*localStore, floors map[id.Volume]id.Epoch) {
	for _, st := range local {
		if st.Sealed() {
			st.Unseal(floors)
		}
	}
}

func (s *server) heartbeat(local []*localStore) client.Heartbeat {
	use := telemetry.ReadUsage()
	h := client.Heartbeat{Holder: s.life.holder, CPU: use.CPU, ResidentBytes: use.ResidentBytes, Waits: s.storeWaits.take(), Memory: s.memory(), Events: s.tales.next(), Identity: s.identity()}
	telemetry.LimitHeap(cluster.MemoryLimit(h.Memory))
	h.HeapLimit, h.Heap = telemetry.ReadHeap()
	for _, st := range local {
		h.Sealed = h.Sealed || st.Sealed()
		u := st.Stats()
		b := client.StoreBeat{
			StoreRef: refOf(st.Store), Capacity: uint64(u.CapacityBytes), Used: uint64(u.UsedBytes),
			LogUsed: uint64(u.JournalBytes), LogCapacity: uint64(u.JournalBytesMax), Full: u.FullShards,
		}
		if err := st.Err(); err != nil {
			b.Dead = err.Error()
		}
		has := st.Volumes()
		b.Streams, st.page.streams = streamPage(has, st.page.streams)
		st.page.use(has, &b)
		figuresOf(st.Store, &u, &b)
		b.Repairs, b.Remains = st.filler.beats(), st.filler.worker.Remains()
		b.Care, b.Scrubs, b.Stuck = st.filler.worker.Health(), st.filler.worker.Scrubs(), st.filler.worker.Stuck(cluster.StuckMax)
		h.Stores = append(h.Stores, b)
	}
	s.exports.Owned(func(v *volume.Volume, handles int) {
		st := v.Stats()
		b := client.VolumeBeat{
			Volume: v.ID(), Epoch: v.Epoch(), Unpacked: uint64(st.UnpackedBytes), Sessions: uint32(handles), State: client.VolumeServing,
			Problem: st.Problem, Space: spaceOf(&st), Cleaning: cleaningOf(&st), Traffic: v.Traffic(),
		}
		if st.Problem != "" {
			b.State = client.VolumeStuck
		}
		b.Hydration, b.Flattening = hydrationOf(v, &st), v.FlattenState(&st)
		s.looks.tell(&b)
		h.Volumes = append(h.Volumes, b)
	})
	s.exports.Opening(func(v id.Volume, e id.Epoch) {
		h.Volumes = append(h.Volumes, client.VolumeBeat{Volume: v, Epoch: e, State: client.VolumeOpening})
	})
	return h
}

// streamPage gives the next page of a store's streams and where the one after begins.
func streamPage(has []chunk.VolumeInfo, from int) ([]client.VolumeEnsemble, int) {
	seen := make(map[client.VolumeEnsemble]bool)
	var all []client.VolumeEnsemble
	for _, v := range has {
		for _, x := range v.Streams {
			e := client.VolumeEnsemble{Volume: v.Volume, Ensemble: x.Stream.Ensemble}
			if !seen[e] {
				seen[e] = true
				all = append(all, e)
			}
		}
	}
	if from >= len(all) {
		from = 0
	}
	end := min(from+client.StreamPageMax, len(all))
	return all[from:end], end
}

// purge lets a store of this host forget a deleted volume, and says so to metad.
func (s *server) purge(ctx context.Context, p client.Purge) {
	for _, st := range s.local.all() {
		if st.ID() != p.Store {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := st.PurgeVolume(ctx, p.Volume, p.Epoch); err != nil {
			s.log.Warn("deleted disk not purged yet", "volume", p.Volume.String(), "store", p.Store.String(), "err", err)
			return
		}
		if err := s.metad.ConfirmPurge(ctx, hostOf(s.cfg.ID), refOf(st.Store), p.Volume); err != nil {
			s.log.Info("purge not confirmed yet", "volume", p.Volume.String(), "err", err)
			return
		}
		s.log.Info("deleted disk purged", "volume", p.Volume.String(), "store", p.Store.String())
	}
}

// dropStreams lets a store of this host forget streams that are in no list any more.
func (s *server) dropStreams(ctx context.Context, d client.DropStreams) {
	for _, st := range s.local.all() {
		if st.ID() != d.Store {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := st.ForgetStreams(ctx, d.Volume, d.Epoch, d.Keep...); err != nil {
			s.log.Info("old streams not dropped yet", "volume", d.Volume.String(), "store", d.Store.String(), "err", err)
		}
	}
}

// rescue does what is to be done to a disk that nobody owns: its journal leaves a store that is
// gone, its segments a code that is worse than it need be.
func (s *server) rescue(ctx context.Context, v id.Volume) {
	if err := s.exports.Rescue(ctx, v); err != nil {
		s.log.Info("disk not rescued yet", "volume", v.String(), "err", err)
	}
}
