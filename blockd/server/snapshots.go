package server

import (
	"context"
	"errors"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/id"
)

// snapshotTimeout bounds one order; metad gives it again.
const snapshotTimeout = 30 * time.Second

// snapping is an order being carried out.
type snapping struct {
	volume   id.Volume // of an order about no snapshot; else zero
	snapshot id.Snapshot
	step     api.SnapshotStep
}

// watchSnapshots carries out what metad orders about snapshots: one order for each snapshot
// at a time, so that it is never taken and deleted at once.
func (s *server) watchSnapshots(ctx context.Context) error {
	s.metad.WatchSnapshots(ctx, s.life.holder, func(o client.SnapshotOrder) {
		if o.Yield {
			s.yield(o.Volume)
			return
		}
		at := snapping{snapshot: o.Snapshot, step: o.Step}
		if o.Empty {
			at.volume = o.Volume
		}
		if _, busy := s.snapping.LoadOrStore(at, true); busy {
			return
		}
		s.group.Go("snapshot", func(ctx context.Context) error {
			defer s.snapping.Delete(at)
			ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
			defer cancel()
			epoch, err := s.exports.Snapshot(ctx, o)
			failed := ""
			if err != nil && o.Step != api.SnapshotStep_SNAPSHOT_STEP_NONE {
				failed = err.Error()
			}
			switch {
			case err == nil && o.Empty:
				err = s.metad.TellEmptied(ctx, s.life.holder, o.Volume, epoch)
			case err == nil || failed != "":
				err = errors.Join(err, s.metad.TellSnapshot(ctx, s.life.holder, epoch, o, failed))
			}
			if err == nil && o.Safety != (id.Snapshot{}) {
				s.exports.RolledBack(o.Volume)
			}
			if failed != "" {
				s.log.Debug("step of a group of snapshots not carried out", "volume", o.Volume.String(), "snapshot", o.Snapshot.String(), "step", o.Step.String(), "err", err)
			} else if err != nil {
				s.log.Info("snapshot order not carried out yet", "volume", o.Volume.String(), "snapshot", o.Snapshot.String(), "drop", o.Drop, "empty", o.Empty, "err", err)
			}
			return nil
		})
	}, s.tellManifest)
	return nil
}
