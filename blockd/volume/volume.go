package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
)

// Stores finds the body of a store; false if it is not known here.
type Stores interface {
	Store(id.Store) (storeproto.Store, bool)
}

// Metad is what a volume asks of metad; see client.Metad.
type Metad interface {
	Topology() *cluster.Topology
	Volume(context.Context, id.Volume) (*cluster.Volume, error)
	AddEnsemble(context.Context, client.AddEnsemble) (*cluster.Volume, error)
	CloseEnsemble(context.Context, client.CloseEnsemble) (*cluster.Volume, error)
	RemoveEnsembles(context.Context, client.RemoveEnsembles) (*cluster.Volume, error)
	ReplaceList(ctx context.Context, at client.ListVersion, keep id.Ensemble) (*cluster.Volume, error)
	AllocRange(ctx context.Context, v id.Volume, e id.Epoch) (client.Range, error)
	ForgetSpans(ctx context.Context, v id.Volume, e, below id.Epoch) error
	CommitCheckpoint(ctx context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error
	EnsurePlacement(ctx context.Context, exclude []id.Store) (*cluster.Topology, error)
	ReportStore(ctx context.Context, by id.Host, s cluster.StoreRef, problem string) error
	RestoreWhole(ctx context.Context, v id.Volume, e id.Epoch) error
	VolumeFlattened(ctx context.Context, v id.Volume, e id.Epoch) error
}

// Config has what a volume needs. All fields but the limits, Memory and Ended are required.
type Config struct {
	Record  *cluster.Volume // as metad granted it, under the new epoch
	Holder  id.Holder
	Metad   Metad
	Stores  Stores
	Reader  *reader.Reader
	Packer  *packer.Packer
	Leases  *Leases
	Budget  *blockmap.Budget
	Memory  *core.Memory // of all volumes of the process; nil: only Limits count
	Clock   clock.Clock
	Log     *slog.Logger
	Limits  core.Limits
	Journal journal.Limits
	// Ended is called once, from its own goroutine, when a volume that Open has given
	// stops by itself: a later epoch is in force.
	Ended func(*Volume, error)
	// Took, if set, hears how long a store took for an append.
	Took func(id.Store, time.Duration)
	// Archive is where disks that were made from one find it; nil: nowhere.
	Archive *restore.Archive
}

// Volume is one open volume. Safe for concurrent use.
type Volume struct {
	cfg   Config
	id    id.Volume
	epoch id.Epoch
	log   *slog.Logger
	group *lifecycle.Group
	kick  chan struct{} // look at the topology, go on with what was cut short
	dead  deleter

	traffic traffic

	snapshots Snapshots // as the archive reads them

	mu      sync.Mutex
	opener  *journal.Opener // until the journal is open
	core    *core.Core
	sends   []*journal.Send // in the order of the steps that made them
	sending bool
	closed  bool
	ended   error
	topo    uint64
	spread  journal.Spread
	gone    map[id.Raw]chan struct{} // closed when nothing of that snapshot is left
	held    heldMark                 // the last one
	frozen  bool                     // see Frozen
	archive *restore.Disk            // nil: nothing was read there yet
	lent    *lent
	flatten bool // as metad has it

	opened  chan struct{} // closed when it serves
	drained chan struct{} // closed when a drain is done
	failed  chan struct{} // closed when ended is set
	rolled  chan struct{} // closed when a rollback is done
}

// Open opens a volume: fences its former owners, recovers its journal, reads its
// tables. When it returns the volume serves, or err says why not: then it is
// closed, and another attempt needs another epoch from metad.
func Open(ctx context.Context, cfg Config) (*Volume, error) {
	rec := cfg.Record
	restored, archive, err := restoredOf(ctx, &cfg)
	if err != nil {
		return nil, fmt.Errorf("open volume %s, made from an archive: %w", rec.ID, err)
	}
	k, err := core.New(core.Config{
		Volume: rec.ID, Epoch: rec.Epoch, Blocks: block.Bytes(rec.Size).Blocks(), Budget: cfg.Budget, Memory: cfg.Memory, Limits: cfg.Limits,
		Leftovers: leftovers(rec), Origin: rec.Origin, Frozen: rec.Rollback != nil, Restored: restored,
	}, opaque(rec))
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", rec.ID, err)
	}
	v := &Volume{
		cfg: cfg, id: rec.ID, epoch: rec.Epoch, core: k, log: cfg.Log.With("volume", rec.ID.String(), "epoch", uint64(rec.Epoch)),
		group: lifecycle.NewGroup(context.Background()), kick: make(chan struct{}, 1), archive: archive, lent: lentTo(&cfg),
		opened: make(chan struct{}), drained: make(chan struct{}), failed: make(chan struct{}),
		rolled: make(chan struct{}), frozen: rec.Rollback != nil,
	}
	v.snapshots = Snapshots{Tree: v.snapshotTree, Where: v.whereIs, Reader: cfg.Reader}
	if x := rec.Restored; x != nil {
		k.SetHydrateRate(int64(min(x.Rate, 1<<62)))
	}
	v.SetFlatten(rec.Flatten)
	cfg.Leases.add(v)
	v.dead.init()
	v.group.Go("volume", v.run)
	v.group.Go("deleter", v.runDeletes)
	if err := v.beginOpening(); err != nil {
		v.Abandon()
		return nil, fmt.Errorf("open volume %s: %w", rec.ID, err)
	}
	select {
	case <-v.opened:
		return v, nil
	case <-v.failed:
		err = v.Err()
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errs.ErrTimeout, ctx.Err())
	}
	v.Abandon()
	return nil, fmt.Errorf("open volume %s at %s: %w", rec.ID, rec.Epoch, err)
}

func opaque(rec *cluster.Volume) []byte {
	if rec.Checkpoint == nil {
		return nil
	}
	return rec.Checkpoint.Opaque
}

// beginOpening starts the opener of the journal.
func (v *Volume) beginOpening() error {
	rec := v.cfg.Record
	cfg := journal.OpenConfig{
		Volume: v.id, Epoch: v.epoch, Holder: v.cfg.Holder, List: ListOf(rec), Prior: rec.Prior, MetaFrom: v.core.MetaFrom(),
		Leases: v.cfg.Leases.table, Limits: v.cfg.Journal, Completed: v.sent, Confirmed: v.confirmed,
	}
	t := v.cfg.Metad.Topology()
	if t != nil {
		for i := range t.Stores {
			switch s := &t.Stores[i]; s.State {
			case cluster.StoreDown, cluster.StoreOut:
				cfg.Down = append(cfg.Down, s.Store)
			case cluster.StoreLost:
				cfg.Lost = append(cfg.Lost, s.Store)
			}
			if s := &t.Stores[i]; s.Host == v.cfg.Holder.Host {
				cfg.Near = append(cfg.Near, s.Store)
			}
		}
	}
	var err error
	v.step(func(now time.Duration, fx *core.Effects) {
		v.opener, err = journal.NewOpener(now, cfg, &fx.Journal)
		if t != nil {
			v.core.Topology(now, t, fx)
		}
	})
	return err
}

// ID is the volume's id; Epoch the one it is open under.
func (v *Volume) ID() id.Volume { return v.id }

// Epoch is the epoch the volume is open under.
func (v *Volume) Epoch() id.Epoch { return v.epoch }

// Name is the disk's, as it was when the volume was opened.
func (v *Volume) Name() string { return v.cfg.Record.Name }

// Err tells why the volume ended by itself; nil while it serves.
func (v *Volume) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ended
}

// Stats gives the core's facts.
func (v *Volume) Stats() core.Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.core.Stats()
}

// Recoding tells whether segments of the volume are, or may be, coded otherwise than their
// groups are now; until they are not it writes them anew.
func (v *Volume) Recoding() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, on := v.core.Recoding()
	return on
}

// SizeBytes is the size in bytes.
func (v *Volume) SizeBytes() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return uint64(v.core.Blocks().Offset())
}

// Resize makes the volume larger.
func (v *Volume) Resize(bytes uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.core.Resize(block.Bytes(bytes).Blocks())
	}
}

// effects are reused: a step's are empty most of the time.
var effects = sync.Pool{New: func() any { return new(core.Effects) }}

// step runs f under the mutex and carries out what comes of it.
func (v *Volume) step(f func(now time.Duration, fx *core.Effects)) {
	fx := effects.Get().(*core.Effects)
	v.mu.Lock()
	if !v.closed {
		f(v.cfg.Clock.Now(), fx)
	}
	v.unlock(fx)
}

// unlock ends a step: what the opening says is taken in, the appends are queued,
// the mutex released, and the effects carried out.
func (v *Volume) unlock(fx *core.Effects) {
	if v.opener != nil && !v.closed {
		v.opening(fx)
	}
	v.sends = append(v.sends, fx.Journal.Appends...)
	send := !v.sending && len(v.sends) > 0
	v.sending = v.sending || send
	v.mu.Unlock()
	v.startFetches(&fx.Journal) // not behind what was read: sending it takes as long as reading it
	if send {
		v.send()
	}
	v.carry(fx)
	fx.Reset()
	effects.Put(fx)
}

// send gives queued appends to their stores, in order, until none is left. One goroutine at a time does it.
func (v *Volume) send() {
	var batch []*journal.Send
	for {
		v.mu.Lock()
		batch, v.sends = v.sends, batch[:0]
		if len(batch) == 0 {
			v.sending = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		now := v.cfg.Clock.Now()
		for i, s := range batch {
			batch[i] = nil
			s.Sent = now
			store, err := bodyOf(v.cfg.Stores, cluster.StoreRef(s.Member))
			if err != nil {
				s.Append.Err = err
				s.Append.Done(&s.Append)
				continue
			}
			store.Append(&s.Append)
		}
	}
}

var (
	errUnknownStore = fmt.Errorf("store is not known on this host: %w", errs.ErrUnavailable)
	errOtherMemory  = fmt.Errorf("store was formatted anew: %w", errs.ErrNotFound)
)

// bodyOf finds the body of a store in the very incarnation that ref names: another
// one does not know the fences of this one. A body tells its incarnation if it can;
// one behind a connection is refused by the store itself.
func bodyOf(stores Stores, ref cluster.StoreRef) (storeproto.Store, error) {
	body, ok := stores.Store(ref.Store)
	if !ok {
		return nil, errUnknownStore
	}
	if x, ok := body.(interface{ Incarnation() id.Incarnation }); ok && x.Incarnation() != ref.Incarnation {
		return nil, errOtherMemory
	}
	return body, nil
}

// opening takes in what the opener says; under the mutex.
func (v *Volume) opening(fx *core.Effects) {
	now := v.cfg.Clock.Now()
	j := &fx.Journal
	if m := j.Meta; m != nil {
		j.Meta = nil
		covered, err := v.core.LoadMeta(m)
		if err != nil {
			v.fail(fmt.Errorf("read the meta stream: %w", err))
			return
		}
		v.opener.Covered(now, covered, j)
	}
	if j.Failed != nil {
		v.fail(j.Failed)
		return
	}
	if o := j.Opened; o != nil {
		j.Opened = nil
		v.opener = nil
		v.log.Info("journal recovered", "records", countOf(o.Journal), "meta", countOf(o.Meta), "next", uint64(o.Next[storeproto.Journal]))
		if err := v.core.Start(now, o, fx); err != nil {
			v.fail(err)
		}
	}
}

// countOf is the records in some batches.
func countOf(batches []*storeproto.Batch) (n int) {
	for _, b := range batches {
		n += int(b.Count)
	}
	return n
}

// fail ends the volume for a reason; under the mutex. What waits is failed by the core when it is closed.
func (v *Volume) fail(err error) {
	if v.ended == nil {
		v.ended = err
		close(v.failed)
	}
}

// sent brings a finished append to the core.
func (v *Volume) sent(s *journal.Send) {
	fx := effects.Get().(*core.Effects)
	v.mu.Lock()
	now := v.cfg.Clock.Now()
	if v.cfg.Took != nil && s.Append.Err == nil {
		v.cfg.Took(s.Store, now-s.Sent)
	}
	if v.opener != nil {
		v.opener.Done(now, s, &fx.Journal)
	} else {
		v.core.AppendDone(now, s, fx)
	}
	v.unlock(fx)
}

// confirmed brings a finished confirm to the core.
func (v *Volume) confirmed(s *journal.ConfirmSend) {
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener == nil {
			v.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Confirmed(now, s, jfx) })
		}
	})
}

// fenced: a store named this volume in a grant.
func (v *Volume) fenced() {
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener != nil {
			v.fail(errs.ErrStaleEpoch)
			return
		}
		v.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Fence(jfx) })
	})
}

// tickEvery is how often limits of time are looked at.
const tickEvery = 100 * time.Millisecond

// run ticks the volume and continues work that steps have cut short.
func (v *Volume) run(ctx context.Context) error {
	t := v.cfg.Clock.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
			v.look(true)
		case <-v.kick:
			v.look(false)
		}
	}
}

// look takes in a newer topology, and ticks or goes on with what was cut short.
func (v *Volume) look(tick bool) {
	t := v.cfg.Metad.Topology()
	v.step(func(now time.Duration, fx *core.Effects) {
		if t != nil && t.Version > v.topo {
			v.topo = t.Version
			v.dead.poke() // a store may be back
			v.core.Topology(now, t, fx)
			v.hints(now, t, fx)
		}
		if tick && v.opener == nil {
			v.core.Journal(now, fx, func(c *journal.Core, _ *journal.Effects) { v.spread.Look(now, t, c) })
		}
		switch {
		case v.opener != nil && tick:
			v.opener.Tick(now, &fx.Journal)
		case v.opener != nil:
		case tick:
			v.core.Tick(now, fx)
		default:
			v.core.Continue(now, fx)
		}
	})
}

// hints tells the journal which stores metad finds up, down or lost.
func (v *Volume) hints(now time.Duration, t *cluster.Topology, fx *core.Effects) {
	quick := t.QuickHosts() >= cluster.JournalHosts
	for i := range t.Stores {
		s := &t.Stores[i]
		if o := v.opener; o != nil {
			switch s.State {
			case cluster.StoreUp, cluster.StoreDraining:
				o.StoreUp(now, s.Store, &fx.Journal)
			case cluster.StoreDown, cluster.StoreOut:
				o.StoreDown(now, s.Store, &fx.Journal)
			case cluster.StoreLost:
				o.StoreLost(now, s.Store, &fx.Journal)
			}
			continue
		}
		v.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) {
			// A slow store is as good as down to a journal that can do without it.
			if s.State == cluster.StoreUp && !(s.Slow && quick) {
				c.StoreUp(now, s.Store, jfx)
			} else {
				c.StoreDown(now, s.Store, jfx)
			}
		})
	}
}

// TopologyChanged makes the volume look at metad's topology now instead of at its next tick.
func (v *Volume) TopologyChanged() { v.kickOff() }

func (v *Volume) kickOff() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// Close drains the volume: what was written is packed, a checkpoint is committed
// and the journal released; then the stores are told that it is not served here
// any more. When it returns nil the caller may release the volume in metad. When
// ctx ends first nothing is lost, but the next opening has to recover.
func (v *Volume) Close(ctx context.Context) error {
	v.step(func(now time.Duration, fx *core.Effects) { v.core.Drain(now, fx) })
	var err error
	select {
	case <-v.drained:
	case <-v.failed:
		err = v.Err()
	case <-ctx.Done():
		err = fmt.Errorf("drain volume %s: %w", v.id, errors.Join(errs.ErrTimeout, ctx.Err()))
	}
	v.Abandon()
	if err == nil {
		v.releaseStores(ctx)
	}
	return err
}

// Abandon ends the volume at once. Requests in flight fail, and what is
// acknowledged stays in the journal.
func (v *Volume) Abandon() {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return
	}
	fx := effects.Get().(*core.Effects)
	v.core.Fence(fx)
	v.fail(errs.ErrClosed)
	v.closed = true
	if v.opener != nil {
		v.opener.Close()
	}
	v.core.Close()
	v.unlock(fx)
	v.cfg.Leases.drop(v)
	v.group.Cancel()
}

// Wait waits until the goroutines of an ended volume are gone.
func (v *Volume) Wait() error { return v.group.Wait() }

// releaseStores tells every store of the list that the volume is not served here any more.
func (v *Volume) releaseStores(ctx context.Context) {
	t := v.cfg.Metad.Topology()
	if t == nil {
		return
	}
	for i := range t.Stores {
		store, ok := v.cfg.Stores.Store(t.Stores[i].Store)
		if !ok || !t.Stores[i].State.Serves() {
			continue
		}
		// Best effort: a store that does not hear it makes the next owner wait for a lease to run out.
		if err := store.Release(ctx, storeproto.Release{Volume: v.id, Epoch: v.epoch, By: v.cfg.Holder}); err != nil {
			v.log.Debug("store not told of the release", "store", t.Stores[i].Store.String(), "err", err)
		}
	}
}
