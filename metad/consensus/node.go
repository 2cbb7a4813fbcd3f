package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// Peer is one member of the group, oneself included.
type Peer struct {
	ID   string
	API  string
	Raft string
}

// Options are what a Node needs.
type Options struct {
	ID       string
	Dir      string
	Peers    []Peer
	Listener net.Listener // of the raft address; the Node closes it
	Creds    *pki.Credentials
	Clock    clock.Clock
	Log      *slog.Logger

	Timing Timing
	FS     vfs.FS // of the log store; nil: the disk
}

// Timing are the group's times; zero fields take the defaults.
type Timing struct {
	// Heartbeat is how long a follower waits for its leader, up to twice this, before it
	// stands for election, and how long a leader leads without a majority.
	Heartbeat time.Duration
	// Watchdog is how long one write to the log may take before the process gives up.
	Watchdog time.Duration
	// SnapshotEntries is after how many entries a snapshot is taken, and how many are kept before it.
	SnapshotEntries uint64
}

func (t *Timing) ensureDefaults() {
	if t.Heartbeat == 0 {
		t.Heartbeat = 600 * time.Millisecond
	}
	if t.Watchdog == 0 {
		t.Watchdog = 10 * time.Second
	}
	if t.SnapshotEntries == 0 {
		t.SnapshotEntries = 8192
	}
}

const (
	transportTimeout   = 5 * time.Second
	transportPool      = 3
	snapshotsKept      = 2
	enqueueTimeout     = 2 * time.Second
	snapshotIntervalBy = 30 * time.Second
)

// Node is one member of the group.
type Node struct {
	o      Options
	fsm    *fsm
	store  *LogStore
	snaps  raft.SnapshotStore
	trans  *raft.NetworkTransport
	raft   *raft.Raft
	group  *lifecycle.Group
	failed chan error // one error at most
	kick   chan struct{}

	joining  joining
	line     atomic.Pointer[string] // the lineage of a state that was restored; nil: none was
	hadState bool                   // when it was opened

	mu struct {
		sync.Mutex
		down map[string]bool // members that do not answer a leader's heartbeats
	}
}

// Open starts the member. It listens and votes from here on.
func Open(o Options) (*Node, error) {
	o.Timing.ensureDefaults()
	n := &Node{o: o, failed: make(chan error, 1), kick: make(chan struct{}, 1), group: lifecycle.NewGroup(context.Background())}
	n.mu.down = make(map[string]bool)
	n.fsm = &fsm{machine: state.New(), applied: n.poke, restored: n.keepLineage}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open member %s: %w", o.ID, err), n.Close())
	}
	return n, nil
}

func (n *Node) open() error {
	o := n.o
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	var err error
	n.store, err = OpenLogStore(LogStoreOptions{Dir: filepath.Join(o.Dir, "raft"), FS: o.FS, Log: o.Log,
		Fatal: func(message string) { n.fail(fmt.Errorf("raft log: %s: %w", message, errs.ErrClosed)) }})
	if err != nil {
		return err
	}
	if err := n.loadLineage(); err != nil {
		return err
	}
	logger := telemetry.Hclog(slog.New(raftHandler{o.Log.Handler()}))
	if n.snaps, err = raft.NewFileSnapshotStoreWithLogger(o.Dir, snapshotsKept, logger); err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	w := &watched{LogStore: n.store, clock: o.Clock, limit: o.Timing.Watchdog, fail: n.fail}
	if err := n.loadJoining(w, n.snaps); err != nil { // before a peer can ask: who is let in depends on it
		return err
	}
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: names{}, Logger: logger,
		Stream:  newStream(o, n.whereabouts, n.protocols),
		MaxPool: transportPool, MaxRPCsInFlight: 1, Timeout: transportTimeout,
	})
	cfg := n.config()
	cfg.Logger = logger
	v := &voting{NetworkTransport: n.trans, joining: &n.joining, out: make(chan raft.RPC)}
	n.group.Go("raft requests", v.pass)
	if n.raft, err = raft.NewRaft(cfg, n.fsm, w, w, n.snaps, v); err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	n.group.Go("joining", n.join)
	n.group.Go("raft watchdog", w.watch)
	n.observe()
	return nil
}

func (n *Node) config() *raft.Config {
	t := n.o.Timing
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(n.o.ID)
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = t.Heartbeat, t.Heartbeat, t.Heartbeat
	cfg.CommitTimeout = 50 * time.Millisecond
	cfg.MaxAppendEntries = 256
	cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = t.SnapshotEntries, t.SnapshotEntries, snapshotIntervalBy
	cfg.NoLegacyTelemetry = true
	cfg.ShutdownOnRemove = false // a member that was taken out says so, and may come back
	return cfg
}

// observe follows who answers a leader's heartbeats.
func (n *Node) observe() {
	events := make(chan raft.Observation, 64)
	o := raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.PeerObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(o)
	n.group.Go("raft observer", func(ctx context.Context) error {
		defer n.raft.DeregisterObserver(o)
		for {
			select {
			case <-ctx.Done():
				return nil
			case e := <-events:
				n.observed(e.Data)
			}
		}
	})
}

func (n *Node) observed(data any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch d := data.(type) {
	case raft.FailedHeartbeatObservation:
		if !n.mu.down[string(d.PeerID)] {
			n.mu.down[string(d.PeerID)] = true
			n.o.Log.Info("member does not answer", "member", string(d.PeerID))
		}
	case raft.ResumedHeartbeatObservation:
		delete(n.mu.down, string(d.PeerID))
		n.o.Log.Info("member answers again", "member", string(d.PeerID))
	case raft.PeerObservation: // it is new here, or gone; raft knows nothing of its earlier silence
		delete(n.mu.down, string(d.Peer.ID))
	case raft.RaftState:
		clear(n.mu.down)
	}
}

// fail ends the node's usefulness; the first reason is kept.
func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// Failed gives the error after which the process has to exit without Close.
func (n *Node) Failed() <-chan error { return n.failed }

func (n *Node) poke() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Applied receives after commands were applied; several may share one signal.
func (n *Node) Applied() <-chan struct{} { return n.kick }

// Leadership receives true when this member begins to lead and false when it no longer does.
func (n *Node) Leadership() <-chan bool { return n.raft.LeaderCh() }

// View runs f with the machine as it stands on this member. f only reads, does not
// block and keeps nothing but volume records.
func (n *Node) View(f func(*state.Machine)) {
	n.fsm.mu.RLock()
	defer n.fsm.mu.RUnlock()
	f(n.fsm.machine)
}

// NotLeaderError says that this member does not lead and did nothing. Leader is who
// does, nil if unknown. Its class is errs.ErrUnavailable.
type NotLeaderError struct{ Leader *Peer }

func (e *NotLeaderError) Error() string {
	if e.Leader == nil {
		return "no leader is known"
	}
	return "member " + e.Leader.ID + " leads"
}

// Is makes it of class errs.ErrUnavailable.
func (e *NotLeaderError) Is(target error) bool { return target == errs.ErrUnavailable }

// NotLeader makes the error that says who leads now.
func (n *Node) NotLeader() error {
	_, leader := n.raft.LeaderWithID()
	if string(leader) == n.o.ID {
		return &NotLeaderError{} // about to lead, or about to stop
	}
	if p, ok := n.Peer(string(leader)); ok {
		return &NotLeaderError{Leader: &p}
	}
	return &NotLeaderError{}
}

// Apply commits c and gives its result. An error that is no *NotLeaderError leaves the
// outcome unknown; it is of class ErrUnavailable, ErrTimeout or ErrClosed.
func (n *Node) Apply(ctx context.Context, c state.Command) (state.Result, error) {
	var unready error
	n.View(func(m *state.Machine) { unready = m.Ready(c) })
	if unready != nil {
		return state.Result{}, unready
	}
	f := n.raft.Apply(state.Encode(c), enqueueTimeout)
	if err := n.wait(ctx, f); err != nil {
		return state.Result{}, fmt.Errorf("commit: %w", err)
	}
	return f.Response().(state.Result), nil
}

// Barrier returns when everything committed before it is applied here, by a leader.
func (n *Node) Barrier(ctx context.Context) error { return n.wait(ctx, n.raft.Barrier(enqueueTimeout)) }

// VerifyLeader returns when a majority has said, after it was called, that this member leads.
func (n *Node) VerifyLeader(ctx context.Context) error { return n.wait(ctx, n.raft.VerifyLeader()) }

// wait bounds a raft future by ctx. The goroutine that waits on ends with the future,
// at the latest when raft shuts down.
func (n *Node) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !n.group.Go("raft future", func(context.Context) error { done <- f.Error(); return nil }) {
		return fmt.Errorf("member %s: %w", n.o.ID, errs.ErrClosed)
	}
	select {
	case err := <-done:
		return n.classify(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ctx.Err(), errs.ErrTimeout)
	}
}

func (n *Node) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return n.NotLeader()
	case errors.Is(err, raft.ErrRaftShutdown):
		return fmt.Errorf("%w: %w", err, errs.ErrClosed)
	}
	return fmt.Errorf("%w: %w", err, errs.ErrUnavailable)
}

// Term is the current term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// Leads tells whether this member believes to lead.
func (n *Node) Leads() bool { return n.raft.State() == raft.Leader }

// HasLeader tells whether this member knows of a leader.
func (n *Node) HasLeader() bool {
	_, leader := n.raft.LeaderWithID()
	return leader != ""
}

// Snapshot takes a snapshot now.
func (n *Node) Snapshot() error {
	if err := n.raft.Snapshot().Error(); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// StepDown hands leadership to another member, so that a planned stop costs no election timeout.
func (n *Node) StepDown() error {
	voters := 0
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	if n.raft.State() != raft.Leader || voters < 2 {
		return nil
	}
	return n.raft.LeadershipTransfer().Error()
}

// Close ends the member in order. Not after Failed: the disk may hold it for ever.
func (n *Node) Close() error {
	var all []error
	if n.raft != nil {
		all = append(all, n.raft.Shutdown().Error())
	}
	if n.trans != nil {
		all = append(all, n.trans.Close())
	} else if n.o.Listener != nil {
		all = append(all, n.o.Listener.Close())
	}
	all = append(all, n.group.Close())
	if n.store != nil {
		all = append(all, n.store.Close())
	}
	return errors.Join(all...)
}
