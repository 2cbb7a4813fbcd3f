package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/pki"
)

// Options are what ashlar dev is told. Zero counts and sizes mean the defaults at the
// first run, and what is there at later ones.
type Options struct {
	Dir    string // data folder; made if missing
	BinDir string // where metad and blockd are
	Clock  clock.Clock
	Out    io.Writer // lines for people; the one beginning with "ready" is for scripts

	Metads, Blockds, Stores int
	StoreSize               config.ByteSize

	NoRestart bool
	// SyncDelay is a store's debug setting: hold back every fdatasync.
	SyncDelay config.Duration
	// Overlays are YAML files laid over each daemon's config.
	MetadOverlay, BlockdOverlay, SnapshotdOverlay string
	// S3 is where the archive is; nil: in the folder.
	S3 *S3Config
	// Lock is how long what is archived is locked, in S3.
	Lock LockConfig

	// Tests' stand-ins for asking metad: whether it serves, and how many disks are open.
	serves func(context.Context) (state string, ok bool)
	owned  func(context.Context) (int, error)
}

const (
	readyTimeout   = 2 * time.Minute
	readyPoll      = 100 * time.Millisecond
	allUpTimeout   = 15 * time.Second // after it, serving at all is ready enough
	deathsMax      = 5                // of one daemon before the cluster was ready
	logPoll        = 10 * time.Second
	blockdGrace    = 30 * time.Second // it packs and checkpoints what it holds
	metadGrace     = 10 * time.Second
	drainTimeout   = 25 * time.Second // a blockd's own limit is a little less
	logLinesQuoted = 15
)

// Run runs the cluster until ctx ends and every daemon has ended. It fails if the cluster
// cannot be made or does not come up; a daemon that dies later is restarted.
func Run(ctx context.Context, o Options) (err error) {
	for _, name := range []string{"metad", "blockd"} {
		if _, err := os.Stat(filepath.Join(o.BinDir, name)); err != nil {
			return fmt.Errorf("%s is not beside ashlar in %s (make build makes all): %w", name, o.BinDir, errs.ErrNotFound)
		}
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return fmt.Errorf("find data folder: %w", err)
	}
	l := layout{o.Dir}
	if err := l.make(); err != nil {
		return err
	}
	lock, err := lockFolder(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	file, err := l.prepare(o)
	if err != nil {
		return err
	}
	r := &runner{o: o, layout: l, file: file}
	return r.run(ctx)
}

// Prepare does what comes before the first daemon starts, and starts none: folder, ports,
// certificates, configs. Nothing may run on the folder.
func Prepare(o Options) (*File, error) {
	l := layout{o.Dir}
	if err := l.make(); err != nil {
		return nil, err
	}
	return l.prepare(o)
}

// prepare makes the cluster, or finds it, and writes the daemons' configs.
func (l layout) prepare(o Options) (*File, error) {
	file, err := LoadFile(l.dir)
	var ca *pki.CA
	switch {
	case errors.Is(err, errs.ErrNotFound):
		file, ca, err = l.create(o)
	case err != nil:
	case file.Dev == nil:
		err = fmt.Errorf("%s in %s belongs to a cluster that ashlar dev did not make: %w", FileName, l.dir, errs.ErrInvalid)
	default:
		if err = file.Dev.keeps(o); err == nil {
			ca, err = pki.LoadCA(o.Clock, l.pki())
		}
	}
	if err != nil {
		return nil, err
	}
	file.Dev.ensureSnapshotd()
	if err := l.ensureCertificates(o.Clock, ca, file.Dev); err != nil {
		return nil, err
	}
	if err := ownFolder(file.Dev.Sockets); err != nil {
		return nil, err
	}
	return file, l.writeConfigs(file.Dev, o)
}

// create decides everything that is decided once. cluster.yaml comes last: without it the
// next run begins again.
func (l layout) create(o Options) (*File, *pki.CA, error) {
	plan, err := newPlan(o)
	if err != nil {
		return nil, nil, err
	}
	name, err := newClusterName()
	if err != nil {
		return nil, nil, err
	}
	ca, err := pki.NewCA(o.Clock, name)
	if err != nil {
		return nil, nil, err
	}
	if err := os.RemoveAll(l.pki()); err != nil { // of a first run that broke off
		return nil, nil, fmt.Errorf("clear certificates: %w", err)
	}
	if err := ca.Save(l.pki()); err != nil {
		return nil, nil, err
	}
	if err := l.ensureCertificates(o.Clock, ca, plan); err != nil {
		return nil, nil, err
	}
	f := &File{Cluster: name, TLS: tlsFiles("pki", operatorName), Dev: plan}
	for _, m := range plan.Metads {
		f.Metad = append(f.Metad, m.API)
	}
	return f, ca, f.save(l.dir)
}

// runner is one run.
type runner struct {
	o      Options
	layout layout
	file   *File
	group  *lifecycle.Group

	metads, blockds, snapshotds []*daemon

	out sync.Mutex
}

func (r *runner) say(format string, args ...any) {
	r.out.Lock()
	defer r.out.Unlock()
	fmt.Fprintf(r.o.Out, format+"\n", args...)
}

func (r *runner) run(ctx context.Context) error {
	// Daemons get a context of their own: they end in order, not all at the signal. The
	// thread that forks must outlive them all.
	spawnGroup := lifecycle.NewGroup(context.Background())
	r.group = lifecycle.NewGroup(context.Background())
	spawn := newSpawner(spawnGroup)
	for _, m := range r.file.Dev.Metads {
		r.metads = append(r.metads, r.daemon(spawn, "metad", m.ID))
	}
	for _, b := range r.file.Dev.Blockds {
		r.blockds = append(r.blockds, r.daemon(spawn, "blockd", b.ID))
	}
	if hasSnapshotd(r.o.BinDir) {
		r.snapshotds = append(r.snapshotds, r.daemon(spawn, "snapshotd", r.file.Dev.Snapshotd.ID))
	}
	start := r.o.Clock.Now()
	r.say("cluster %s in %s: starting %d metad, %d blockd, %d snapshotd", r.file.Cluster, r.layout.dir, len(r.metads), len(r.blockds), len(r.snapshotds))
	for _, d := range r.all() {
		r.group.Go(d.id, d.run)
	}
	r.group.Go("log rotation", r.rotateLogs)

	state, err := r.awaitReady(ctx)
	if err == nil && ctx.Err() == nil {
		r.say("ready after %s: %s; try: ashlar --data %s status", (r.o.Clock.Now() - start).Round(100*time.Millisecond), state, r.layout.dir)
		<-ctx.Done()
	}
	r.say("stopping")
	if err == nil && state != "" {
		r.drain()
	}
	r.stop()
	err = errors.Join(err, r.group.Close(), spawnGroup.Close())
	r.layout.removeSockets(r.file.Dev)
	if err == nil {
		r.say("stopped")
	}
	return err
}

func (r *runner) daemon(spawn *spawner, program, id string) *daemon {
	return &daemon{
		id: id, binary: filepath.Join(r.o.BinDir, program), args: []string{"--config", r.layout.config(id)}, dir: r.layout.dir,
		pidFile: r.layout.pidFile(id), logFile: r.layout.log(id), restart: !r.o.NoRestart, clock: r.o.Clock, spawn: spawn, tell: r.say,
	}
}

func (r *runner) all() []*daemon { return slices.Concat(r.metads, r.blockds, r.snapshotds) }

// drain has all blockds hand off their disks while all stores still serve: one that stops
// later than the others would else have to pack what it holds onto the last stores up.
// It is best effort; what is not drained is recovered from the journals.
func (r *runner) drain() {
	owned := r.o.owned
	if owned == nil {
		c, err := r.file.Connect(r.o.Clock, r.layout.dir)
		if err != nil {
			return
		}
		defer c.Close()
		owned = func(ctx context.Context) (int, error) { return ownedDisks(ctx, c) }
	}
	for _, d := range r.blockds {
		d.signal(syscall.SIGUSR1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	for {
		n, err := owned(ctx)
		if err != nil || n == 0 {
			return
		}
		if r.o.Clock.Sleep(ctx, readyPoll) != nil {
			r.say("%d disks are not handed off after %s; going on", n, drainTimeout)
			return
		}
	}
}

// ownedDisks is how many disks some blockd still has open, with those that are deleted and
// stay for their snapshots.
func ownedDisks(ctx context.Context, c *client.Cluster) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	hosts, err := c.Hosts(ctx)
	n := 0
	for _, h := range hosts {
		n += int(h.DisksOwned)
	}
	return n, err
}

// stop ends the snapshotd, then the blockds: they hand over and checkpoint through metad.
func (r *runner) stop() {
	for _, step := range []struct {
		daemons []*daemon
		grace   time.Duration
	}{{r.snapshotds, metadGrace}, {r.blockds, blockdGrace}, {r.metads, metadGrace}} {
		var wg sync.WaitGroup
		for _, d := range step.daemons {
			wg.Go(func() { d.stop(step.grace) })
		}
		wg.Wait()
	}
}

func (r *runner) rotateLogs(ctx context.Context) error {
	for r.o.Clock.Sleep(ctx, logPoll) == nil {
		for _, d := range r.all() {
			if err := rotate(d.logFile, moveOpen); err != nil {
				r.say("%v", err)
			}
		}
	}
	return nil
}

// awaitReady returns when the cluster serves, with a few words about it, or why it does
// not come up. The end of ctx is no error.
func (r *runner) awaitReady(ctx context.Context) (state string, err error) {
	serves := r.o.serves
	if serves == nil {
		c, err := r.file.Connect(r.o.Clock, r.layout.dir)
		if err != nil {
			return "", err
		}
		defer c.Close()
		serves = r.asker(c)
	}
	end := r.o.Clock.Now() + readyTimeout
	for ctx.Err() == nil {
		state, ok := serves(ctx)
		if ok {
			return state, nil
		}
		if d := r.hopeless(); d != nil {
			return "", fmt.Errorf("%s does not stay up: %w; the end of %s:\n%s", d.id, errs.ErrUnavailable, d.logFile, tail(d.logFile, logLinesQuoted))
		}
		if r.o.Clock.Now() >= end {
			return "", fmt.Errorf("cluster does not serve after %s (%s); see the logs in %s: %w", readyTimeout, state, filepath.Join(r.layout.dir, "log"), errs.ErrTimeout)
		}
		if r.o.Clock.Sleep(ctx, readyPoll) != nil {
			break
		}
	}
	return "", nil
}

// hopeless is a daemon that died too often, or once when it may not be restarted.
func (r *runner) hopeless() *daemon {
	for _, d := range r.all() {
		if n := d.deaths(); n >= deathsMax || n > 0 && r.o.NoRestart {
			return d
		}
	}
	return nil
}

// listening tells whether every blockd lets clients in: after a restart metad takes those
// of the run before for alive until their heartbeats are missed.
func (r *runner) listening(ctx context.Context) bool {
	for _, b := range r.file.Dev.Blockds {
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.file.Dev.Sockets, b.ID+".sock"))
		if err != nil {
			return false
		}
		_ = c.Close() // it has shown what it could
	}
	return true
}

// asker judges metad's answer: all there, or, after a while, enough to serve.
func (r *runner) asker(c *client.Cluster) func(context.Context) (string, bool) {
	start := r.o.Clock.Now()
	stores := 0
	for _, b := range r.file.Dev.Blockds {
		stores += b.Stores + len(b.Added)
	}
	return func(ctx context.Context) (string, bool) {
		s, err := healthOf(ctx, c)
		if err != nil {
			return "metad does not answer: " + err.Error(), false
		}
		n := s.GetCounts()
		state := fmt.Sprintf("%d metad, %d blockd, %d stores up", n.GetMetadsUp(), n.GetHostsUp(), n.GetStoresUp())
		if int(n.GetMetadsUp()) >= len(r.metads) && int(n.GetHostsUp()) >= len(r.blockds) && int(n.GetStoresUp()) >= stores && n.GetPgs() > 0 && r.listening(ctx) {
			return state, true
		}
		var why []string
		for _, x := range s.Reasons {
			why = append(why, x.Text)
		}
		if s.Health != api.Health_HEALTH_UNAVAILABLE && n.GetStoresUp() > 0 && r.o.Clock.Now()-start > allUpTimeout {
			return fmt.Sprintf("%s, health %s (%s)", state, strings.TrimPrefix(s.Health.String(), "HEALTH_"), strings.Join(why, "; ")), true
		}
		return state, false
	}
}
