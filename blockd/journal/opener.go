package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// ErrStoresLost: an ensemble has lost so many stores for good that acknowledged
// writes may be gone, or what remains has a gap. An operator may accept the loss
// (Ensemble.LossAccepted).
var ErrStoresLost = errors.New("the journal lost too many stores")

// OpenConfig configures the opening of a volume's journal, and the Core it makes.
type OpenConfig struct {
	Volume id.Volume
	// Epoch is committed in metad for Holder, and never opened before: an opening that
	// failed is tried again under a new epoch only.
	Epoch  id.Epoch
	Holder id.Holder
	// List was read from metad after Epoch was committed.
	List List
	// Prior are the hosts that may have served the volume before.
	Prior []id.Host
	// MetaFrom is the meta position of metad's checkpoint: the meta run starts after it.
	MetaFrom id.LSN
	// Lost are stores that are gone for good, Down ones that metad cannot reach now.
	Lost, Down []id.Store
	// Near are stores that cost less to read: those of the opener's own host.
	Near []id.Store
	// AcceptLoss stands for LossAccepted of every ensemble.
	AcceptLoss bool
	Leases     *Leases
	Limits     Limits
	// Completed and Confirmed are called by stores with what they finished, on any
	// goroutine, perhaps inline; they must bring it to Done and Confirmed of the
	// Opener or, after Opened, of the Core.
	Completed func(*Send)
	Confirmed func(*ConfirmSend)
}

// Opener fences and recovers a volume's journal: the fences go out, the meta run
// comes back (Effects.Meta), the volume calls Covered, the journal run is read,
// both are written to a fresh ensemble, and when they are durable there metad's
// list is replaced (Effects.Opened). Until that the old list stays in force, and
// an Opener may be abandoned at any moment with Close.
//
// Memory: the runs, which are bounded by what an owner may keep unreleased, and
// one fetch of Limits.FetchBytes.
type Opener struct {
	cfg     OpenConfig
	core    *Core
	inForce []Ensemble
	lost    map[id.Store]bool

	fences  []*fencing
	runs    [storeproto.Kinds]run
	ended   id.Epoch // the highest epoch whose opening is known to have ended: see served
	covered bool     // Covered was called
	fetch   fetching
	loss    bool // an accepted loss was used
	over    bool

	progress time.Duration // when something last went forward
	seen     [2]uint64     // what progress is measured by
}

// fencing is the fence of one store.
type fencing struct {
	store   id.Store
	busy    bool
	at      time.Duration // not before
	pause   time.Duration
	reply   *storeproto.FenceReply
	problem error
}

// NewOpener begins an opening. The error is ErrInvalid, ErrConflict where the
// epoch was opened before, or ErrStaleEpoch where it is known to be fenced.
func NewOpener(now time.Duration, cfg OpenConfig, fx *Effects) (*Opener, error) {
	cfg.Limits.EnsureDefaults()
	if err := cfg.Limits.Validate(); err != nil {
		return nil, err
	}
	if cfg.Epoch == 0 || cfg.Volume.IsZero() || cfg.Leases == nil || cfg.Completed == nil || cfg.Confirmed == nil {
		return nil, fmt.Errorf("open journal of %s under %s: a field is not set: %w", cfg.Volume, cfg.Epoch, errs.ErrInvalid)
	}
	cfg.List = cfg.List.Clone()
	for i := range cfg.List.Ensembles {
		cfg.List.Ensembles[i].LossAccepted = cfg.List.Ensembles[i].LossAccepted || cfg.AcceptLoss
		if cfg.List.Ensembles[i].ID.Epoch >= cfg.Epoch {
			return nil, fmt.Errorf("open journal of %s under %s: ensemble %s is not older: %w", cfg.Volume, cfg.Epoch, cfg.List.Ensembles[i].ID, errs.ErrConflict)
		}
	}
	claim := cfg.Leases.Claim(cfg.Volume, cfg.Epoch)
	if claim.Fenced() {
		return nil, fmt.Errorf("open journal of %s under %s: %w", cfg.Volume, cfg.Epoch, errs.ErrStaleEpoch)
	}
	o := &Opener{cfg: cfg, inForce: cfg.List.InForce(), lost: make(map[id.Store]bool), progress: now}
	o.core = &Core{
		volume: cfg.Volume, epoch: cfg.Epoch, limits: cfg.Limits, leases: cfg.Leases, claim: claim,
		completed: cfg.Completed, confirmed: cfg.Confirmed,
		version: cfg.List.Version, checkpoint: cfg.MetaFrom, opening: &opening{},
		down: make(map[id.Store]bool), shunned: make(map[id.Store]time.Duration),
	}
	for i := range cfg.List.Ensembles {
		o.core.opening.before = append(o.core.opening.before, cfg.List.Ensembles[i].ID)
	}
	for _, s := range cfg.Down {
		o.core.down[s] = true
	}
	for _, s := range cfg.Lost {
		o.lost[s] = true
	}
	deriveFrom(o.inForce)
	o.runs[storeproto.Meta].begin(cfg.MetaFrom + 1)
	for i := range o.inForce {
		for _, m := range o.inForce[i].Members {
			o.target(m.Store)
		}
		for _, m := range o.inForce[i].Holders {
			o.target(m.Store)
		}
	}
	o.step(now, fx)
	return o, nil
}

func (o *Opener) target(s id.Store) {
	if !slices.ContainsFunc(o.fences, func(f *fencing) bool { return f.store == s }) {
		o.fences = append(o.fences, &fencing{store: s})
	}
}

func (o *Opener) fencingOf(s id.Store) *fencing {
	for _, f := range o.fences {
		if f.store == s {
			return f
		}
	}
	return nil
}

// step does whatever can be done now. Everything that happens ends here.
func (o *Opener) step(now time.Duration, fx *Effects) {
	if o.over {
		return
	}
	c := o.core
	switch {
	case c.fenced || c.claim.Fenced():
		o.fail(fmt.Errorf("open journal of %s under %s: %w", c.volume, c.epoch, errs.ErrStaleEpoch), fx)
		return
	case c.opening.problem != nil:
		o.fail(c.opening.problem, fx)
		return
	}
	o.sendFences(now, fx)
	if !c.opening.ready {
		if err := o.irrecoverable(); err != nil {
			o.fail(err, fx)
			return
		}
		c.opening.ready = o.answered()
	}
	if c.opening.ready {
		c.advance(now, fx)
		o.recover(now, fx)
	}
	if !o.over && c.opening.replaced {
		o.finish(now, fx)
	}
	o.watch(now, fx)
}

// watch ends an opening that has gone nowhere for too long.
func (o *Opener) watch(now time.Duration, fx *Effects) {
	seen := [2]uint64{o.core.version, o.core.streams[0].ackedAt + o.core.streams[1].ackedAt}
	for i := range o.runs {
		seen[1] += uint64(len(o.runs[i].batches))
	}
	for _, f := range o.fences {
		if f.reply != nil {
			seen[1]++
		}
	}
	if seen != o.seen {
		o.seen, o.progress = seen, now
	}
	if !o.over && now-o.progress >= o.cfg.Limits.RecoverWait {
		o.fail(o.waitingFor(), fx)
	}
}

// waitingFor says what an opening lacks.
func (o *Opener) waitingFor() error {
	switch {
	case !o.core.opening.ready:
		var missing []string
		for _, f := range o.fences {
			if f.reply == nil && !o.lost[f.store] {
				missing = append(missing, fmt.Sprintf("%s (%v)", f.store, f.problem))
			}
		}
		return fmt.Errorf("open journal of %s under %s: no answer from the stores %v: %w", o.cfg.Volume, o.cfg.Epoch, missing, errs.ErrUnavailable)
	case o.runs[storeproto.Meta].done && !o.covered:
		return fmt.Errorf("open journal of %s under %s: the meta run was not decoded: %w", o.cfg.Volume, o.cfg.Epoch, errs.ErrTimeout)
	}
	for k := range o.runs {
		if r := &o.runs[k]; !r.done && r.problem != nil {
			return fmt.Errorf("open journal of %s under %s: read %s at %d: %w", o.cfg.Volume, o.cfg.Epoch, storeproto.Kind(k), r.next, r.problem)
		}
	}
	return fmt.Errorf("open journal of %s under %s: no fresh ensemble holds the runs: %w", o.cfg.Volume, o.cfg.Epoch, errs.ErrUnavailable)
}

func (o *Opener) fail(err error, fx *Effects) {
	o.over = true
	fx.Failed = err
	o.core.Close()
}

// sendFences fences every store of the list in force, and goes on asking those
// that do not answer: they may be needed.
func (o *Opener) sendFences(now time.Duration, fx *Effects) {
	for _, f := range o.fences {
		if f.busy || f.reply != nil || now < f.at || o.lost[f.store] {
			continue
		}
		f.busy = true
		fx.Fences = append(fx.Fences, FenceSend{Store: f.store, Fence: storeproto.Fence{
			Volume: o.cfg.Volume, Epoch: o.cfg.Epoch, By: o.cfg.Holder, Prior: o.cfg.Prior,
		}})
	}
}

// FenceDone takes the outcome of a fence.
func (o *Opener) FenceDone(now time.Duration, s FenceSend, r storeproto.FenceReply, err error, fx *Effects) {
	f := o.fencingOf(s.Store)
	if o.over || f == nil || !f.busy {
		return
	}
	f.busy = false
	switch {
	case err == nil:
		f.reply = &r
		o.lend(f)
	case errors.Is(err, errs.ErrStaleEpoch):
		o.core.Fence(fx)
	default:
		f.problem = err
		f.pause = o.core.backoff(f.pause, o.cfg.Limits.RetryAfter)
		f.at = now + f.pause
	}
	o.step(now, fx)
}

// counts tells whether a store's answer counts for ensemble i of those in force:
// it is one of those asked, in that incarnation, and has lost nothing of it.
func (o *Opener) counts(i int, f *fencing) bool {
	e := &o.inForce[i]
	if f.reply == nil || !slices.Contains(e.asked(), Member{Store: f.store, Incarnation: f.reply.Incarnation}) {
		return false
	}
	lossy := 0
	for _, st := range f.reply.Streams {
		if st.Lossy && st.Stream.Ensemble == e.ID {
			return false
		}
		if st.Lossy {
			lossy++
		}
	}
	// Lossy with no stream named: who knows of which.
	return !f.reply.Lossy || lossy > 0
}

// tally counts, for ensemble i, the answers that count and those that may still come.
func (o *Opener) tally(i int) (answers, possible int) {
	for _, m := range o.inForce[i].asked() {
		f := o.fencingOf(m.Store)
		switch {
		case o.counts(i, f):
			answers++
		case f.reply == nil && !o.lost[f.store]:
			possible++
		}
	}
	return answers, answers + possible
}

// answered tells whether the fences stand: in every ensemble in force enough
// stores answered to meet every quorum of an older epoch.
func (o *Opener) answered() bool {
	for i := range o.inForce {
		e := &o.inForce[i]
		answers, possible := o.tally(i)
		n := e.need()
		if e.LossAccepted && possible < n {
			o.loss = true
			n = possible
		}
		if answers < n {
			return false
		}
	}
	return true
}

// irrecoverable says which ensemble can never be fenced.
func (o *Opener) irrecoverable() error {
	for i := range o.inForce {
		e := &o.inForce[i]
		if answers, possible := o.tally(i); possible < e.need() && !e.LossAccepted {
			return fmt.Errorf("open journal of %s under %s: of ensemble %s only %d stores can answer, %d did, %d are needed: %w",
				o.cfg.Volume, o.cfg.Epoch, e.ID, possible, answers, e.need(), ErrStoresLost)
		}
	}
	return nil
}

// Covered says, after Effects.Meta, that the journal is needed after lsn only.
func (o *Opener) Covered(now time.Duration, lsn id.LSN, fx *Effects) {
	if o.over || o.covered {
		return
	}
	o.covered = true
	o.runs[storeproto.Journal].begin(lsn + 1)
	o.step(now, fx)
}

// Done takes back a send that its store finished.
func (o *Opener) Done(now time.Duration, s *Send, fx *Effects) {
	o.core.Done(now, s, fx)
	o.step(now, fx)
}

// Answer takes metad's answer to an ask.
func (o *Opener) Answer(now time.Duration, r AskResult, fx *Effects) {
	o.core.Answer(now, r, fx)
	o.step(now, fx)
}

// Tick drives time limits; call it some ten times a second.
func (o *Opener) Tick(now time.Duration, fx *Effects) {
	if !o.over {
		o.core.Tick(now, fx)
	}
	o.step(now, fx)
}

// StoreDown is a hint of metad's topology: a fresh ensemble should not have it.
func (o *Opener) StoreDown(now time.Duration, s id.Store, fx *Effects) {
	o.core.StoreDown(now, s, fx)
	o.step(now, fx)
}

// StoreUp says that a store lives (again): it is tried at once.
func (o *Opener) StoreUp(now time.Duration, s id.Store, fx *Effects) {
	for _, f := range o.fences {
		if f.store == s {
			f.at = now
		}
	}
	o.retry(now, s)
	o.core.StoreUp(now, s, fx)
	o.step(now, fx)
}

// StoreLost says that a store is gone for good.
func (o *Opener) StoreLost(now time.Duration, s id.Store, fx *Effects) {
	o.lost[s] = true
	o.core.StoreDown(now, s, fx)
	o.step(now, fx)
}

// Close abandons the opening and drops its references. Sends in flight are still
// to be brought to Done. After Opened it does nothing: the Core is the volume's.
func (o *Opener) Close() {
	if !o.over {
		o.over = true
		o.core.Close()
	}
}

// finish hands the core over. The list is replaced: only now is anything served.
func (o *Opener) finish(now time.Duration, fx *Effects) {
	o.over = true
	c := o.core
	c.opening = nil
	c.publishReads()
	e := c.newest()
	done := &Opened{Core: c, LossAccepted: o.loss}
	n := Ensemble{ID: e.id}
	for _, m := range e.members {
		n.Members = append(n.Members, m.Member)
	}
	for k := range c.streams {
		done.Next[k] = c.streams[k].next
		e.fromLSN[k] = o.runs[k].start()
	}
	done.List = List{Version: c.version, Ensembles: []Ensemble{n}, Complete: true}
	done.Journal, done.Meta = o.runs[storeproto.Journal].batches, o.runs[storeproto.Meta].batches
	for k := range o.runs {
		for _, b := range o.runs[k].batches {
			b.Retain()
		}
	}
	fx.Opened = done
	if o.cfg.Epoch > 1 {
		d := storeproto.Drop{Volume: c.volume, Epoch: c.epoch - 1}
		for _, f := range o.fences {
			c.oweDrop(now, DropSend{Store: f.store, Drop: d})
		}
		for _, en := range o.cfg.List.targets() {
			for _, m := range en.Members {
				c.oweDrop(now, DropSend{Store: m.Store, Drop: d})
			}
		}
		c.sendDrops(now, fx)
	}
}
