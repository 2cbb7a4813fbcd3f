package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/stripe"
)

// rangeBlocks is how much of each shard is read at once.
const rangeBlocks = 64

// source is a store that has a shard of the segment.
type source struct {
	ref  cluster.StoreRef
	body storeproto.Store
	head storeproto.ShardHead
}

// rebuild gives the store its shard of one segment: copied from an older holder of the
// slot, else coded from k others. It returns nil as well if there is nothing to do: the
// segment is deleted, or never counted.
//
// Order: the shard is put, durable and visible; then the sources are asked whether they
// still have the segment. If they do, its deletion is yet to come, and comes here too
// (storeproto.DeleteShards). If not, the deletion may have passed here before the put
// did, and the shard is taken away again.
func (w *Worker) rebuild(ctx context.Context, t Task, s lack) error {
	sources, unknown := w.sources(ctx, t, s)
	data := buf.Get(int(s.bytes()))
	defer data.Release()
	head, used, err := w.makeShard(ctx, t, s, sources, data.Bytes())
	switch {
	case err != nil && errors.Is(err, errs.ErrCorrupt) && neverCounted(t, s, sources, unknown):
		return nil
	case err != nil && unknown != nil:
		return fmt.Errorf("%v (%w)", err, unknown)
	case err != nil:
		return err
	}
	switch err := w.put(head, data.Bytes()); {
	case errors.Is(err, errs.ErrNotFound):
		return nil // deleted meanwhile
	case err != nil:
		return err
	}
	return w.confirm(ctx, s, used)
}

// makeShard makes the shard: copied from an older holder of the slot, else coded from k others.
func (w *Worker) makeShard(ctx context.Context, t Task, s lack, sources []source, dst []byte) (*storeproto.ShardHead, []source, error) {
	if head, used := w.copyShard(ctx, t, s, sources, dst); head != nil {
		return head, used, nil
	}
	return w.code(ctx, t, s, sources, dst)
}

// neverCounted tells whether a witness lacks the segment: it never counted, or is being deleted.
func neverCounted(t Task, s lack, sources []source, unknown error) bool {
	all := t.witnesses(s.info.PGVersion)
	if s.witnessed < len(all) {
		return true
	}
	return unknown == nil && slices.ContainsFunc(all, func(r cluster.StoreRef) bool {
		return !slices.ContainsFunc(sources, func(x source) bool { return x.ref == r })
	})
}

// sources asks all holders for their heads of the segment. The error tells of those
// that did not answer.
func (w *Worker) sources(ctx context.Context, t Task, s lack) (out []source, unknown error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for slot, holders := range t.Holders {
		for _, r := range holders {
			if !slices.Contains(t.Sources, r) {
				continue
			}
			wg.Go(func() {
				body, head, err := w.head(ctx, r, s, uint8(slot))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					unknown = err
				case head != nil:
					out = append(out, source{r, body, *head})
				}
			})
		}
	}
	wg.Wait()
	place := order(t, s.info.PGVersion)
	slices.SortFunc(out, func(a, b source) int {
		return slices.Index(place, a.head.Index) - slices.Index(place, b.head.Index)
	})
	return out, unknown
}

// head finds the head of one shard of the segment's generation; nil if the store does not have it.
func (w *Worker) head(ctx context.Context, r cluster.StoreRef, s lack, slot uint8) (storeproto.Store, *storeproto.ShardHead, error) {
	body, ok := w.cfg.Stores.Store(r.Store)
	if !ok {
		return nil, nil, fmt.Errorf("store %s is not known here: %w", r, errs.ErrUnavailable)
	}
	call, cancel := w.call(ctx)
	defer cancel()
	heads, err := body.ShardHeads(call, s.name.Segment)
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", r, err)
	}
	for i := range heads {
		h := &heads[i]
		if h.Generation == s.name.Generation && h.Index == slot && h.Validate() == nil && h.Volume == s.info.Volume && h.K == s.info.K && h.M == s.info.M &&
			h.PGVersion == s.info.PGVersion && h.Slots == s.info.Slots && h.Blocks == s.info.Blocks {
			return body, h, nil
		}
	}
	return body, nil, nil
}

// copyShard reads the very shard from a store that had the slot before; nil if none has it right.
func (w *Worker) copyShard(ctx context.Context, t Task, s lack, sources []source, dst []byte) (*storeproto.ShardHead, []source) {
	for _, x := range sources {
		if x.head.Index != t.Slot {
			continue
		}
		right := true
		for first := uint16(0); right && first < s.info.Blocks; first += rangeBlocks {
			n := min(rangeBlocks, s.info.Blocks-first)
			right = w.pace(ctx, n) == nil && w.read(x, s, first, n, dst[int(first)*storeproto.BlockSize:][:int(n)*storeproto.BlockSize]) == nil
		}
		if right {
			return &x.head, []source{x}
		}
	}
	return nil, nil
}

// pace waits until some more blocks may be made. It is asked piece by piece, before any is
// read: a whole shard at once would be a burst that clients notice at any rate.
func (w *Worker) pace(ctx context.Context, blocks uint16) error {
	return w.cfg.Pace.Wait(ctx, w.cfg.Clock, int(blocks)*storeproto.BlockSize)
}

// code rebuilds the shard from k others, range by range, each from k that are right.
func (w *Worker) code(ctx context.Context, t Task, s lack, sources []source, dst []byte) (*storeproto.ShardHead, []source, error) {
	others := slices.DeleteFunc(slices.Clone(sources), func(x source) bool { return x.head.Index == t.Slot })
	code, err := stripe.For(stripe.Profile{K: t.K, M: t.M})
	if err != nil {
		return nil, nil, err
	}
	entries, err := entriesOf(t, s, others)
	if err != nil {
		return nil, nil, err
	}
	for first := uint16(0); first < s.info.Blocks; first += rangeBlocks {
		n := min(rangeBlocks, s.info.Blocks-first)
		if err := w.pace(ctx, n); err != nil {
			return nil, nil, err
		}
		if err := w.codeHalves(code, t, s, others, first, n, dst[int(first)*storeproto.BlockSize:][:int(n)*storeproto.BlockSize]); err != nil {
			return nil, nil, err
		}
	}
	head := &storeproto.ShardHead{Volume: s.info.Volume, Segment: s.name.Segment, Generation: s.name.Generation, Index: t.Slot, K: t.K, M: t.M,
		PGVersion: s.info.PGVersion, Slots: s.info.Slots, Blocks: s.info.Blocks, Entries: entries, Sums: make([]uint32, s.info.Blocks)}
	stripe.ShardSums(head.Sums, head.Segment, head.Index, dst)
	return head, others, nil
}

// codeHalves is codeRange, and where wrong blocks are in too many shards of the range,
// but perhaps not in the same place, of its halves.
func (w *Worker) codeHalves(code *stripe.Code, t Task, s lack, others []source, first, n uint16, dst []byte) error {
	err := w.codeRange(code, t, s, others, first, n, dst)
	if n < 2 || len(others) < int(t.K) || !errors.Is(err, errs.ErrCorrupt) {
		return err
	}
	half := n / 2
	if err := w.codeHalves(code, t, s, others, first, half, dst[:int(half)*storeproto.BlockSize]); err != nil {
		return err
	}
	return w.codeHalves(code, t, s, others, first+half, n-half, dst[int(half)*storeproto.BlockSize:])
}

// codeRange rebuilds some blocks. Sources are asked k at a time, the next ones when some fail.
func (w *Worker) codeRange(code *stripe.Code, t Task, s lack, others []source, first, n uint16, dst []byte) error {
	var pieces []stripe.Piece
	var failures []error
	have := make(map[uint8]bool)
	for len(pieces) < int(t.K) && len(others) > 0 {
		var now []source
		for len(others) > 0 && len(now) < int(t.K)-len(pieces) {
			if x := others[0]; !have[x.head.Index] && !slices.ContainsFunc(now, func(y source) bool { return y.head.Index == x.head.Index }) {
				now = append(now, x)
			}
			others = others[1:]
		}
		read := make([]*buf.Buffer, len(now))
		errors := make([]error, len(now))
		var wg sync.WaitGroup
		for i, x := range now {
			read[i] = buf.Get(len(dst))
			wg.Go(func() { errors[i] = w.read(x, s, first, n, read[i].Bytes()) })
		}
		wg.Wait()
		for i, x := range now {
			defer read[i].Release()
			if errors[i] != nil {
				failures = append(failures, errors[i])
				continue
			}
			have[x.head.Index] = true
			pieces = append(pieces, stripe.Piece{Index: x.head.Index, Generation: s.name.Generation, Data: read[i].Bytes()})
		}
	}
	if len(pieces) < int(t.K) {
		return tooFew(s, len(pieces), t.K, failures)
	}
	return code.Rebuild(dst, t.Slot, pieces)
}

func tooFew(s lack, right int, k uint8, failures []error) error {
	for _, e := range failures {
		if !errors.Is(e, errs.ErrCorrupt) && !errors.Is(e, errs.ErrNotFound) {
			return fmt.Errorf("segment %s: %d of %d shards answer: %v: %w", s.name.Segment, right, k, e, errs.ErrUnavailable)
		}
	}
	return fmt.Errorf("segment %s: %d shards are right, %d are needed: %v: %w", s.name.Segment, right, k, errors.Join(failures...), errs.ErrCorrupt)
}

// entriesOf makes the slot header entries of the missing shard. A parity shard has those
// of all slots; without one all data shards are there, or there are too few in any case.
func entriesOf(t Task, s lack, others []source) ([]uint64, error) {
	layout := segment.Layout{K: t.K, Slots: s.info.Slots}
	for _, x := range others {
		// A generation with slots dropped lists all slots in every shard.
		if i := x.head.Index; i < t.K && len(x.head.Entries) == int(s.info.Slots) && layout.ShardSlots(i) != s.info.Slots {
			return x.head.Entries, nil
		}
	}
	all := make([]uint64, s.info.Slots)
	known := make(map[uint8]bool)
	for _, x := range others {
		if x.head.Index >= t.K && len(x.head.Entries) == len(all) {
			copy(all, x.head.Entries)
			for i := range t.K {
				known[i] = true
			}
			break
		}
	}
	for _, x := range others {
		if i := x.head.Index; i < t.K && !known[i] && len(x.head.Entries) == int(layout.ShardSlots(i)) {
			for b, e := range x.head.Entries {
				slot, _ := layout.Slot(i, uint16(b))
				all[slot] = e
			}
			known[i] = true
		}
	}
	if t.Slot >= t.K {
		for i := range t.K {
			if !known[i] {
				return nil, tooFew(s, len(others), t.K, nil)
			}
		}
		return all, nil
	}
	if !known[t.Slot] {
		return nil, tooFew(s, len(others), t.K, nil)
	}
	own := make([]uint64, layout.ShardSlots(t.Slot))
	for b := range own {
		slot, _ := layout.Slot(t.Slot, uint16(b))
		own[b] = all[slot]
	}
	return own, nil
}

// read reads blocks of a source's shard and checks each against its sum, both the one
// that came along and the head's. The sums are seeded with segment, shard and place.
func (w *Worker) read(x source, s lack, first, n uint16, dst []byte) error {
	done := make(chan struct{})
	q := storeproto.ReadShard{Segment: s.name.Segment, Generation: s.name.Generation, Index: x.head.Index, First: first, Count: n, Class: storeproto.ClassRepair,
		Dst: dst, Sums: make([]uint32, n), Done: func(*storeproto.ReadShard) { close(done) }}
	x.body.ReadShard(&q)
	<-done
	if q.Err != nil {
		return fmt.Errorf("shard %d on %s: %w", x.head.Index, x.ref, q.Err)
	}
	if q.Got != s.name.Generation {
		return fmt.Errorf("shard %d on %s is of another generation: %w", x.head.Index, x.ref, errs.ErrCorrupt)
	}
	for i, sum := range q.Sums {
		place := first + uint16(i)
		if sum != x.head.Sums[place] || !stripe.CheckBlock(s.name.Segment, x.head.Index, place, sum, dst[i*storeproto.BlockSize:][:storeproto.BlockSize]) {
			return &errs.Corrupt{Place: fmt.Sprintf("shard %d of %s on %s", x.head.Index, s.name.Segment, x.ref), Offset: int64(place) * storeproto.BlockSize,
				What: "block sum", Want: uint64(x.head.Sums[place]), Got: uint64(sum)}
		}
	}
	return nil
}

func (w *Worker) put(head *storeproto.ShardHead, data []byte) error {
	done := make(chan struct{})
	q := storeproto.PutShard{Head: head, Epoch: storeproto.RepairEpoch, Class: storeproto.ClassRepair, Room: storeproto.RoomReserve, Data: [][]byte{data}, Done: func(*storeproto.PutShard) { close(done) }}
	w.cfg.Local.PutShard(&q)
	<-done
	return q.Err
}

// confirm looks whether the segment was deleted while its shard was on its way.
func (w *Worker) confirm(ctx context.Context, s lack, used []source) error {
	for _, x := range used {
		_, head, err := w.head(ctx, x.ref, s, x.head.Index)
		if err == nil && head != nil {
			continue
		}
		if e := w.cfg.Local.RemoveShards(ctx, s.name); e != nil {
			return fmt.Errorf("take back shard of %s: %w", s.name.Segment, errors.Join(e, err))
		}
		return err // nil: it was deleted, and there is nothing to do
	}
	return nil
}
