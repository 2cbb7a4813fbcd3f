package export

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/id"
)

// Rescue opens a disk that nobody owns, which copies its journal to a full ensemble,
// codes anew what is in groups that were given a better code, and hands it off again
// unless clients came meanwhile, or something of it lies in an archive, which is brought in
// while it is open, or it is a clone that is being flattened. It does nothing while another
// rescue of the disk is under way, or when another host has it by now.
func (x *Exports) Rescue(ctx context.Context, v id.Volume) error {
	d, err := x.disk(v)
	if err != nil {
		return err
	}
	if vol, _ := d.current(); vol != nil || !d.rescue(true) {
		return nil
	}
	defer d.rescue(false)
	vol, refused, err := x.ownSoon(ctx, d)
	if err != nil {
		return fmt.Errorf("rescue disk %s: %w", v, err)
	}
	if refused != nil || vol.ArchiveLeft() > 0 || vol.Flattening() {
		return nil
	}
	x.awaitRecoding(ctx, d, vol)
	if d.used() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rescueTimeout)
	defer cancel()
	return x.Handoff(ctx, v)
}

// rescueTimeout bounds the opening and the handing off of a rescued disk, recodingMax how long
// one is kept open meanwhile: what is not coded anew by then is for the next rescue.
const (
	rescueTimeout = time.Minute
	recodingMax   = 15 * time.Minute
)

func (x *Exports) ownSoon(ctx context.Context, d *disk) (*volume.Volume, *client.Refused, error) {
	ctx, cancel := context.WithTimeout(ctx, rescueTimeout)
	defer cancel()
	vol, _, refused, err := x.own(ctx, d, client.AcquireTakeover)
	return vol, refused, err
}

// awaitRecoding waits until a disk is coded anew, or clients come, or it is closed.
func (x *Exports) awaitRecoding(ctx context.Context, d *disk, vol *volume.Volume) {
	until := x.cfg.Clock.Now() + recodingMax
	for vol.Recoding() && !d.used() && x.cfg.Clock.Now() < until {
		if now, _ := d.current(); now != vol || x.cfg.Clock.Sleep(ctx, recodeLook) != nil {
			return
		}
	}
}

// recodeLook is how often a disk that nobody uses is looked at while it is coded anew.
const recodeLook = 500 * time.Millisecond

// used tells whether clients have the disk open.
func (d *disk) used() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened > 0
}

// rescue begins or ends a rescue, and tells whether that changed anything.
func (d *disk) rescue(on bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := d.rescuing != on
	d.rescuing = on
	return changed
}
