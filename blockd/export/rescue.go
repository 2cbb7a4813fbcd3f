package export

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/id"
)

// Rescue opens a disk that nobody owns, which copies its journal to a full ensemble,
// and hands it off again unless clients came meanwhile. It does nothing while another
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
	_, _, refused, err := x.own(ctx, d, client.AcquireTakeover)
	if err != nil {
		return fmt.Errorf("rescue disk %s: %w", v, err)
	}
	d.mu.Lock()
	used := d.opened > 0
	d.mu.Unlock()
	if refused != nil || used {
		return nil
	}
	return x.Handoff(ctx, v)
}

// rescue begins or ends a rescue, and tells whether that changed anything.
func (d *disk) rescue(on bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := d.rescuing != on
	d.rescuing = on
	return changed
}
