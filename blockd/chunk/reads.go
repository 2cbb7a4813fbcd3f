package chunk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/vfs"
)

// readsWaitingMax bounds the reads that wait for a reader; beyond it the caller waits.
const readsWaitingMax = 4096

// reads is the pool of shard readers.
type reads struct {
	queue chan *storeproto.ReadShard
	cache sumCache
	group *lifecycle.Group
	// inUse is held for reading from the look-up of a place to the end of the
	// read, and taken for writing, empty, before the place is given to another
	// shard: so no read sees another shard's bytes.
	inUse sync.RWMutex

	mu struct {
		sync.RWMutex // over sends to queue and its end
		stopped      bool
	}
}

func (r *reads) init(s *Store) {
	r.queue = make(chan *storeproto.ReadShard, readsWaitingMax)
	r.cache.init(s.opts.SumCacheBytes)
}

func (r *reads) start(s *Store) {
	r.group = lifecycle.NewGroup(context.Background())
	for range s.opts.Readers {
		r.group.Go("shard reader", func(context.Context) error {
			for q := range r.queue {
				s.read(q)
				q.Done(q)
			}
			return nil
		})
	}
}

// stop lets what waits be read and ends the readers.
func (r *reads) stop() {
	r.mu.Lock()
	if !r.mu.stopped {
		r.mu.stopped = true
		close(r.queue)
	}
	r.mu.Unlock()
	r.group.Wait()
	r.inUse.Lock() // reads that are on a ring
	//lint:ignore SA2001 the lock is only waited for
	r.inUse.Unlock()
}

// ReadShard is part of storeproto.Store. It waits only while readsWaitingMax
// others wait for a reader.
func (s *Store) ReadShard(q *storeproto.ReadShard) {
	q.Err, q.Got = nil, id.Generation{}
	s.reads.mu.RLock()
	if !s.reads.mu.stopped && s.Err() == nil {
		if s.viaRing(q) {
			s.reads.mu.RUnlock()
			return
		}
		s.reads.queue <- q
		s.reads.mu.RUnlock()
		return
	}
	s.reads.mu.RUnlock()
	q.Err = fmt.Errorf("store %s is down: %w", s.ident.ID, errs.ErrUnavailable)
	q.Done(q)
}

// read carries out one read.
func (s *Store) read(q *storeproto.ReadShard) {
	if s.Err() != nil {
		q.Err = fmt.Errorf("store %s has died: %w", s.ident.ID, errs.ErrUnavailable)
		return
	}
	s.count.reads.Add(1)
	s.reads.inUse.RLock()
	defer s.reads.inUse.RUnlock()
	n := shardName{q.Segment, q.Generation, q.Index}
	c, err := s.lookUp(n)
	if err != nil {
		q.Err = err
		if n.generation != (id.Generation{}) && errors.Is(err, errs.ErrNotFound) {
			s.wrong.add(n) // it may be missing: others know
		}
		return
	}
	q.Got = c.name.generation
	if q.Err = s.checkRead(q, c); q.Err != nil {
		return
	}
	if q.Err = s.readPlace(c.place, int64(q.First)*storeproto.BlockSize, q.Dst); q.Err == nil {
		q.Err = s.checkSums(q, c)
	}
	s.suspect(c.name, q.Err)
}

// readPlace reads from byte off of a place. What the disk cannot give is as good
// as corrupt: the reader has the other shards.
func (s *Store) readPlace(p extent.Place, off int64, dst []byte) error {
	if !vfs.Aligned(dst) {
		b := buf.Get(len(dst))
		defer b.Release()
		if err := s.readPlace(p, off, b.Bytes()); err != nil {
			return err
		}
		copy(dst, b.Bytes())
		return nil
	}
	for len(dst) > 0 {
		file, at, n := p.At(off)
		n = min(n, int64(len(dst)))
		if n == 0 {
			return &errs.Corrupt{Place: "shard place", Offset: off, What: "bytes", Want: uint64(len(dst)), Got: 0}
		}
		if _, err := s.ext.file(file).ReadAt(dst[:n], at); err != nil {
			s.count.badBlocks.Add(1)
			return fmt.Errorf("read extent: %v: %w", err, &errs.Corrupt{Place: extentName(file), Offset: at, What: "read", Want: uint64(n), Got: 0})
		}
		dst, off = dst[n:], off+n
	}
	return nil
}

// lookUp finds a shard's place and sums, in the cache or else the index.
// Generation zero means the newest, which only the index knows.
func (s *Store) lookUp(n shardName) (*cachedShard, error) {
	if c := s.reads.cache.get(n); c != nil {
		return c, nil
	}
	s.count.cacheMisses.Add(1)
	row, exact, err := s.findShard(n)
	if err != nil {
		return nil, err
	}
	if c := s.reads.cache.get(exact); c != nil {
		return c, nil
	}
	v, err := s.index.get(exact.key(keySums))
	if err != nil {
		return nil, fmt.Errorf("read sums of shard %d of %s: %w", n.index, n.segment, err)
	}
	sums, err := decodeSums(row.head.Blocks, v)
	if err != nil {
		return nil, err
	}
	c := &cachedShard{name: exact, place: row.place, sums: sums}
	s.reads.cache.put(c)
	return c, nil
}

// findShard reads the row of a shard; ErrNotFound if there is none.
func (s *Store) findShard(n shardName) (shardRow, shardName, error) {
	if n.generation != (id.Generation{}) {
		v, err := s.index.get(n.key(keyShard))
		if errors.Is(err, errs.ErrNotFound) {
			return shardRow{}, n, fmt.Errorf("shard %d of %s %s: %w", n.index, n.segment, n.generation, err)
		}
		if err != nil {
			return shardRow{}, n, err
		}
		row, err := decodeShardRow(n, v)
		return row, n, err
	}
	var row shardRow
	found := shardName{segment: n.segment, index: n.index}
	err := s.eachShard(n.segment, func(at shardName, r shardRow) {
		if at.index == n.index { // keys rise with the generation
			row, found = r, at
		}
	})
	if err == nil && found.generation == (id.Generation{}) {
		err = fmt.Errorf("shard %d of %s: %w", n.index, n.segment, errs.ErrNotFound)
	}
	return row, found, err
}

// eachShard calls f for every shard of a segment, generations rising.
func (s *Store) eachShard(seg id.Segment, f func(shardName, shardRow)) error {
	return s.index.scan(segmentKey(keyShard, seg), func(key []byte, value func() ([]byte, error)) error {
		n, ok := decodeShardName(key[1:])
		if !ok {
			return badKey("shard", key)
		}
		v, err := value()
		if err != nil {
			return err
		}
		row, err := decodeShardRow(n, v)
		if err == nil {
			f(n, row)
		}
		return err
	})
}

// ShardHeads is part of storeproto.Store.
func (s *Store) ShardHeads(_ context.Context, seg id.Segment) ([]storeproto.ShardHead, error) {
	if err := s.alive(); err != nil {
		return nil, err
	}
	var heads []storeproto.ShardHead
	var names []shardName
	err := s.eachShard(seg, func(n shardName, r shardRow) {
		heads, names = append(heads, r.head), append(names, n)
	})
	for i := range heads {
		if err == nil {
			err = s.fillHead(&heads[i], names[i])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("heads of %s: %w", seg, err)
	}
	return heads, nil
}

// fillHead reads entries and sums.
func (s *Store) fillHead(h *storeproto.ShardHead, n shardName) error {
	v, err := s.index.get(n.key(keyEntries))
	if err != nil {
		return err
	}
	if h.Entries, err = decodeEntries(v); err != nil {
		return err
	}
	if v, err = s.index.get(n.key(keySums)); err != nil {
		return err
	}
	h.Sums, err = decodeSums(h.Blocks, v)
	return err
}
