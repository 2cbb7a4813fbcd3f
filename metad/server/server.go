// Package server is metad as a process: it joins the Raft group, answers the API while
// it leads and points to the leader while it does not. See ../DESIGN.md.
package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// Options are what Open takes beside the file.
type Options struct {
	Config   Config
	Creds    *pki.Credentials
	Clock    clock.Clock
	Log      *slog.Logger
	Registry *prometheus.Registry // nil: no metrics

	// For tests. Listeners, if set, stand in for the addresses.
	Listener, RaftListener, JoinListener net.Listener
	CA                                   *pki.CA // with JoinListener: instead of the folder
	Timing                               consensus.Timing
	Settings                             cluster.Settings // of a cluster that this member names; zero: state.DefaultSettings
	OutAfter                             time.Duration    // zero: reconcile.OutAfterDefault
	FS                                   vfs.FS
}

const (
	messageBytesMax = 64 << 20
	streamsMax      = 4096
	commitTimeout   = 10 * time.Second
	stopTimeout     = 2 * time.Second
)

// Server is one running metad. Safe for concurrent use.
type Server struct {
	log      *slog.Logger
	clock    clock.Clock
	random   io.Reader
	settings cluster.Settings
	outAfter time.Duration
	metrics  *metrics
	node     *consensus.Node
	grpc     *grpc.Server
	group    *lifecycle.Group
	reign    atomic.Pointer[reign] // nil while another leads
	stack    *lifecycle.Stack
	address  string
	events   teller

	signer     *signer     // nil: this member signs nothing
	ownRequest pki.Request // what its own certificate says
	callers    callers
	askMembers *client.Members

	creds       *pki.Credentials
	self        state.Member // where this member is reached, as its file says
	joinAddress string       // empty: it does not sign
	join        *grpc.Server // nil then
}

// Open starts a member. It serves when Open returns, though perhaps there is no leader yet.
func Open(o Options) (*Server, error) {
	s := &Server{log: o.Log, clock: o.Clock, random: rand.Reader, settings: o.Settings, metrics: newMetrics(o.Registry),
		group: lifecycle.NewGroup(context.Background()), stack: lifecycle.NewStack(o.Clock, o.Log)}
	if s.outAfter = o.OutAfter; s.outAfter == 0 {
		s.outAfter = reconcile.OutAfterDefault
	}
	if s.settings == (cluster.Settings{}) {
		s.settings = state.DefaultSettings
	}
	s.events.init()
	if err := s.open(o); err != nil {
		return nil, errors.Join(err, s.stack.Close(context.Background()))
	}
	return s, nil
}

func (s *Server) open(o Options) error {
	if self := o.Creds.Self(); self.Role != pki.RoleMetad || self.Name != o.Config.ID {
		return fmt.Errorf("the certificate is of %s, not of metad %s: %w", self, o.Config.ID, errs.ErrDenied)
	}
	s.creds = o.Creds
	for _, p := range o.Config.Peers {
		if p.ID == o.Config.ID {
			s.self = state.Member(p)
		}
	}
	raftListener, err := listen(o.RaftListener, o.Config.RaftListen)
	if err != nil {
		return err
	}
	s.node, err = consensus.Open(consensus.Options{ID: o.Config.ID, Dir: o.Config.Data, Peers: o.Config.peers(), Listener: raftListener,
		Creds: o.Creds, Clock: o.Clock, Log: o.Log, Timing: o.Timing, FS: o.FS})
	if err != nil {
		return err
	}
	s.stack.PushCloser("member", s.node.Close)
	s.showMemory(o.Registry)
	ln, err := listen(o.Listener, o.Config.Listen)
	if err != nil {
		return err
	}
	s.address = ln.Addr().String()
	s.grpc = grpc.NewServer(
		grpc.Creds(telling{credentials.NewTLS(o.Creds.Server(pki.Expect{Roles: []pki.Role{pki.RoleMetad, pki.RoleBlockd, pki.RoleSnapshotd, pki.RoleOperator}})), s.log}),
		grpc.UnaryInterceptor(gate{s.log, &s.callers, s.refuseRemoved}.unary), grpc.StreamInterceptor(gate{s.log, &s.callers, s.refuseRemoved}.stream),
		grpc.MaxRecvMsgSize(messageBytesMax), grpc.MaxSendMsgSize(messageBytesMax), grpc.MaxConcurrentStreams(streamsMax),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	api.RegisterBlockdServer(s.grpc, &blockdService{s: s})
	api.RegisterClusterServer(s.grpc, &clusterService{s: s})
	api.RegisterMemberServer(s.grpc, &memberService{s: s})
	api.RegisterRebuildServer(s.grpc, &rebuildService{s: s})
	api.RegisterMembershipServer(s.grpc, &membershipService{s: s})
	api.RegisterIdentityServer(s.grpc, &identityService{s: s})
	api.RegisterArchiverServer(s.grpc, &archiver{s: s})
	api.RegisterArchivesServer(s.grpc, &archiver{s: s})
	api.RegisterBackupsServer(s.grpc, &backupService{s: s})
	api.RegisterImagesServer(s.grpc, &imageService{c: &clusterService{s: s}})
	api.RegisterHooksServer(s.grpc, &hookService{s: s})
	api.RegisterHostsServer(s.grpc, &hostsService{c: &clusterService{s: s}})
	api.RegisterFreezesServer(s.grpc, &freezeService{c: &clusterService{s: s}})
	if err := s.startIdentity(o); err != nil {
		return errors.Join(err, ln.Close())
	}
	if err := s.startJoin(o); err != nil {
		return errors.Join(err, ln.Close())
	}
	s.group.Go("leadership", s.lead)
	s.group.Go("events", s.writeEvents)
	if o.Config.Backup.Folder != "" {
		s.group.Go("backups", func(ctx context.Context) error { return s.keepBackups(ctx, o.Config.Backup) })
	}
	if o.Config.Bootstrap {
		f := &founder{s: s, creds: o.Creds, id: o.Config.ID, peers: o.Config.Peers}
		s.group.Go("founding", f.run)
	}
	s.group.Go("api", func(context.Context) error {
		if err := s.grpc.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve API: %w", err)
		}
		return nil
	})
	s.stack.Push("api", s.stopAPI)
	return nil
}

func listen(given net.Listener, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return ln, nil
}

// stopAPI hands leadership over first, so that clients find the next leader at once,
// then lets calls end.
func (s *Server) stopAPI(context.Context) error {
	flush, cancel := context.WithTimeout(context.Background(), eventsFlushMax)
	s.flushEvents(flush)
	cancel()
	if err := s.node.StepDown(); err != nil {
		s.log.Info("leadership was not handed over", "err", err)
	}
	s.group.Cancel()
	if s.join != nil {
		s.join.Stop()
	}
	hard := s.clock.AfterFunc(stopTimeout, s.grpc.Stop)
	s.grpc.GracefulStop()
	hard.Stop()
	return s.group.Wait()
}

// Address is where the API listens.
func (s *Server) Address() string { return s.address }

// Failed gives the error after which the process has to exit without Close.
func (s *Server) Failed() <-chan error { return s.node.Failed() }

// Health is nil while this member knows of a leader.
func (s *Server) Health() error {
	if !s.node.HasLeader() {
		return fmt.Errorf("no leader is known: %w", errs.ErrUnavailable)
	}
	return nil
}

// Close stops in order: leadership, API, member. It may be called again.
func (s *Server) Close() error { return s.stack.Close(context.Background()) }

// ruling is the present reign, or the error that says who leads.
func (s *Server) ruling() (*reign, error) {
	if r := s.reign.Load(); r != nil {
		return r, nil
	}
	return nil, s.node.NotLeader()
}

// fresh returns when it is certain that this member leads, so that its state has
// everything that was answered before.
func (s *Server) fresh(ctx context.Context) error {
	if _, err := s.ruling(); err != nil {
		return err
	}
	return s.node.VerifyLeader(ctx)
}

// commit runs c through Raft. Its error is ready for the wire.
func (s *Server) commit(ctx context.Context, c state.Command) (state.Result, error) {
	if _, err := s.ruling(); err != nil {
		return state.Result{}, s.fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	start := s.clock.Now()
	res, err := s.node.Apply(ctx, c)
	if err != nil {
		s.metrics.committed(err, s.clock.Now()-start)
		return res, s.fail(err)
	}
	s.metrics.committed(res.Err, s.clock.Now()-start)
	if res.Err != nil {
		d := &api.ErrorDetail{}
		if res.Volume != nil {
			d.Current = api.FromVolume(&res.Volume.Volume)
		}
		s.metrics.failed(res.Err)
		return res, api.ToStatus(res.Err, d)
	}
	return res, nil
}

// final marks an error of a passing class that is this leader's answer all the same:
// another attempt at once would get it again.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// fail makes err ready for the wire. Errors of passing classes are marked as worth
// another attempt, for what fails inside metad while leadership changes is nobody's answer.
func (s *Server) fail(err error) error {
	s.metrics.failed(err)
	d := &api.ErrorDetail{}
	var elsewhere *consensus.NotLeaderError
	var f *final
	switch {
	case errors.As(err, &f):
	case errors.As(err, &elsewhere):
		d.NotLeader = true
		if elsewhere.Leader != nil {
			d.LeaderApi = elsewhere.Leader.API
		}
	default:
		switch errs.CodeOf(err) {
		case errs.Unavailable, errs.Closed, errs.Timeout:
			d.Retry = true
		}
	}
	return api.ToStatus(err, d)
}

func (s *Server) seed() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return 0, fmt.Errorf("draw seed: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Run is the daemon: it serves until ctx ends, or until the disk fails it.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	creds, err := pki.Load(clock.System, cfg.TLS)
	if err != nil {
		return err
	}
	reg := telemetry.NewRegistry("metad")
	s, err := Open(Options{Config: cfg, Creds: creds, Clock: clock.System, Log: log, Registry: reg, OutAfter: cfg.StoreOutAfter.Std()})
	if err != nil {
		return err
	}
	if cfg.DebugListen != "" {
		debug, err := telemetry.ServeDebug(telemetry.DebugOptions{Listen: cfg.DebugListen, Registry: reg, Health: s.Health, Log: log})
		if err != nil {
			return errors.Join(err, s.Close())
		}
		defer debug.Close()
	}
	log.Info("metad serves", "id", cfg.ID, "api", s.Address())
	if err := lifecycle.NotifyReady(); err != nil {
		log.Warn("systemd was not told", "err", err)
	}
	select {
	case err := <-s.Failed():
		// The store may hang for ever: what is durable is durable, so just go.
		return fmt.Errorf("metad %s cannot persist: %w", cfg.ID, err)
	case <-ctx.Done():
	}
	if err := lifecycle.NotifyStopping(); err != nil {
		log.Warn("systemd was not told", "err", err)
	}
	return s.Close()
}
