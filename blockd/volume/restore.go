package volume

import (
	"context"
	"fmt"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/record"
	"ashlar.dev/pkg/segment"
)

// What the core says of segments that lie in an archive, carried out. Readers of them have
// goroutines of their own: what they wait for takes long, and how many requests are under way
// at once is for package restore to limit.

// wholeRetry is the pause before metad is told again that nothing lies in the archive any more.
const wholeRetry = 2 * time.Second

// errNoArchive: the host was not told where the archive is.
var errNoArchive = fmt.Errorf("this host knows no archive (archive in the file of its blockd): %w", errs.ErrInvalid)

// restoredOf is what the core needs of a disk that was made from an archive. One without a
// checkpoint begins with the tree that lies there, so that the manifest must be read.
func restoredOf(ctx context.Context, cfg *Config) (*core.Restored, *restore.Disk, error) {
	x := cfg.Record.Restored
	if x == nil {
		return nil, nil, nil
	}
	out := &core.Restored{Manifest: x.Manifest, First: x.First, Segments: x.Segments, PGs: x.PGs}
	if cfg.Record.Checkpoint != nil || x.Segments == 0 {
		return out, nil, nil
	}
	if cfg.Archive == nil {
		return nil, nil, errNoArchive
	}
	d := cfg.Archive.Disk(allotted(x))
	root, blocks, err := d.Root(ctx)
	if err != nil {
		return nil, nil, err
	}
	if have := cfg.Record.Size; uint64(blocks.Offset()) > have {
		return nil, nil, fmt.Errorf("a disk of %d bytes made from a snapshot of %d blocks: %w", have, blocks, errs.ErrCorrupt)
	}
	out.Root = root
	return out, d, nil
}

func allotted(x *cluster.Restored) record.Archive {
	return record.Archive{Manifest: x.Manifest, First: x.First, Segments: x.Segments, PGs: x.PGs}
}

// archived gives what of the volume lies in an archive.
func (v *Volume) archived() (*restore.Disk, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.archive != nil {
		return v.archive, nil
	}
	if v.cfg.Archive == nil {
		return nil, errNoArchive
	}
	a := v.core.Archive()
	if a == nil {
		return nil, fmt.Errorf("nothing lies in the archive any more: %w", errs.ErrNotFound) // who asked looks again
	}
	v.archive = v.cfg.Archive.Disk(*a)
	return v.archive, nil
}

// readForeign fills one piece of a read from the archive.
func (v *Volume) readForeign(s *slotRead) {
	d, err := v.archived()
	if err == nil {
		err = d.Read(v.group.Context(), s.req.Location, s.want, s.req.Dst)
	}
	s.v.filled(s.o, err)
}

// readForeignPage reads a page of the map from the archive.
func (v *Volume) readForeignPage(p core.PageRead, b *buf.Buffer) {
	defer b.Release()
	d, err := v.archived()
	if err == nil {
		err = d.Read(v.group.Context(), p.Miss.Location, segment.MakePage(segment.MapPage, p.Miss.Level, p.Miss.Index), b.Bytes())
	}
	v.step(func(now time.Duration, fx *core.Effects) { v.core.PageDone(now, p, b.Bytes(), err, fx) })
}

// carryHydrate reads for whoever brings segments in. Outcomes are the core's to hear also when the
// volume is closed: it owns the memory.
func (v *Volume) carryHydrate(fx *core.Effects) {
	for _, j := range fx.HydrateList {
		go func() {
			d, err := v.archived()
			if err == nil {
				j.Slots, err = d.Slots(v.group.Context(), j.Index)
			}
			v.step(func(now time.Duration, fx *core.Effects) { v.core.HydrateListed(now, j, err, fx) })
		}()
	}
	for _, j := range fx.HydrateRead {
		go func() {
			err := v.hydrateRead(j)
			fx := effects.Get().(*core.Effects)
			v.mu.Lock()
			v.core.HydrateRead(v.cfg.Clock.Now(), j, err, fx)
			v.unlock(fx)
		}()
	}
	if fx.Whole {
		v.group.Go("tell that the disk is whole", func(ctx context.Context) error { v.tellWhole(ctx); return nil })
	}
}

func (v *Volume) hydrateRead(j *core.HydrateJob) error {
	d, err := v.archived()
	if err != nil {
		return err
	}
	want := make([]restore.Wanted, len(j.Blocks))
	for i := range j.Blocks {
		b := &j.Blocks[i]
		want[i] = restore.Wanted{Slot: b.Slot, Entry: b.Entry, Data: b.Data}
	}
	if err := d.Fill(v.group.Context(), j.Index, want); err != nil {
		return err
	}
	for i := range want {
		j.Blocks[i].Sum, j.Blocks[i].Stale = want[i].Sum, want[i].Stale
	}
	return nil
}

// tellWhole tells metad that the archive is not needed any more, until it hears. If it
// never does, the next owner says so.
func (v *Volume) tellWhole(ctx context.Context) {
	for {
		call, cancel := context.WithTimeout(ctx, metadTimeout)
		err := v.cfg.Metad.RestoreWhole(call, v.id, v.epoch)
		cancel()
		if err == nil {
			v.log.Info("nothing of the disk lies in the archive any more")
			return
		}
		v.log.Debug("metad not told that the disk is whole", "err", err)
		if v.cfg.Clock.Sleep(ctx, wholeRetry) != nil {
			return
		}
	}
}

// SetHydrateRate says how many bytes a second are brought in from the archive; 0: the default.
func (v *Volume) SetHydrateRate(bytes uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.core.SetHydrateRate(int64(min(bytes, 1<<62)))
	}
}

// ArchiveLeft is how many segments of the disk lie in the archive.
func (v *Volume) ArchiveLeft() uint32 {
	return v.Stats().ArchiveLeft
}

// ArchiveProblem says what keeps the rest of the disk in the archive, or its clients from it; empty: nothing.
func (v *Volume) ArchiveProblem() string {
	v.mu.Lock()
	d, s := v.archive, v.core.Stats()
	v.mu.Unlock()
	if s.ArchiveLeft == 0 {
		return ""
	}
	if d != nil && s.HydrateProblem == "" {
		return d.Problem()
	}
	return s.HydrateProblem
}
