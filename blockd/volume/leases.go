package volume

import (
	"context"
	"sync"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
)

// owned names one ownership.
type owned struct {
	volume id.Volume
	epoch  id.Epoch
}

// Leases keeps this process's grants with all stores alive, for all its volumes.
type Leases struct {
	table  *journal.Leases
	stores Stores
	clock  clock.Clock
	group  *lifecycle.Group

	mu    sync.Mutex
	owned map[owned]*Volume
}

// NewLeases starts the leases of one holder; Close ends them.
func NewLeases(ctx context.Context, holder id.Holder, wait time.Duration, stores Stores, c clock.Clock) *Leases {
	l := &Leases{stores: stores, clock: c, group: lifecycle.NewGroup(ctx), owned: make(map[owned]*Volume)}
	l.table = journal.NewLeases(journal.LeaseConfig{Holder: holder, Wait: wait, Answered: l.answered})
	l.group.Go("leases", l.run)
	return l
}

// Close ends the renewals; the grants run out.
func (l *Leases) Close() error { return l.group.Close() }

func (l *Leases) run(ctx context.Context) error {
	t := l.clock.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	var fx journal.LeaseEffects
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
			l.table.Tick(l.clock.Now(), &fx)
			l.carry(&fx)
			fx.Reset()
		}
	}
}

func (l *Leases) answered(s *journal.LeaseSend) {
	var fx journal.LeaseEffects
	l.table.Done(l.clock.Now(), s, &fx)
	l.carry(&fx)
}

func (l *Leases) carry(fx *journal.LeaseEffects) {
	for _, c := range fx.Fenced {
		l.mu.Lock()
		v := l.owned[owned{c.Volume, c.Epoch}]
		l.mu.Unlock()
		if v != nil {
			v.fenced()
		}
	}
	for _, s := range fx.Sends {
		store, ok := l.stores.Store(s.Store)
		if !ok {
			s.Lease.Err = errUnknownStore
			s.Lease.Done(&s.Lease)
			continue
		}
		store.Lease(&s.Lease)
	}
}

// add registers a volume, so that it hears when a store names it as fenced.
func (l *Leases) add(v *Volume) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owned[owned{v.id, v.epoch}] = v
}

func (l *Leases) drop(v *Volume) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.owned, owned{v.id, v.epoch})
}

// Status shows the grants to people.
func (l *Leases) Status() []journal.LeaseStatus { return l.table.Status(l.clock.Now()) }
