package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// named is what a client must know of a disk, and its certificate must allow.
type named struct {
	id   id.Volume
	name string
	size uint64 // bytes
	here bool   // it is open here, so this is how it is now
}

// elsewhere is a disk's owner as this host, a proxy, found it last.
type elsewhere struct {
	host id.Host // empty: nobody yet
	name string  // of the disk, then
	size uint64  // bytes, then
}

func (d *disk) elsewhere() elsewhere {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.away
}

func (d *disk) setElsewhere(e elsewhere) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = e
}

// findWait bounds metad's answer where the disk may be served without it: one that is
// open here, or was reached at another host.
const findWait = 2 * time.Second

// find resolves a disk's name or id: by metad, who alone knows what a name means now. But a
// disk that is open here, or at a host that this one has reached, is served while metad is
// away, and so a client whose connection broke has to find it: by the id of one that is open
// here, which never means another disk, at once, else when metad does not answer. Should
// the disk have been deleted meanwhile, this host hears of it as it does for the clients
// that stayed.
func (x *Exports) find(ctx context.Context, nameOrID string) (named, error) {
	last, known := x.known(nameOrID)
	if known && last.here && last.id.String() == nameOrID { // attach refuses one that is deleted
		return last, nil
	}
	ask := ctx
	if known {
		var cancel context.CancelFunc
		ask, cancel = context.WithTimeout(ctx, findWait)
		defer cancel()
	}
	rec, err := x.cfg.Metad.FindVolume(ask, nameOrID)
	switch {
	case err == nil:
		return named{id: rec.ID, name: rec.Name, size: rec.Size}, nil
	case known && (errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || ask.Err() != nil):
		return last, nil
	}
	return named{}, fmt.Errorf("find disk %q: %w", nameOrID, err)
}

// acquire asks metad for a disk, not for long where its owner can be asked instead.
func (x *Exports) acquire(ctx context.Context, d *disk, why client.AcquireWhy) (client.Acquired, error) {
	ask := ctx
	if d.elsewhere().host != "" {
		var cancel context.CancelFunc
		ask, cancel = context.WithTimeout(ctx, findWait)
		defer cancel()
	}
	got, err := x.cfg.Metad.Acquire(ask, d.id, x.cfg.Holder, why)
	if err != nil && ask.Err() != nil && ctx.Err() == nil {
		err = errors.Join(errs.ErrUnavailable, err)
	}
	return got, err
}

// known finds a disk among those this host has open, or reached at their owners.
func (x *Exports) known(nameOrID string) (named, bool) {
	for _, d := range x.all() {
		n := named{id: d.id}
		if vol, _ := d.current(); vol != nil {
			d.mu.Lock()
			n.name, n.size, n.here = d.name, vol.SizeBytes(), true
			d.mu.Unlock()
		} else if e := d.elsewhere(); e.host != "" {
			n.name, n.size = e.name, e.size
		} else {
			continue
		}
		if n.name == nameOrID || d.id.String() == nameOrID {
			return n, true
		}
	}
	return named{}, false
}
