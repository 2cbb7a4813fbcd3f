package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// named is what a client must know of a disk, and its certificate must allow.
type named struct {
	id   id.Volume
	name string
	size uint64 // bytes
}

// findWait bounds metad's answer where the disk may be one that is open here.
const findWait = 2 * time.Second

// find resolves a disk's name or id: by metad, who alone knows what a name means now. But a
// disk that is open here is served while metad is away, and so a client whose connection
// broke has to find it: an id, which never means another disk, at once, a name when metad
// does not answer. Should the disk have been deleted meanwhile, this host hears of it as
// it does for the clients that stayed.
func (x *Exports) find(ctx context.Context, nameOrID string) (named, error) {
	here, open := x.openHere(nameOrID)
	if open && here.id.String() == nameOrID {
		return here, nil
	}
	ask := ctx
	if open {
		var cancel context.CancelFunc
		ask, cancel = context.WithTimeout(ctx, findWait)
		defer cancel()
	}
	rec, err := x.cfg.Metad.FindVolume(ask, nameOrID)
	switch {
	case err == nil:
		return named{rec.ID, rec.Name, rec.Size}, nil
	case open && (errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || ask.Err() != nil):
		return here, nil
	}
	return named{}, fmt.Errorf("find disk %q: %w", nameOrID, err)
}

// openHere finds a disk among those this host owns and has open.
func (x *Exports) openHere(nameOrID string) (named, bool) {
	for _, d := range x.all() {
		vol, _ := d.current()
		if vol == nil {
			continue
		}
		d.mu.Lock()
		name := d.name
		d.mu.Unlock()
		if name == nameOrID || d.id.String() == nameOrID {
			return named{d.id, name, vol.SizeBytes()}, true
		}
	}
	return named{}, false
}
