package export

import (
	"context"

	"ashlar.dev/blockd/throttle"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/volproto"
)

// door is what every connection to an open volume passes, those of proxies too: first the
// disk's limits, then the sessions. In this order a request of a session that was shut out
// while the limits held it back is refused when its turn comes, and the newer session
// need not wait for it.
type door struct {
	gate     volproto.Gate
	throttle *throttle.Throttle
}

func (x *Exports) newDoor(vol *volume.Volume, q cluster.QoS) *door {
	return &door{throttle: throttle.New(x.cfg.Clock, q, &handle{vol: vol, corks: x.cfg.Corks})}
}

// Attach lets a session in to device; see volproto.Gate.
func (d *door) Attach(ctx context.Context, s volproto.Session, device nbd.Handle) (nbd.Handle, error) {
	h, err := d.gate.Attach(ctx, s, device)
	if err != nil {
		return nil, err
	}
	return d.throttle.Handle(h), nil
}

// Lift ends the limits of all disks, so that what they hold back is done before this host stops.
func (x *Exports) Lift() {
	for _, d := range x.all() {
		if _, gate := d.current(); gate != nil {
			gate.throttle.Lift()
		}
	}
}

// Throttled tells what the limits of the disks open here do, taken together.
func (x *Exports) Throttled() (limited, waiting int, delayed uint64) {
	for _, d := range x.all() {
		if _, gate := d.current(); gate != nil {
			st := gate.throttle.Stats()
			if st.QoS.Limited() {
				limited++
			}
			waiting += st.Waiting
			delayed += st.Delayed
		}
	}
	return limited, waiting, delayed
}
