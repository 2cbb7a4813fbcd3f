package server

import (
	"context"
	"time"

	"ashlar.dev/pkg/client"
)

// snapshotTimeout bounds one order; metad gives it again.
const snapshotTimeout = 30 * time.Second

// watchSnapshots carries out what metad orders about snapshots: one order for each snapshot
// at a time, so that it is never taken and deleted at once.
func (s *server) watchSnapshots(ctx context.Context) error {
	s.metad.WatchSnapshots(ctx, s.life.holder, func(o client.SnapshotOrder) {
		if _, busy := s.snapping.LoadOrStore(o.Snapshot, true); busy {
			return
		}
		s.group.Go("snapshot", func(ctx context.Context) error {
			defer s.snapping.Delete(o.Snapshot)
			ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
			defer cancel()
			epoch, err := s.exports.Snapshot(ctx, o)
			if err == nil {
				err = s.metad.TellSnapshot(ctx, s.life.holder, epoch, o)
			}
			if err != nil {
				s.log.Info("snapshot order not carried out yet", "volume", o.Volume.String(), "snapshot", o.Snapshot.String(), "drop", o.Drop, "err", err)
			}
			return nil
		})
	})
	return nil
}
