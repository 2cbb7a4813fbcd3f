package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/volproto"
)

// Metad is what exports ask of metad; see client.Metad.
type Metad interface {
	FindVolume(ctx context.Context, nameOrID string) (*cluster.Volume, error)
	FindKept(ctx context.Context, nameOrID string) (*cluster.Volume, error)
	Volumes(ctx context.Context, after string, limit int) ([]cluster.Summary, bool, error)
	Acquire(ctx context.Context, v id.Volume, by id.Holder, why client.AcquireWhy) (client.Acquired, error)
	Release(ctx context.Context, v id.Volume, e id.Epoch, by id.Holder) error
}

// Proxy reaches disks that other hosts own.
type Proxy interface {
	// Attach lets a session in at the owner; see volproto.Owner.
	Attach(ctx context.Context, owner id.Host, v id.Volume, s volproto.Session) (nbd.Handle, error)
	// AttachSnapshot opens a snapshot at the owner; see volproto.Owner.
	AttachSnapshot(ctx context.Context, owner id.Host, v id.Volume, snap id.Snapshot, s volproto.Session) (nbd.Handle, error)
}

// Config has what the exports of one host need. All fields are required.
type Config struct {
	Holder id.Holder
	Metad  Metad
	Proxy  Proxy
	// Corks are the ways out of this host that gain when requests leave together; the slice is not changed.
	Corks func() []nbd.Corker
	// OpenVolume opens a volume that metad has granted; ended is called when it stops by itself.
	OpenVolume func(ctx context.Context, rec *cluster.Volume, ended func(*volume.Volume, error)) (*volume.Volume, error)
	Clock      clock.Clock
	Log        *slog.Logger
	// Tell says what happened to a disk, for people to read afterwards; nil: to nobody.
	Tell func(s client.Severity, kind, about, subject, format string, args ...any)
}

// Exports are all disks as this host serves them. Safe for concurrent use.
type Exports struct {
	cfg   Config
	group *lifecycle.Group

	mu     sync.Mutex
	disks  map[id.Volume]*disk
	closed bool

	sessions *sessions
}

// New makes the exports of one host.
func New(cfg Config) *Exports {
	return &Exports{cfg: cfg, group: lifecycle.NewGroup(context.Background()), disks: make(map[id.Volume]*disk), sessions: newSessions(cfg)}
}

// disk is one disk that was asked for here. owning serializes acquiring, opening
// and closing; vol is read without it.
type disk struct {
	id     id.Volume
	owning chan struct{} // a mutex that can be waited for with a context

	mu       sync.Mutex
	vol      *volume.Volume // nil: not owned here
	name     string         // of the disk, when vol was opened
	away     elsewhere      // where a session was let in last
	gate     *door          // of vol
	opened   int            // handles
	rescuing bool           // see Rescue
	opening  id.Epoch       // the epoch it is being opened under; 0: it is not
}

func (x *Exports) disk(v id.Volume) (*disk, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, fmt.Errorf("open disk %s: this host is shutting down: %w", v, errs.ErrClosed)
	}
	d := x.disks[v]
	if d == nil {
		d = &disk{id: v, owning: make(chan struct{}, 1)}
		x.disks[v] = d
	}
	return d, nil
}

// current is the open volume and its gate, if the disk is owned here and has not ended.
func (d *disk) current() (*volume.Volume, *door) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vol == nil || d.vol.Err() != nil {
		return nil, nil
	}
	return d.vol, d.gate
}

// own makes this host the owner of d, unless another one is: then refused says who.
func (x *Exports) own(ctx context.Context, d *disk, why client.AcquireWhy) (vol *volume.Volume, gate *door, refused *client.Refused, err error) {
	select {
	case d.owning <- struct{}{}:
		defer func() { <-d.owning }()
	case <-ctx.Done():
		return nil, nil, nil, fmt.Errorf("open disk %s: %w: %w", d.id, errs.ErrTimeout, ctx.Err())
	}
	if vol, gate = d.current(); vol != nil {
		return vol, gate, nil, nil
	}
	got, err := x.acquire(ctx, d, why)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("acquire disk %s: %w", d.id, err)
	}
	if got.Refused != nil {
		return nil, nil, got.Refused, nil
	}
	started := x.cfg.Clock.Now()
	d.setOpening(got.Volume.Epoch)
	defer d.setOpening(0)
	vol, err = x.cfg.OpenVolume(ctx, got.Volume, x.ended)
	if err != nil {
		return nil, nil, nil, err
	}
	x.tell(client.Info, "disk_serves", got.Volume.Name, "serves under %s after %s", vol.Epoch(), (x.cfg.Clock.Now() - started).Round(time.Millisecond))
	x.cfg.Log.Info("disk open", "volume", d.id.String(), "epoch", uint64(vol.Epoch()), "took", x.cfg.Clock.Now()-started)
	gate = x.newDoor(vol, got.Volume.QoS)
	d.mu.Lock()
	d.vol, d.gate, d.name = vol, gate, got.Volume.Name
	d.mu.Unlock()
	return vol, gate, nil, nil
}

func (d *disk) setOpening(e id.Epoch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opening = e
}

// all are the disks as they are now, to be looked at one by one without the lock.
func (x *Exports) all() []*disk {
	x.mu.Lock()
	defer x.mu.Unlock()
	disks := make([]*disk, 0, len(x.disks))
	for _, d := range x.disks {
		disks = append(disks, d)
	}
	return disks
}

// Opening calls f for every volume that is being opened here: metad hears of it, or it
// would give the disk to another host when that takes long.
func (x *Exports) Opening(f func(id.Volume, id.Epoch)) {
	for _, d := range x.all() {
		d.mu.Lock()
		e := d.opening
		d.mu.Unlock()
		if e != 0 {
			f(d.id, e)
		}
	}
}

// ended: a volume stopped by itself. Its requests have failed and hang their clients up.
func (x *Exports) ended(vol *volume.Volume, err error) {
	if errors.Is(err, errs.ErrStaleEpoch) {
		x.cfg.Log.Info("disk has a new owner", "volume", vol.ID().String(), "epoch", uint64(vol.Epoch()))
	} else {
		x.tell(client.Trouble, "disk_failed", vol.Name(), "cannot be served under %s: %v", vol.Epoch(), err)
		x.cfg.Log.Error("disk cannot be served", "volume", vol.ID().String(), "epoch", uint64(vol.Epoch()), "err", err)
	}
	vol.Abandon()
	x.forget(vol)
}

func (x *Exports) tell(s client.Severity, kind, disk, format string, args ...any) {
	if x.cfg.Tell != nil {
		x.cfg.Tell(s, kind, "disk", disk, format, args...)
	}
}

// forget takes a volume that ended out of its disk.
func (x *Exports) forget(vol *volume.Volume) {
	x.mu.Lock()
	d := x.disks[vol.ID()]
	x.mu.Unlock()
	if d == nil {
		return
	}
	d.mu.Lock()
	if d.vol != vol {
		d.mu.Unlock()
		return
	}
	gate := d.gate
	d.vol, d.gate = nil, nil
	d.mu.Unlock()
	gate.throttle.Lift()
}

// retryOwner is the least pause before the owner of a disk is looked for again.
const retryOwner = 100 * time.Millisecond

// attach lets a session in, here or at the owner, and waits for an owner as long as ctx allows.
func (x *Exports) attach(ctx context.Context, v id.Volume, name string, s volproto.Session) (nbd.Handle, error) {
	d, err := x.disk(v)
	if err != nil {
		return nil, err
	}
	why := client.AcquireOpen
	for {
		vol, gate, refused, err := x.own(ctx, d, why)
		pause := retryOwner
		switch {
		case err != nil && !errors.Is(err, errs.ErrUnavailable) && !errors.Is(err, errs.ErrStaleEpoch):
			return nil, err
		case err != nil && d.elsewhere().host != "" && errors.Is(err, errs.ErrUnavailable):
			// metad is away: whoever let a session in last may still be the owner, and knows if it is.
			h, e := x.cfg.Proxy.Attach(ctx, d.elsewhere().host, v, s)
			if e == nil || errors.Is(e, volproto.ErrStaleSession) {
				return h, e
			}
			x.cfg.Log.Warn("disk not opened yet, will try again", "volume", v.String(), "err", errors.Join(err, e))
		case err != nil:
			x.cfg.Log.Warn("disk not opened yet, will try again", "volume", v.String(), "err", err)
		case vol != nil && vol.Deleted():
			return nil, errDeleted
		case vol != nil && vol.Frozen():
			err = errRolling
		case vol != nil:
			var h nbd.Handle
			if h, err = d.handle(vol, x.cfg.Corks); err == nil {
				return gate.Attach(ctx, s, h)
			}
		default:
			h, e := x.cfg.Proxy.Attach(ctx, refused.Owner.Host, v, s)
			if e == nil {
				d.setElsewhere(elsewhere{host: refused.Owner.Host, name: name, size: h.Size()})
			}
			if e == nil || errors.Is(e, volproto.ErrStaleSession) || errors.Is(e, errs.ErrNotFound) || errors.Is(e, errs.ErrDenied) {
				return h, e
			}
			why, err = client.AcquireTakeover, e
			pause = max(pause, min(refused.RetryAfter, time.Second/2))
		}
		if e := x.cfg.Clock.Sleep(ctx, pause); e != nil {
			return nil, fmt.Errorf("open disk %s: %w", v, errors.Join(errs.ErrUnavailable, err))
		}
	}
}

// Attach makes Exports a volproto.Owner: a proxy's session is let in if this host is, or may become, the disk's owner.
func (x *Exports) Attach(ctx context.Context, v id.Volume, s volproto.Session, by id.Host) (nbd.Handle, error) {
	d, err := x.disk(v)
	if err != nil {
		return nil, err
	}
	// The asker was told by metad that this host is the owner. If the disk is not open here its
	// opening is on its way, or has failed: it is tried again, for nobody else may.
	vol, gate, refused, err := x.own(ctx, d, client.AcquireOpen)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, &volproto.NotOwner{Volume: v, Owner: refused.Owner.Host, Epoch: refused.Epoch}
	}
	if vol.Deleted() {
		return nil, errDeleted
	}
	if vol.Frozen() {
		return nil, errRolling
	}
	h, err := d.handle(vol, x.cfg.Corks)
	if err == nil {
		h, err = gate.Attach(ctx, s, h)
	}
	if err != nil {
		return nil, fmt.Errorf("attach for %s: %w", by, err)
	}
	return h, nil
}

// handle is one connection's use of an owned volume.
type handle struct {
	d      *disk
	vol    *volume.Volume
	corks  func() []nbd.Corker
	corked []nbd.Corker // between Cork and Uncork, which one connection calls in turn
}

// handle counts a connection, unless the volume was given up just now: Yield looks at the count
// and gives up in one step, so that nobody has a handle of whom it does not know.
func (d *disk) handle(vol *volume.Volume, corks func() []nbd.Corker) (nbd.Handle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vol != vol {
		return nil, fmt.Errorf("disk %s was given up just now: %w", d.id, errs.ErrUnavailable)
	}
	d.opened++
	return &handle{d: d, vol: vol, corks: corks}, nil
}

// Cork makes handle an nbd.Corker: what a client sends at once leaves this host at once.
func (h *handle) Cork() {
	h.vol.Cork()
	h.corked = h.corks()
	for _, c := range h.corked {
		c.Cork()
	}
}

// Uncork ends a Cork.
func (h *handle) Uncork() {
	h.vol.Uncork()
	for _, c := range h.corked {
		c.Uncork()
	}
	h.corked = nil
}

func (h *handle) Submit(r *nbd.Request) { h.vol.Submit(r) }
func (h *handle) Size() uint64          { return h.vol.SizeBytes() }
func (h *handle) Info() nbd.Info        { return info() }

func (h *handle) Close() error {
	h.d.mu.Lock()
	h.d.opened--
	h.d.mu.Unlock()
	return nil
}

// info describes every disk: one register per block, whatever connection writes it.
func info() nbd.Info { return nbd.Info{MultiConn: true} }

// Owned calls f for every volume open here, with its open handles.
func (x *Exports) Owned(f func(v *volume.Volume, handles int)) {
	for _, d := range x.all() {
		d.mu.Lock()
		vol, n := d.vol, d.opened
		d.mu.Unlock()
		if vol != nil {
			f(vol, n)
		}
	}
}

// News takes metad's word on an owned volume: a new size, a new owner, or its end.
func (x *Exports) News(n client.VolumeNews) {
	x.mu.Lock()
	d := x.disks[n.Volume]
	x.mu.Unlock()
	if d == nil {
		return
	}
	vol, gate := d.current()
	if vol == nil {
		return
	}
	if n.Owned && n.Epoch == vol.Epoch() {
		gate.throttle.Set(n.QoS)
		vol.SetHydrateRate(n.HydrateRate)
		vol.SetFlatten(n.Flatten)
		if n.NoRollback { // else one whose end metad knows, and never answered, would keep clients out for ever
			vol.Thaw()
		}
	}
	switch {
	case n.Deleted || !n.Owned && n.Epoch > vol.Epoch():
		vol.Abandon()
		x.forget(vol)
	case n.Size > vol.SizeBytes():
		vol.Resize(n.Size)
	}
}

// Handoff gives an owned disk up in peace: it is drained, and the next host that is
// asked for it becomes the owner. Its clients are hung up on.
func (x *Exports) Handoff(ctx context.Context, v id.Volume) error { return x.giveUp(ctx, v, true) }

// Yield is a Handoff of a disk that no client has open, here or through a proxy; of others it is
// refused with ErrConflict. Who attaches meanwhile finds the next owner, and what that one serves.
func (x *Exports) Yield(ctx context.Context, v id.Volume) error { return x.giveUp(ctx, v, false) }

// releaseTimeout is how long metad may be away, for a change of its leader; without its word the next owner waits for the lease.
const releaseTimeout = 8 * time.Second

func (x *Exports) giveUp(ctx context.Context, v id.Volume, used bool) error {
	x.mu.Lock()
	d := x.disks[v]
	x.mu.Unlock()
	if d == nil {
		return nil
	}
	select {
	case d.owning <- struct{}{}:
		defer func() { <-d.owning }()
	case <-ctx.Done():
		return fmt.Errorf("hand off disk %s: %w", v, ctx.Err())
	}
	d.mu.Lock()
	vol, gate, clients := d.vol, d.gate, d.opened
	if used || clients == 0 {
		d.vol, d.gate = nil, nil
	}
	d.mu.Unlock()
	switch {
	case vol == nil:
		return nil
	case !used && clients > 0:
		return fmt.Errorf("disk %s has %d clients: %w", v, clients, errs.ErrConflict)
	}
	gate.throttle.Lift()
	if err := vol.Close(ctx); err != nil {
		return fmt.Errorf("hand off disk %s: %w", v, err)
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if err := x.cfg.Metad.Release(ctx, v, vol.Epoch(), x.cfg.Holder); err != nil {
		return fmt.Errorf("release disk %s: %w", v, err)
	}
	return nil
}

// Close hands all disks off, several at a time. What is not drained when ctx ends is
// abandoned: nothing is lost, the next owner recovers it.
func (x *Exports) Close(ctx context.Context) error {
	x.mu.Lock()
	x.closed = true
	ids := make([]id.Volume, 0, len(x.disks))
	for v := range x.disks {
		ids = append(ids, v)
	}
	x.mu.Unlock()
	const atOnce = 4
	work := make(chan id.Volume)
	failures := make(chan error, len(ids))
	var wg sync.WaitGroup
	for range min(atOnce, len(ids)) {
		wg.Go(func() {
			for v := range work {
				failures <- x.Handoff(ctx, v)
			}
		})
	}
	for _, v := range ids {
		work <- v
	}
	close(work)
	wg.Wait()
	close(failures)
	var all error
	for err := range failures {
		all = errors.Join(all, err)
	}
	return errors.Join(all, x.group.Close())
}
