package server

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
)

// describeTimeout bounds the reading of one manifest for metad, which asks again.
const describeTimeout = 8 * time.Second

// openArchive makes the archive ready that the file names, if any. It does not connect.
func (s *server) openArchive(ctx context.Context) error {
	if !s.cfg.Archive.Store.Given() {
		return nil
	}
	store, secret, err := s.cfg.Archive.Open(ctx, s.clock)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	s.archive = restore.New(restore.Config{Store: store, Secret: secret})
	s.log.Info("archive named", "at", store.String(), "encrypted", secret != nil)
	return nil
}

// tellManifest tells metad what a manifest says, one question for each key at a time.
func (s *server) tellManifest(key string) {
	if _, busy := s.snapping.LoadOrStore(manifestKey(key), true); busy {
		return
	}
	s.group.Go("manifest", func(ctx context.Context) error {
		defer s.snapping.Delete(manifestKey(key))
		ctx, cancel := context.WithTimeout(ctx, describeTimeout)
		defer cancel()
		x := client.ManifestTold{Manifest: key}
		if s.archive == nil {
			x.Err = fmt.Errorf("no archive is named in the file of its blockd: %w", errs.ErrInvalid)
		} else if is, err := s.archive.Describe(ctx, key); err != nil {
			x.Err = err
		} else {
			x.Blocks, x.Segments, x.Disk, x.Snapshot = uint64(is.Blocks), is.Segments, is.Disk, is.Snapshot
		}
		if err := s.metad.TellManifest(ctx, s.life.holder, x); err != nil {
			s.log.Info("metad not told what a manifest says", "manifest", key, "err", err)
		}
		return nil
	})
}

// manifestKey keeps keys apart from the ids of snapshots.
type manifestKey string

// hydrationOf is how far a disk is brought in; nil: nothing of it lies in an archive.
func hydrationOf(v *volume.Volume, st *core.Stats) *cluster.Hydration {
	if st.ArchiveLeft == 0 {
		return nil
	}
	return &cluster.Hydration{Segments: st.ArchiveSegments, Left: st.ArchiveLeft, Bytes: st.BlocksHydrated * block.Size, Problem: v.ArchiveProblem()}
}
