// Package server is blockd put together: the stores of this host, the data path to the
// stores of others, the disks that it exports, and its talk with metad. Run is
// all that main calls.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/export"
	"ashlar.dev/blockd/hooks"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/repair"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto/remote"
	"ashlar.dev/pkg/telemetry"
	"ashlar.dev/pkg/vfs/aio"
	"ashlar.dev/pkg/volproto"
)

// Deadlines of a shutdown: disks are drained and handed off first, then connections end.
const (
	drainTimeout    = 20 * time.Second
	shutdownTimeout = 5 * time.Second
)

// server is one running blockd.
type server struct {
	cfg      Config
	log      *slog.Logger
	clock    clock.Clock
	creds    *pki.Credentials
	life     *life
	metad    *client.Blockd
	settings cluster.Settings
	stores   *stores
	local    locals
	added    []*localStore           // of these, those that came after the start
	beatNow  chan struct{}           // a heartbeat out of turn
	gone     chan []cluster.StoreRef // what the last heartbeat said is to be closed
	leases   *volume.Leases
	packer   *packer.Packer
	reader   *reader.Reader
	cache    *reader.Cache
	budget   *blockmap.Budget
	buffers  *core.Memory
	exports  *export.Exports
	archive  *restore.Archive // nil: none is named
	hooks    *hooks.Runner
	nbd      *nbd.Server
	data     *rpc.Server
	queue    *aio.Queue // of the local stores; nil if there is none
	rpcStats *rpc.Stats
	shares   []*rpc.Budget // of the bytes of peers' requests
	registry *prometheus.Registry
	group    *lifecycle.Group
	stack    *lifecycle.Stack
	purging  sync.Map // of client.Purge: on their way
	snapping sync.Map // of snapping: orders being carried out
	moving   sync.Map // of id.Volume: being handed off, or opened after it

	repairing  *lifecycle.Group
	repairPace *repair.Pace
	scrubPace  *repair.Pace
	storeWaits *storeWaits
	looks      *looks
	tales      tales
	trust      atomic.Pointer[[]byte] // hash of the cluster's CAs, as metad told it last
}

// Run serves until ctx ends, then hands its disks off and stops. An error says what could not be started or failed.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	s := &server{
		cfg: cfg, log: log, clock: clock.System, rpcStats: &rpc.Stats{}, registry: telemetry.NewRegistry("blockd"),
		group: lifecycle.NewGroup(context.Background()), repairing: lifecycle.NewGroup(context.Background()), storeWaits: newStoreWaits(), looks: newLooks(), beatNow: make(chan struct{}, 1), gone: make(chan []cluster.StoreRef, 1),
	}
	s.tales.clock = s.clock
	s.stack = lifecycle.NewStack(s.clock, log)
	signals, stopSignals := notifySignals()
	defer stopSignals()
	err := s.start(ctx)
	if err == nil {
		log.Info("serving", "node", cfg.ID, "start", s.life.holder.Number, "stores", len(s.local.all()))
		_ = lifecycle.NotifyReady() // without systemd there is nobody to tell
		err = s.serve(ctx, signals)
		_ = lifecycle.NotifyStopping()
		log.Info("stopping", "node", cfg.ID)
	} else if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		log.Info("stopped before it served", "node", cfg.ID, "err", err)
		err = nil
	}
	stop, cancel := context.WithTimeout(context.Background(), drainTimeout+shutdownTimeout)
	defer cancel()
	return errors.Join(err, s.stack.Close(stop))
}

// start brings the rooms up, the ones that others stand on first. What it pushes on
// the stack is closed in the opposite order, whatever fails.
func (s *server) start(ctx context.Context) error {
	var err error
	if s.creds, err = pki.Load(s.clock, s.cfg.TLS); err != nil {
		return fmt.Errorf("load certificates: %w", err)
	}
	if me := s.creds.Self(); me.Name != s.cfg.ID || me.Role != pki.RoleBlockd {
		return fmt.Errorf("certificate is of %s, id is %s: %w", me, s.cfg.ID, errs.ErrInvalid)
	}
	if s.life, err = begin(s.cfg.Data, hostOf(s.cfg.ID), s.clock.Wall()); err != nil {
		return err
	}
	s.stack.PushCloser("lock", s.life.end)
	s.stack.PushCloser("background", s.group.Close)
	if err := s.openHooks(); err != nil {
		return err
	}
	if err := s.startDebug(); err != nil {
		return err
	}
	s.stores = newStores(hostOf(s.cfg.ID), s.creds, s.clock, s.log, s.rpcStats)
	s.stores.plain = s.cfg.DataTLS == "off"
	s.stack.PushCloser("peers", func() error { s.stores.close(); return nil })
	if err := s.openStores(); err != nil {
		return err
	}
	data, err := s.listenData()
	if err != nil {
		return err
	}
	if err := s.register(ctx); err != nil {
		return err
	}
	if err := s.openArchive(ctx); err != nil {
		return err
	}
	s.startEngine()
	s.startRepairs()
	s.stack.PushCloser("repairs", s.stopRepairs)
	if err := s.makeServers(); err != nil {
		return err
	}
	s.stack.PushCloser("topology", s.followTopology())
	s.stack.PushCloser("data path", s.data.Close)
	s.group.Go("data path", func(context.Context) error { return s.data.Serve(data) })
	if err := s.serveNBD(); err != nil {
		return err
	}
	s.group.Go("heartbeat", s.heartbeats)
	s.group.Go("snapshots", s.watchSnapshots)
	s.group.Go("hooks", s.watchHooks)
	s.group.Go("identity", s.keepIdentity)
	s.group.Go("hedge", s.hedge)
	return nil
}

func (s *server) startDebug() error {
	if s.cfg.DebugListen == "" {
		return nil
	}
	d, err := telemetry.ServeDebug(telemetry.DebugOptions{Listen: s.cfg.DebugListen, Registry: s.registry, Health: s.health, Log: s.log})
	if err != nil {
		return fmt.Errorf("serve debug: %w", err)
	}
	s.stack.PushCloser("debug", d.Close)
	return nil
}

// health is what /healthz says.
func (s *server) health() error {
	for _, st := range s.local.all() {
		if err := st.Err(); err != nil {
			return fmt.Errorf("store %s: %w", st.ID(), err)
		}
	}
	return nil
}

// queueDepth is how many shard reads of this host the kernel has at once; more wait.
const queueDepth = 128

// openStores opens the local stores and formats new ones that may be.
func (s *server) openStores() error {
	queue, err := aio.New(queueDepth)
	if err != nil {
		s.log.Info("no asynchronous reads here, shards are read with pread", "err", err)
	} else {
		s.stack.PushCloser("queue", queue.Close)
		s.queue, s.stores.queue = queue, queue
	}
	for _, c := range s.cfg.Stores {
		if c.Format {
			if err := s.formatIfEmpty(c); err != nil {
				return err
			}
		}
		st, err := s.openStore(c)
		if err != nil {
			return err
		}
		s.stack.PushCloser("store "+c.Path, st.Close)
		s.local.add(st)
		s.stores.addLocal(st.ID(), st.Store)
	}
	s.stack.PushCloser("added stores", s.closeAdded) // with these, not before what stands on them
	return nil
}

// openStore opens one store, sealed.
func (s *server) openStore(c Store) (*localStore, error) {
	st, err := chunk.Open(c.Path, chunk.Options{
		Clock: s.clock, Logger: s.log.With("store", filepath.Base(c.Path)), CapacityBytes: c.Size.Int64(), SyncDelay: c.SyncDelay.Std(), Queue: s.queue,
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", c.Path, err)
	}
	st.Seal(nil) // until metad answers: it may have told a metad that is being restored in its last life
	return &localStore{Store: st, path: filepath.Clean(c.Path)}, nil
}

// listenData opens the port before metad hears of it; serving begins when all is ready.
func (s *server) listenData() (net.Listener, error) {
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	s.stack.PushCloser("data listener", func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}

// startEngine makes what all volumes of the process share.
func (s *server) startEngine() {
	ctx := context.Background()
	s.cache = reader.NewCache(s.cfg.Memory.BlockCache.Int64())
	s.reader = reader.New(reader.Config{Stores: s.stores, Topology: s.metad.Topology, Cache: s.cache, Clock: s.clock, Took: s.storeWaits.took})
	s.packer = packer.New(ctx, packer.Config{Stores: s.stores, Topology: s.metad.Topology, Delay: s.cfg.Volume.PackDelay.Std()})
	s.stack.PushCloser("packer", s.packer.Close)
	s.budget = blockmap.NewBudget(int(s.cfg.Memory.MapCache / blockmap.PageSize))
	s.buffers = core.NewMemory(s.cfg.Memory.WriteBuffer.Int64())
	s.leases = volume.NewLeases(ctx, s.life.holder, s.settings.LeaseTerm/6, s.stores, s.clock)
	s.stack.PushCloser("leases", s.leases.Close)
	s.exports = export.New(export.Config{
		Holder: s.life.holder, Metad: s.metad, Proxy: s.stores, OpenVolume: s.openVolume, Corks: s.stores.Corks, Clock: s.clock, Log: s.log, Tell: s.tales.tell,
	})
	s.stack.Push("disks", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		return s.leftBehind(s.exports.Close(ctx))
	})
	s.repairPace = repair.NewPace(s.cfg.RepairRate.Int64())
	s.registry.MustRegister(newCollector(s))
}

// followTopology keeps connections and volumes in step with metad's topology.
func (s *server) followTopology() func() error {
	stop := s.metad.OnTopology(func(t *cluster.Topology) {
		s.bar(t.Removed)
		s.stores.follow(t)
		s.exports.Owned(func(v *volume.Volume, _ int) { v.TopologyChanged() })
		for _, st := range s.local.all() {
			st.filler.worker.Poke()
		}
	})
	return func() error { stop(); return nil }
}

// openVolume opens a volume that metad has granted.
func (s *server) openVolume(ctx context.Context, rec *cluster.Volume, ended func(*volume.Volume, error)) (*volume.Volume, error) {
	return volume.Open(ctx, volume.Config{
		Record: rec, Holder: s.life.holder, Metad: s.metad, Stores: s.stores, Reader: s.reader, Packer: s.packer, Leases: s.leases,
		Budget: s.budget, Memory: s.buffers, Clock: s.clock, Log: s.log, Ended: ended, Took: s.storeWaits.took, Archive: s.archive,
		Limits: core.Limits{
			UnpackedBytesMax: min(s.cfg.Memory.WriteBuffer.Int64()/4, 128<<20), SealIdle: s.cfg.Volume.SealIdle.Std(),
			LongBlocksMin: int(s.cfg.Volume.LongWrite >> block.Shift),
		},
	})
}

// burst is corked while answers that came together are told, of the stores here by the
// queue and of the others by their connections: what comes of them leaves together.
type burst struct {
	clients nbd.Gather
	peers   *rpc.Server
}

func (b *burst) Cork() {
	b.clients.Cork()
	b.peers.Cork()
}

func (b *burst) Uncork() {
	b.clients.Uncork()
	b.peers.Uncork()
}

// makeServers makes what serves this host's stores and disks: to its peers, and to NBD clients.
func (s *server) makeServers() error {
	part := int(s.cfg.Memory.PeerRequests / 6) // bulk has two, for whole shards
	cfg := remote.ServiceConfig{Lookup: s.stores.Local, Clock: s.clock, LogBytesMax: part, BulkBytesMax: 2 * part, ReadBytesMax: part}
	if s.queue != nil {
		cfg.Corker = s.queue
	}
	service, err := remote.NewService(cfg)
	if err != nil {
		return err
	}
	volumes, err := volproto.NewService(volproto.ServiceConfig{Owner: s.exports, Clock: s.clock, BytesMax: part})
	if err != nil {
		return err
	}
	archive, err := archproto.NewService(archproto.ServiceConfig{Owner: s.exports, Clock: s.clock, BytesMax: part})
	if err != nil {
		return err
	}
	data := rpc.ServerConfig{
		Self: s.creds.Self(), Services: append(service.Services(), volumes, archive), ConnsMax: peerConnsMax, Clock: s.clock, Log: s.log, Stats: s.rpcStats,
	}
	if s.cfg.DataTLS == "off" {
		s.log.Warn("the data path has no TLS: whoever reaches the port can read and write every disk", "listen", s.cfg.Listen)
		data.Insecure = true
	} else {
		data.TLS = s.creds.Server(pki.Expect{Roles: []pki.Role{pki.RoleBlockd, pki.RoleSnapshotd}}) // each service says whom it serves
	}
	for _, x := range data.Services {
		s.shares = append(s.shares, x.Process)
	}
	s.data, err = rpc.NewServer(data)
	if err != nil {
		return err
	}
	b := &burst{peers: s.data}
	s.stores.burst = b
	if s.queue != nil {
		s.queue.Around(b.Cork, b.Uncork)
	}
	s.nbd, err = nbd.NewServer(nbd.Config{Exports: s.exports, HangupOnShutdown: true, Gather: &b.clients, Log: s.log,
		Limits: nbd.Limits{ServerBytesMax: s.cfg.Memory.ClientRequests.Int64(), ExportBytesMax: min(s.cfg.Memory.ClientRequests.Int64(), 256<<20), ConnBytesMax: min(s.cfg.Memory.ClientRequests.Int64(), 64<<20)}})
	if err == nil {
		s.showMemory()
	}
	return err
}

// serveNBD serves disks to clients: on the unix socket to who may open it, on TCP to
// who shows a certificate.
func (s *server) serveNBD() error {
	s.stack.Push("nbd", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		s.exports.Lift()
		if err := s.nbd.Shutdown(ctx); err != nil {
			s.log.Warn("clients hung up on", "err", err)
		}
		return nil
	})
	inherited, err := lifecycle.Inherited()
	if err != nil {
		return err
	}
	d, err := openDoors(s.cfg.NBD, inherited)
	if err != nil {
		return err
	}
	if d.unix != nil {
		s.group.Go("nbd unix", func(context.Context) error { return s.nbd.Serve(d.unix, nbd.Endpoint{}) })
	}
	if d.tcp != nil {
		ep := nbd.Endpoint{TLSRequired: s.cfg.NBD.TLS == "required"}
		if s.cfg.NBD.TLS != "off" {
			ep.TLS = s.creds.Server(pki.Expect{Roles: []pki.Role{pki.RoleNBD, pki.RoleOperator, pki.RoleBlockd}})
		}
		s.group.Go("nbd tcp", func(context.Context) error { return s.nbd.Serve(d.tcp, ep) })
	}
	return nil
}

// hedge looks for reads that wait too long.
func (s *server) hedge(ctx context.Context) error {
	t := s.clock.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
			s.reader.Tick(s.clock.Now())
		}
	}
}
