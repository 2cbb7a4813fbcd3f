package volume

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// What the core says of a clone that is flattened, carried out.

// Blocks of ancestors are read in runs of consecutive slots of at most flattenPiece, flattenReads of them at once:
// a disk that was written at random lies about in small pieces.
const (
	flattenPiece = 256
	flattenReads = 8
)

// SetFlatten says whether the volume, a clone, is to copy what it reads of its ancestors, as metad has it; nil: not.
func (v *Volume) SetFlatten(f *cluster.Flatten) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.flatten = f != nil
	if f == nil {
		v.core.SetFlatten(false, 0)
		return
	}
	v.core.SetFlatten(true, int64(min(f.Rate, 1<<62)))
}

// Flattening tells whether the volume is to be flattened.
func (v *Volume) Flattening() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.flatten
}

// carryFlatten reads for whoever copies. The outcome is the core's to hear also when the volume is closed: it owns the memory.
func (v *Volume) carryFlatten(fx *core.Effects) {
	for _, j := range fx.FlattenRead {
		go func() {
			v.flattenRead(v.group.Context(), j)
			fx := effects.Get().(*core.Effects)
			v.mu.Lock()
			v.core.FlattenRead(v.cfg.Clock.Now(), j, fx)
			v.unlock(fx)
		}()
	}
	if fx.Flat {
		v.group.Go("tell that the clone stands alone", func(ctx context.Context) error { v.tellFlat(ctx); return nil })
	}
}

// flattenRead reads the blocks of a job, in the order of their places.
func (v *Volume) flattenRead(ctx context.Context, j *core.FlattenJob) {
	order := make([]*core.FlattenBlock, len(j.Blocks))
	for i := range j.Blocks {
		order[i] = &j.Blocks[i]
	}
	slices.SortFunc(order, func(a, b *core.FlattenBlock) int { return cmp.Compare(a.Location, b.Location) })
	turns := make(chan struct{}, flattenReads)
	var all sync.WaitGroup
	for len(order) > 0 {
		n := 1
		for n < len(order) && n < flattenPiece && order[n].Location == order[0].Location+id.Location(n) && order[n].Location.Slot() != 0 {
			n++
		}
		turns <- struct{}{}
		all.Add(1)
		go func(run []*core.FlattenBlock) {
			defer all.Done()
			v.flattenRun(ctx, run)
			<-turns
		}(order[:n:n])
		order = order[n:]
	}
	all.Wait()
}

// flattenRun reads blocks that lie one behind the other. If they cannot be read together each is tried alone, so that it
// is known which cannot.
func (v *Volume) flattenRun(ctx context.Context, run []*core.FlattenBlock) {
	dst := make([]byte, len(run)*block.Size)
	err := ctx.Err()
	if err != nil {
		err = errs.ErrClosed
	} else {
		q := &reader.Request{Location: run[0].Location, Count: uint32(len(run)), Dst: dst, NoCache: true, Class: storeproto.ClassClean}
		if from := v.lent.of(run[0].Location.Segment()); from != nil && len(run) == 1 {
			err = v.readLent(ctx, from, q, segment.MakeData(run[0].LBA))
		} else {
			err = v.readStores(q)
		}
	}
	if err != nil && len(run) > 1 && ctx.Err() == nil {
		for i := range run {
			v.flattenRun(ctx, run[i:i+1])
		}
		return
	}
	for i, b := range run {
		if b.Err = err; err == nil {
			copy(b.Data, dst[i*block.Size:])
			b.Sum = codec.CRC(b.Data)
		}
	}
}

// tellFlat tells metad that the ancestors are not needed any more, until it hears. If it
// never does, the next owner says so.
func (v *Volume) tellFlat(ctx context.Context) {
	for {
		call, cancel := context.WithTimeout(ctx, metadTimeout)
		err := v.cfg.Metad.VolumeFlattened(call, v.id, v.epoch)
		cancel()
		if err == nil {
			v.SetFlatten(nil)
			v.log.Info("the clone is flattened, and needs its ancestors no more")
			return
		}
		v.log.Debug("metad not told that the clone is flattened", "err", err)
		if v.cfg.Clock.Sleep(ctx, wholeRetry) != nil {
			return
		}
	}
}

// FlattenState is how far the volume is flattened; nil: nobody ordered it.
func (v *Volume) FlattenState(st *core.Stats) *cluster.Flattening {
	if st.Flatten == core.FlattenOff {
		return nil
	}
	f := &cluster.Flattening{State: cluster.FlattenState(st.Flatten), Done: st.FlattenCopied * block.Size, Left: st.FlattenLeft * block.Size,
		PerSecond: st.FlattenBlocksPerSecond * block.Size, Problem: st.FlattenProblem, Snapshots: uint32(len(st.FlattenHeld))}
	for _, s := range st.FlattenHeld[:min(len(st.FlattenHeld), cluster.FlattenHeldMax)] {
		f.SnapshotIDs = append(f.SnapshotIDs, id.Snapshot(s))
	}
	return f
}
