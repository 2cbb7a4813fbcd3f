package chunk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/blockd/chunk/share"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/vfs"
)

// readSlots is how many reads may be at the disk at once, those on a queue too; more wait
// for their turn, each with the buffer that its sender has bounded.
const readSlots = 32

// reads is the pool of shard readers.
type reads struct {
	queue   chan *storeproto.ReadShard // has room for all slots
	cache   sumCache
	group   *lifecycle.Group
	pending sync.WaitGroup // reads taken and not answered
	// inUse is held for reading from the look-up of a place to the end of the
	// read, and taken for writing, empty, before the place is given to another
	// shard: so no read sees another shard's bytes.
	inUse sync.RWMutex

	// Lock order: taking, then turns.
	taking struct {
		sync.RWMutex // over the count of pending and the end
		stopped      bool
	}
	turns struct {
		sync.Mutex
		core *share.Core[readTurn]
	}
}

// readTurn is what waits for its turn: a read, or whoever looks at a piece of a shard.
type readTurn struct {
	q    *storeproto.ReadShard
	wake chan struct{}
}

func (r *reads) init(s *Store) {
	r.queue = make(chan *storeproto.ReadShard, readSlots)
	r.cache.init(s.opts.SumCacheBytes)
	r.turns.core = share.New[readTurn](share.Config{Slots: readSlots, Most: background(readSlots / 4)})
}

func (r *reads) start(s *Store) {
	r.group = lifecycle.NewGroup(context.Background())
	for range s.opts.Readers {
		r.group.Go("shard reader", func(context.Context) error {
			for q := range r.queue {
				s.read(q)
				s.readDone(q)
			}
			return nil
		})
	}
}

// stop lets what waits be read and ends the readers.
func (r *reads) stop() {
	r.taking.Lock()
	stopped := r.taking.stopped
	r.taking.stopped = true
	r.taking.Unlock()
	if !stopped {
		r.pending.Wait()
		close(r.queue)
	}
	r.group.Wait()
}

// take counts one more under way; false: the readers end.
func (r *reads) take() bool {
	r.taking.RLock()
	defer r.taking.RUnlock()
	if r.taking.stopped {
		return false
	}
	r.pending.Add(1)
	return true
}

// ReadShard is part of storeproto.Store. It does not wait: a read whose turn has not come
// is carried out later.
func (s *Store) ReadShard(q *storeproto.ReadShard) {
	q.Err, q.Got = nil, id.Generation{}
	if s.Err() != nil || !s.reads.take() {
		q.Err = fmt.Errorf("store %s is down: %w", s.ident.ID, errs.ErrUnavailable)
		q.Done(q)
		return
	}
	if s.enterRead(q) {
		s.startRead(q)
	}
}

// enterRead tells whether it is q's turn already. Whose disk it is of is asked only if it has to wait.
func (s *Store) enterRead(q *storeproto.ReadShard) bool {
	t := &s.reads.turns
	bytes := int(q.Count) * storeproto.BlockSize
	t.Lock()
	if t.core.Free(q.Class) {
		t.core.Enter(q.Class, id.Volume{}, bytes, readTurn{q: q})
		t.Unlock()
		return true
	}
	t.Unlock()
	var v id.Volume // of shards that are not in the cache
	if c := s.reads.cache.get(shardName{q.Segment, q.Generation, q.Index}); c != nil {
		v = c.volume
	}
	t.Lock()
	defer t.Unlock()
	return t.core.Enter(q.Class, v, bytes, readTurn{q: q})
}

// startRead carries out a read whose turn has come.
func (s *Store) startRead(q *storeproto.ReadShard) {
	if !s.viaQueue(q) {
		s.reads.queue <- q
	}
}

// readDone answers a read and gives its turn on.
func (s *Store) readDone(q *storeproto.ReadShard) {
	k := q.Class
	q.Done(q)
	s.leaveRead(k)
}

func (s *Store) leaveRead(k storeproto.Class) {
	var few [4]readTurn
	t := &s.reads.turns
	t.Lock()
	next := t.core.Leave(k, few[:0])
	t.Unlock()
	for _, n := range next {
		if n.q != nil {
			s.startRead(n.q)
		} else {
			close(n.wake)
		}
	}
	s.reads.pending.Done()
}

// turnToRead waits for a turn of a class; leaveRead gives it back.
func (s *Store) turnToRead(k storeproto.Class, v id.Volume, bytes int) error {
	if !s.reads.take() {
		return fmt.Errorf("store %s is down: %w", s.ident.ID, errs.ErrUnavailable)
	}
	t := &s.reads.turns
	wake := make(chan struct{})
	t.Lock()
	entered := t.core.Enter(k, v, bytes, readTurn{wake: wake})
	t.Unlock()
	if !entered {
		<-wake
	}
	return nil
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
	c := &cachedShard{name: exact, volume: row.head.Volume, place: row.place, sums: sums}
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
