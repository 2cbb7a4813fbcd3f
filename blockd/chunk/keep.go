package chunk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

var _ storeproto.Keeper = (*Store)(nil)

// suspects are shards that were found wrong and that nobody has looked after yet.
type suspects struct {
	c  chan struct{}
	mu struct {
		sync.Mutex
		names map[shardName]bool
	}
}

func (x *suspects) init() {
	x.c = make(chan struct{}, 1)
	x.mu.names = make(map[shardName]bool)
}

func (x *suspects) add(n shardName) {
	x.mu.Lock()
	if len(x.mu.names) < storeproto.SuspectsMax {
		x.mu.names[n] = true
	}
	x.mu.Unlock()
	select {
	case x.c <- struct{}{}:
	default:
	}
}

// suspect notes a shard whose read ended with err, if that says it is wrong.
func (s *Store) suspect(n shardName, err error) {
	if errors.Is(err, errs.ErrCorrupt) {
		s.wrong.add(n)
	}
}

// Suspects is part of storeproto.Keeper.
func (s *Store) Suspects() []storeproto.ShardName {
	x := &s.wrong
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]storeproto.ShardName, 0, len(x.mu.names))
	for n := range x.mu.names {
		out = append(out, storeproto.ShardName{Segment: n.segment, Generation: n.generation, Index: n.index})
	}
	clear(x.mu.names)
	return out
}

// Suspected is part of storeproto.Keeper.
func (s *Store) Suspected() <-chan struct{} { return s.wrong.c }

// verifyBlocks is how much of a shard is read at once.
const verifyBlocks = 64

// VerifyShard is part of storeproto.Keeper. The place is looked up anew for each piece,
// so that neither a deletion nor a replacement has to wait for more than one.
func (s *Store) VerifyShard(ctx context.Context, n storeproto.ShardName, pace func(bytes int) error) error {
	name := shardName{n.Segment, n.Generation, n.Index}
	b := buf.Get(verifyBlocks * storeproto.BlockSize)
	defer b.Release()
	for first, blocks := uint16(0), uint16(1); first < blocks; first += verifyBlocks {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := pace(len(b.Bytes())); err != nil {
			return err
		}
		var err error
		if blocks, err = s.verifyPiece(name, first, b.Bytes()); err != nil {
			return fmt.Errorf("verify shard %d of %s %s: %w", n.Index, n.Segment, n.Generation, err)
		}
	}
	return nil
}

// verifyPiece is checkPiece when it is the scrub's turn to read.
func (s *Store) verifyPiece(n shardName, first uint16, dst []byte) (uint16, error) {
	if err := s.alive(); err != nil {
		return 0, err
	}
	if err := s.turnToRead(storeproto.ClassScrub, id.Volume{}, len(dst)); err != nil {
		return 0, err
	}
	defer s.leaveRead(storeproto.ClassScrub)
	return s.checkPiece(n, first, dst)
}

// checkPiece checks a head and some blocks and gives how many the shard has.
func (s *Store) checkPiece(n shardName, first uint16, dst []byte) (uint16, error) {
	s.reads.inUse.RLock()
	defer s.reads.inUse.RUnlock()
	row, _, err := s.findShard(n)
	if err != nil {
		return 0, err
	}
	h := &row.head
	if err := s.wholeHead(h, n); err != nil {
		return 0, err
	}
	if first >= h.Blocks {
		return h.Blocks, nil
	}
	count := min(verifyBlocks, h.Blocks-first)
	dst = dst[:int(count)*storeproto.BlockSize]
	if err := s.readPlace(row.place, int64(first)*storeproto.BlockSize, dst); err != nil {
		return 0, err
	}
	for i := range count {
		got := storeproto.BlockSum(codec.CRC(dst[int(i)*storeproto.BlockSize:][:storeproto.BlockSize]), h.Segment, h.Index, first+i)
		if got != h.Sums[first+i] {
			s.count.badBlocks.Add(1)
			return 0, &errs.Corrupt{Place: "shard", Offset: int64(first+i) * storeproto.BlockSize, What: "block sum", Want: uint64(h.Sums[first+i]), Got: uint64(got)}
		}
	}
	return h.Blocks, nil
}

// wholeHead fills and checks a head; what is missing or invalid of it is corrupt.
func (s *Store) wholeHead(h *storeproto.ShardHead, n shardName) error {
	err := s.fillHead(h, n)
	if err == nil {
		err = h.Validate()
	}
	if errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrInvalid) {
		return fmt.Errorf("head: %v: %w", err, errs.ErrCorrupt)
	}
	return err
}

// NextShards is part of storeproto.Keeper.
func (s *Store) NextShards(after storeproto.ShardName, limit int) (out []storeproto.ShardInfo, err error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	from := shardName{after.Segment, after.Generation, after.Index}
	err = s.index.scanFrom([]byte{keyShard}, from.key(keyShard), func(key []byte, value func() ([]byte, error)) error {
		n, ok := decodeShardName(key[1:])
		if !ok {
			return badKey("shard", key)
		}
		if n == from {
			return nil
		}
		if len(out) >= limit {
			return errStop
		}
		v, err := value()
		if err != nil {
			return err
		}
		row, err := decodeShardRow(n, v)
		out = append(out, row.head.Info())
		return err
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, fmt.Errorf("list shards: %w", err)
	}
	return out, nil
}

// Care is part of storeproto.Keeper.
func (s *Store) Care() (storeproto.Care, error) {
	v, err := s.index.get([]byte{keyCare})
	if errors.Is(err, errs.ErrNotFound) {
		return storeproto.Care{}, nil
	}
	if err != nil {
		return storeproto.Care{}, err
	}
	return decodeCare(v)
}

// SaveCare is part of storeproto.Keeper.
func (s *Store) SaveCare(c storeproto.Care) error {
	if err := s.alive(); err != nil {
		return err
	}
	if err := s.index.enter(); err != nil {
		return err
	}
	defer s.index.leave()
	b := s.index.newBatch()
	if err := b.Set([]byte{keyCare}, encodeCare(c), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := s.index.commit(b); err != nil {
		s.die(err)
		return fmt.Errorf("save care: %v: %w", err, errs.ErrUnavailable)
	}
	return nil
}

// tellHurt says at an open which extent files were not whole. What lay in them is suspect.
func (s *Store) tellHurt() {
	s.wrong.mu.Lock()
	shards := len(s.wrong.mu.names)
	s.wrong.mu.Unlock()
	if shards > 0 {
		s.log.Error("extent files are missing or cut off, shards in them are to be rebuilt", "store", s.ident.ID.String(), "files", len(s.ext.short), "shards", shards)
	}
	s.ext.short = nil
}
