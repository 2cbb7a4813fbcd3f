package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// server is one snapshotd.
type server struct {
	cfg      Config
	life     string
	creds    *pki.Credentials
	metad    *client.Archiver
	store    objectstore.Store
	secret   *archive.Secret
	peers    *peers
	work     *work
	backup   *backupKeeper
	clock    clock.Clock
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  metrics
	group    *lifecycle.Group
	stack    *lifecycle.Stack

	heard atomic.Int64 // when metad answered last
}

// sweepAfter is how old a file is that was being written when its writer died.
const sweepAfter = 24 * time.Hour

const shutdownTimeout = 10 * time.Second

// Run works until ctx ends. What is under way then is left; whoever has the lease next goes on with it.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	var life [4]byte
	rand.Read(life[:]) // never fails
	s := &server{cfg: cfg, life: hex.EncodeToString(life[:]), clock: clock.System, log: log, registry: telemetry.NewRegistry("snapshotd"),
		group: lifecycle.NewGroup(context.Background())}
	s.stack = lifecycle.NewStack(s.clock, log)
	err := s.start(ctx)
	if err == nil {
		log.Info("serving", "node", cfg.ID, "archive", s.store.String(), "key", s.secret.String())
		_ = lifecycle.NotifyReady() // without systemd there is nobody to tell
		<-ctx.Done()
		_ = lifecycle.NotifyStopping()
		log.Info("stopping", "node", cfg.ID)
	}
	stop, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return errors.Join(err, s.stack.Close(stop))
}

func (s *server) start(ctx context.Context) (err error) {
	if s.creds, err = pki.Load(s.clock, s.cfg.TLS); err != nil {
		return fmt.Errorf("load certificates: %w", err)
	}
	if me := s.creds.Self(); me.Name != s.cfg.ID || me.Role != pki.RoleSnapshotd {
		return fmt.Errorf("certificate is of %s, id is %s: %w", me, s.cfg.ID, errs.ErrInvalid)
	}
	s.cfg.Archive.Store.S3.EveryVersion = s.cfg.Lock.For > 0
	if s.store, s.secret, err = s.cfg.Archive.Open(ctx, s.clock); err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	if err := s.checkLock(ctx); err != nil {
		return err
	}
	if d, ok := s.store.(*objectstore.Directory); ok {
		if err := d.Sweep(s.clock.Wall().Add(-sweepAfter)); err != nil {
			s.log.Warn("leftovers of crashes could not be deleted", "err", err)
		}
	}
	s.metrics = newMetrics(s.registry)
	s.store = s.metrics.count(s.store)
	if s.cfg.DebugListen != "" {
		d, err := telemetry.ServeDebug(telemetry.DebugOptions{Listen: s.cfg.DebugListen, Registry: s.registry, Health: s.health, Log: s.log})
		if err != nil {
			return fmt.Errorf("serve debug: %w", err)
		}
		s.stack.PushCloser("debug", d.Close)
	}
	s.metad, err = client.NewArchiver(client.Options{Addresses: s.cfg.Metad, LiveTLS: s.creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleMetad}}),
		Clock: s.clock, Log: s.log})
	if err != nil {
		return err
	}
	s.stack.PushCloser("metad", s.metad.Close)
	s.peers = &peers{s: s}
	s.stack.PushCloser("peers", s.peers.close)
	s.backup = newBackupKeeper(s)
	s.work = newWork(s)
	s.boundMemory()
	s.stack.PushCloser("work", s.group.Close)
	s.heard.Store(int64(s.clock.Now()))
	s.group.Go("work", s.work.run)
	s.group.Go("identity", s.keepIdentity)
	if !s.cfg.Backup.Disabled {
		s.group.Go("backup", s.backup.run)
	}
	return nil
}

// checkLock refuses a bucket that cannot lock. One that does not answer now is believed: nothing is put there that it does not lock.
func (s *server) checkLock(ctx context.Context) error {
	if s.cfg.Lock.For == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	err := s.store.CanLock(ctx)
	if errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || ctx.Err() != nil {
		s.log.Info("the archive does not say now whether it can lock", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock what is archived: %w", err)
	}
	return nil
}

// healthSilence is how long metad may not answer before this worker calls itself sick.
const healthSilence = 30 * time.Second

// health is what /healthz says.
func (s *server) health() error {
	if silent := s.clock.Now() - time.Duration(s.heard.Load()); silent > healthSilence {
		return fmt.Errorf("metad has not answered for %s: %w", silent.Round(time.Second), errs.ErrUnavailable)
	}
	return nil
}

// keepIdentity renews this worker's certificate and follows the cluster's CAs until ctx ends.
func (s *server) keepIdentity(ctx context.Context) error {
	k := &pki.Keeper{Creds: s.creds, Files: s.cfg.TLS, Clock: s.clock, Log: s.log, Sign: s.metad.RenewCertificate}
	t := s.clock.NewTicker(pki.KeepEvery)
	defer t.Stop()
	for {
		step, cancel := context.WithTimeout(ctx, shutdownTimeout)
		bundle, err := s.metad.TrustedCAs(step)
		if err != nil && ctx.Err() == nil {
			s.log.Info("the cluster's CAs are not known yet", "err", err)
		}
		k.Step(step, bundle)
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
	}
}
