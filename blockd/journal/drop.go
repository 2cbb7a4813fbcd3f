package journal

import (
	"time"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// owedDrop is a drop not yet confirmed by its store.
type owedDrop struct {
	DropSend
	busy  bool
	tries int
	at    time.Duration
}

// dropTries bounds the tries until the store is said to be up again.
const dropTries = 6

// owe drops the streams of a removed ensemble, where they lie. A drop keeps what
// is in the list; ensembles newer than the newest kept are out of its reach, so a
// late one does no harm.
func (c *Core) owe(now time.Duration, e *ensemble, l List, fx *Effects) {
	keep := make([]id.Ensemble, len(l.Ensembles))
	for i := range l.Ensembles {
		keep[i] = l.Ensembles[i].ID
	}
	d := storeproto.Drop{Volume: c.volume, Epoch: c.epoch, Keep: keep}
	for _, m := range e.all() {
		c.oweDrop(now, DropSend{Store: m.Store, Drop: d})
	}
	c.sendDrops(now, fx)
}

// oweDrop replaces what is owed to the same store: the newer drop takes all the older does.
func (c *Core) oweDrop(now time.Duration, d DropSend) {
	for i := range c.drops {
		if o := &c.drops[i]; o.Store == d.Store && !o.busy {
			*o = owedDrop{DropSend: d, at: now}
			return
		}
	}
	c.drops = append(c.drops, owedDrop{DropSend: d, at: now})
}

func (c *Core) sendDrops(now time.Duration, fx *Effects) {
	for i := range c.drops {
		if o := &c.drops[i]; !o.busy && o.tries < dropTries && now >= o.at && !c.down[o.Store] {
			o.busy = true
			fx.Drops = append(fx.Drops, o.DropSend)
		}
	}
}

// Dropped takes the outcome of a drop.
func (c *Core) Dropped(now time.Duration, d DropSend, err error, fx *Effects) {
	for i := range c.drops {
		o := &c.drops[i]
		if !o.busy || o.Store != d.Store {
			continue
		}
		if err == nil {
			c.drops = append(c.drops[:i], c.drops[i+1:]...)
			return
		}
		o.busy = false
		o.tries++
		o.at = now + c.limits.ReplaceAfter<<o.tries
		return
	}
}
