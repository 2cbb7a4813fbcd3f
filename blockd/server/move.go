package server

import (
	"context"
	"time"

	"ashlar.dev/pkg/id"
)

// moveTimeout bounds one side of a planned handoff; metad asks again.
const moveTimeout = 30 * time.Second

// moveDisks carries out moves: each disk once at a time, as long as metad names it.
func (s *server) moveDisks(handoffs, opens []id.Volume) {
	for _, x := range []struct {
		what  string
		disks []id.Volume
		do    func(context.Context, id.Volume) error
	}{{"handoff", handoffs, s.exports.Handoff}, {"adoption", opens, s.exports.Adopt}} {
		for _, v := range x.disks {
			if _, busy := s.moving.LoadOrStore(v, true); busy {
				continue
			}
			s.group.Go(x.what, func(ctx context.Context) error {
				defer s.moving.Delete(v)
				ctx, cancel := context.WithTimeout(ctx, moveTimeout)
				defer cancel()
				if err := x.do(ctx, v); err != nil {
					s.log.Info("disk not moved yet", "volume", v.String(), "part", x.what, "err", err)
				}
				return nil
			})
		}
	}
}
