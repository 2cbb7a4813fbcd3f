package volume

import (
	"cmp"
	"context"
	"slices"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
)

// The cleaner's reading: one request after the other, so that clients meet at most one
// of them in a store's queue.

// Live slots that lie within cleanGap of each other are read in one piece, up to
// cleanPiece slots: reading a dead one costs less than another request.
const (
	cleanGap   = 16
	cleanPiece = 256
)

func (v *Volume) carryClean(fx *core.Effects) {
	if j := fx.CleanList; j != nil {
		go func() {
			for _, x := range j.Victims {
				x.Entries, x.Err = v.cfg.Reader.Entries(v.group.Context(), x.Segment, whereOf(x.Where))
			}
			v.step(func(now time.Duration, fx *core.Effects) { v.core.CleanListed(now, j, fx) })
		}()
	}
	if j := fx.CleanRead; j != nil {
		go func() {
			err := cleanRead(v.group.Context(), v.cfg.Reader, j)
			fx := effects.Get().(*core.Effects)
			v.mu.Lock() // also when the volume is closed: the core owns the memory
			v.core.CleanRead(v.cfg.Clock.Now(), j, err, fx)
			v.unlock(fx)
		}()
	}
}

// cleanRead reads the blocks of a job, piece by piece in the order of their places.
func cleanRead(ctx context.Context, r *reader.Reader, j *core.CleanJob) error {
	order := make([]*core.CleanBlock, len(j.Blocks))
	for i := range j.Blocks {
		order[i] = &j.Blocks[i]
	}
	slices.SortFunc(order, func(a, b *core.CleanBlock) int { return cmp.Compare(a.Location, b.Location) })
	piece := buf.Get(cleanPiece * storeproto.BlockSize)
	defer piece.Release()
	kept := make(map[*core.Victim]*segment.Kept)
	for len(order) > 0 {
		x := order[0].Victim
		if kept[x] == nil {
			kept[x] = segment.MakeKept(x.Entries)
		}
		n, err := readPiece(ctx, r, kept[x], order, piece.Bytes())
		if err != nil {
			x.Err = err
			return err
		}
		order = order[n:]
	}
	return nil
}

// adjoining gives the memory of all blocks if these are all that are read and lie one behind the other there, too.
func adjoining(blocks []*core.CleanBlock, count int) ([]byte, bool) {
	all := blocks[0].Data
	if count != len(blocks) || cap(all) < count*storeproto.BlockSize {
		return nil, false
	}
	all = all[:count*storeproto.BlockSize]
	for i, b := range blocks {
		if len(b.Data) != storeproto.BlockSize || &all[i*storeproto.BlockSize] != &b.Data[0] {
			return nil, false
		}
	}
	return all, true
}

// readPiece reads the first blocks of order that lie near each other; it gives how many.
func readPiece(ctx context.Context, r *reader.Reader, kept *segment.Kept, order []*core.CleanBlock, piece []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var ranks [cleanPiece]uint16
	n := 0
	for n < len(order) && n < cleanPiece && order[n].Victim == order[0].Victim {
		rank, _ := kept.Rank(order[n].Location.Slot())
		if n > 0 && (rank-ranks[n-1] > cleanGap || rank-ranks[0] >= cleanPiece) {
			break
		}
		ranks[n] = rank
		n++
	}
	first, count := ranks[0], ranks[n-1]-ranks[0]+1
	// Read by rank, a generation that has dropped slots is one that has as many as it keeps.
	w := whereOf(order[0].Victim.Where)
	w.Slots, w.Kept = kept.Count(), 0
	dst, inPlace := adjoining(order[:n], int(count))
	if !inPlace {
		dst = piece[:int(count)*storeproto.BlockSize]
	}
	done := make(chan error, 1)
	r.Read(&reader.Request{
		Location: id.MakeLocation(order[0].Location.Segment(), first), Count: uint32(count), Where: w,
		Dst: dst, NoCache: true, Class: storeproto.ClassClean, Done: func(_ *reader.Request, err error) { done <- err },
	})
	if err := <-done; err != nil {
		return 0, err
	}
	for i, b := range order[:n] {
		if !inPlace {
			copy(b.Data, piece[int(ranks[i]-first)*storeproto.BlockSize:])
		}
		b.Sum = codec.CRC(b.Data)
	}
	return n, nil
}
