package server

import (
	"context"
	"time"

	"ashlar.dev/pkg/id"
)

// moveTimeout bounds one side of a planned handoff; metad asks again.
const moveTimeout = 30 * time.Second

// yield gives a disk up if no client has it open. metad asks until it is, or it hears of a client.
func (s *server) yield(v id.Volume) {
	if _, busy := s.moving.LoadOrStore(v, true); busy {
		return
	}
	s.group.Go("yield", func(ctx context.Context) error {
		defer s.moving.Delete(v)
		ctx, cancel := context.WithTimeout(ctx, moveTimeout)
		defer cancel()
		if err := s.exports.Yield(ctx, v); err != nil {
			s.log.Info("disk not given up", "volume", v.String(), "err", err)
		}
		return nil
	})
}

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
