package chunk

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/blockd/chunk/share"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/vfs"
)

// putsWaitingMax bounds the shards that are being written or wait for their turn; beyond it a put is
// answered ErrUnavailable.
const putsWaitingMax = 1024

// puts is the pool of shard writers.
type puts struct {
	group *lifecycle.Group
	wake  *sync.Cond // on mu: there is one to write, or the end has come

	mu struct {
		sync.Mutex
		stopped bool
		byName  map[shardName]*putting // under way
		n       int
		turns   *share.Core[*putting]
		ready   []*putting // it is their turn
	}
}

// putting is one PutShard on its way.
type putting struct {
	req     *storeproto.PutShard
	class   storeproto.Class
	name    shardName
	row     shardRow
	entries []byte // encoded
	sums    []byte
	cached  *cachedShard
	// waiters put the same shard and wait for this one's end.
	waiters []*storeproto.PutShard
}

func (p *puts) init(s *Store) {
	p.wake = sync.NewCond(&p.mu)
	p.mu.byName = make(map[shardName]*putting)
	p.mu.turns = share.New[*putting](share.Config{Slots: s.opts.Putters, Most: background(s.opts.Putters / 2)})
}

// background lets repair, cleaning and scrubbing hold some slots each, at least one.
func background(n int) (most [storeproto.Classes]int) {
	most[storeproto.ClassRepair], most[storeproto.ClassClean], most[storeproto.ClassScrub] = max(n, 1), max(n, 1), max(n/2, 1)
	return most
}

func (p *puts) start(s *Store) {
	p.group = lifecycle.NewGroup(context.Background())
	for range s.opts.Putters {
		p.group.Go("shard writer", func(context.Context) error {
			for q := p.take(); q != nil; q = p.take() {
				s.put(q)
				p.leave(q.class)
			}
			return nil
		})
	}
}

// take waits for a shard whose turn it is; nil: there will be none any more.
func (p *puts) take() *putting {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.mu.ready) == 0 {
		if p.mu.stopped && p.mu.turns.Idle() {
			return nil
		}
		p.wake.Wait()
	}
	q := p.mu.ready[0]
	p.mu.ready = append(p.mu.ready[:0], p.mu.ready[1:]...)
	return q
}

// leave gives the turn on.
func (p *puts) leave(k storeproto.Class) {
	p.mu.Lock()
	p.mu.ready = p.mu.turns.Leave(k, p.mu.ready)
	p.mu.Unlock()
	p.wake.Broadcast()
}

func (p *puts) stop() {
	p.mu.Lock()
	p.mu.stopped = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.group.Wait()
}

// busy is how many puts are under way.
func (p *puts) busy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.n
}

// PutShard is part of storeproto.Store. The data is checked against the head on
// the caller's goroutine; writing waits for a writer.
//
// Order: data; fdatasync; the index's rows, in the one queue, synced; the answer.
// A crash before the index leaves the room free.
func (s *Store) PutShard(req *storeproto.PutShard) {
	req.Err = checkPut(req)
	if req.Err == nil {
		req.Err = s.admitRoom(req)
	}
	if req.Err == nil {
		if req.Err = s.enter(); req.Err == nil {
			req.Err = s.mu.core.AdmitShard(req.Head, req.Epoch)
			s.mu.Unlock()
		}
	}
	if req.Err != nil {
		req.Done(req)
		return
	}
	h := req.Head
	q := &putting{req: req, class: req.Class, name: shardName{h.Segment, h.Generation, h.Index}}
	p := &s.puts
	p.mu.Lock()
	if p.mu.stopped || p.mu.n >= putsWaitingMax {
		p.mu.Unlock()
		req.Err = fmt.Errorf("put shard of %s, %d wait: %w", h.Segment, putsWaitingMax, errs.ErrUnavailable)
		req.Done(req)
		return
	}
	if same := p.mu.byName[q.name]; same != nil {
		same.waiters = append(same.waiters, req)
		p.mu.Unlock()
		return
	}
	p.mu.byName[q.name] = q
	p.mu.n++
	if p.mu.turns.Enter(q.class, h.Volume, int(h.Blocks)*storeproto.BlockSize, q) {
		p.mu.ready = append(p.mu.ready, q)
		p.wake.Signal()
	}
	p.mu.Unlock()
}

func checkPut(req *storeproto.PutShard) error {
	h := req.Head
	if err := h.Validate(); err != nil {
		return err
	}
	i := 0
	for _, d := range req.Data {
		for ; len(d) >= storeproto.BlockSize && i < len(h.Sums); d = d[storeproto.BlockSize:] {
			got := storeproto.BlockSum(codec.CRC(d[:storeproto.BlockSize]), h.Segment, h.Index, uint16(i))
			if got != h.Sums[i] {
				return &errs.Corrupt{Place: "shard to put", Offset: int64(i) * storeproto.BlockSize, What: "block sum", Want: uint64(h.Sums[i]), Got: uint64(got)}
			}
			i++
		}
		if len(d) != 0 {
			return fmt.Errorf("put shard of %s with data beyond its blocks: %w", h.Segment, errs.ErrInvalid)
		}
	}
	if i != int(h.Blocks) {
		return fmt.Errorf("put shard of %s with %d blocks of %d: %w", h.Segment, i, h.Blocks, errs.ErrInvalid)
	}
	return nil
}

// put writes the data and sends the rows through the queue.
func (s *Store) put(q *putting) {
	there, err := s.alreadyThere(q)
	if there || err != nil {
		s.finishPut(q, err)
		return
	}
	h := q.req.Head
	q.row.head = *h
	q.row.head.Entries, q.row.head.Sums = nil, nil
	q.row.place, err = s.allocate(int64(h.Blocks)*storeproto.BlockSize, q.req.Room)
	if err != nil {
		s.finishPut(q, fmt.Errorf("put shard of %s: %w", h.Segment, err))
		return
	}
	q.entries, q.sums = encodeEntries(h.Entries), encodeSums(h.Sums)
	q.cached = &cachedShard{name: q.name, volume: h.Volume, place: q.row.place, sums: append([]uint32(nil), h.Sums...)}
	if err := s.writePlace(q.row.place, q.req.Data); err != nil {
		err = fmt.Errorf("put shard of %s: %w", h.Segment, err)
		s.die(err)
		s.finishPut(q, fmt.Errorf("%v: %w", err, errs.ErrUnavailable))
		return
	}
	ctl := &core.Control{Shard: q, Done: func(c *core.Control) { s.committedPut(q, c.Err) }}
	s.mu.Lock()
	s.mu.core.CommitShard(h, q.req.Epoch, ctl)
	s.leave()
}

// alreadyThere tells whether the same shard is there: harmless if it is the
// same, else ErrConflict.
func (s *Store) alreadyThere(q *putting) (bool, error) {
	if s.Err() != nil {
		return false, fmt.Errorf("store %s has died: %w", s.ident.ID, errs.ErrUnavailable)
	}
	row, _, err := s.findShard(q.name)
	if errors.Is(err, errs.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		err = s.fillHead(&row.head, q.name)
	}
	if err != nil {
		return false, err
	}
	if !row.head.Equal(q.req.Head) {
		return false, fmt.Errorf("put shard %d of %s %s again with other content: %w", q.name.index, q.name.segment, q.name.generation, errs.ErrConflict)
	}
	return true, nil
}

// committedPut runs when the rows are durable, or refused.
func (s *Store) committedPut(q *putting, err error) {
	if err == nil {
		s.mu.Lock()
		s.addUseLocked(&q.row, 1)
		s.mu.Unlock()
		s.count.puts.Add(1)
		s.count.putBytes.Add(int64(q.row.head.Blocks) * storeproto.BlockSize)
	} else if s.Err() == nil && !errors.Is(err, errs.ErrUnavailable) {
		s.ext.alloc.Free(q.row.place) // refused: no row was written
	}
	s.finishPut(q, err)
}

// finishPut answers, and lets those who put the same shard try.
func (s *Store) finishPut(q *putting, err error) {
	p := &s.puts
	p.mu.Lock()
	delete(p.mu.byName, q.name)
	p.mu.n--
	p.mu.Unlock()
	s.mu.Lock()
	if s.mu.closing {
		s.wake.Broadcast()
	}
	s.mu.Unlock()
	q.req.Err = err
	q.req.Done(q.req)
	for _, w := range q.waiters {
		s.PutShard(w)
	}
}

// writePlace writes data over a place and syncs it, together with others.
func (s *Store) writePlace(p extent.Place, data [][]byte) error {
	off := int64(0)
	var bounce []*buf.Buffer
	defer func() {
		for _, b := range bounce {
			b.Release()
		}
	}()
	var pieces [][]byte
	for _, d := range data {
		if len(d) > 0 && !vfs.Aligned(d) {
			b := buf.Get(len(d))
			copy(b.Bytes(), d)
			bounce = append(bounce, b)
			d = b.Bytes()
		}
		if len(d) > 0 {
			pieces = append(pieces, d)
		}
	}
	for len(pieces) > 0 {
		file, at, room := p.At(off)
		var run [][]byte
		n := int64(0)
		for len(pieces) > 0 && n < room {
			d := pieces[0]
			if n+int64(len(d)) > room {
				pieces[0] = d[room-n:]
				d = d[:room-n]
			} else {
				pieces = pieces[1:]
			}
			run = append(run, d)
			n += int64(len(d))
		}
		if _, err := s.ext.file(file).WritevAt(run, at); err != nil {
			return fmt.Errorf("write extent: %w", err)
		}
		off += n
	}
	synced := make(map[uint32]bool, 1)
	for _, r := range p {
		if !synced[r.File] {
			synced[r.File] = true
			if err := s.ext.sync(r.File); err != nil {
				return fmt.Errorf("sync extent: %w", err)
			}
		}
	}
	return nil
}

// DeleteShards is part of storeproto.Store.
//
// Order: tombstones, through the queue, synced; the shards' rows deleted, synced;
// reads under way end; the room is free. A crash in between is finished by the
// next open.
func (s *Store) DeleteShards(ctx context.Context, d storeproto.DeleteShards) error {
	ctl, err := s.control(ctx, "delete shards", func(ctl *core.Control) { s.mu.core.DeleteShards(d, ctl) })
	if err != nil {
		return err
	}
	var doomed []shardName
	for _, t := range ctl.Tombstones {
		err := s.eachShard(t.Segment, func(n shardName, r shardRow) {
			if r.head.Volume == t.Volume && !t.Generation.Less(n.generation) {
				doomed = append(doomed, n)
			}
		})
		if err != nil {
			return fmt.Errorf("delete shards of %s: %w", t.Segment, err)
		}
	}
	return s.deleteShards(doomed)
}

// deleteBatch bounds what one index batch deletes.
const deleteBatch = 256

// deleteShards deletes shards for which no put can be committed any more. A shard may be named
// more than once: of two generations of a segment that are deleted together both cover the older one.
func (s *Store) deleteShards(doomed []shardName) error {
	s.deleting.Lock()
	defer s.deleting.Unlock()
	for len(doomed) > 0 {
		n := min(len(doomed), deleteBatch)
		if err := s.deleteSome(doomed[:n]); err != nil {
			return err
		}
		doomed = doomed[n:]
	}
	return nil
}

func (s *Store) deleteSome(doomed []shardName) error {
	if err := s.index.enter(); err != nil {
		return err
	}
	defer s.index.leave()
	b := s.index.newBatch()
	var rows []shardRow
	seen := make(map[shardName]bool, len(doomed))
	for _, asked := range doomed {
		row, n, err := s.findShard(asked) // without a generation it is the newest
		if errors.Is(err, errs.ErrNotFound) || err == nil && seen[n] {
			continue // deleted by another call, or named twice
		}
		seen[n] = true
		if err == nil {
			err = errors.Join(b.Delete(n.key(keyShard), nil), b.Delete(n.key(keyEntries), nil),
				b.Delete(n.key(keySums), nil), b.Delete(ownerKey(row.head.Volume, n), nil))
		}
		if err != nil {
			return errors.Join(err, b.Close())
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return b.Close()
	}
	if err := s.index.commit(b); err != nil {
		s.die(err)
		return fmt.Errorf("delete shards: %v: %w", err, errs.ErrUnavailable)
	}
	// Every read that found them in the index has ended when the lock is had, and
	// what it left in the cache goes before the next one looks.
	s.reads.inUse.Lock()
	for i := range rows {
		h := &rows[i].head
		s.reads.cache.remove(shardName{h.Segment, h.Generation, h.Index})
	}
	s.reads.inUse.Unlock()
	var empty []uint32
	s.mu.Lock()
	for i := range rows {
		s.addUseLocked(&rows[i], -1)
	}
	s.mu.Unlock()
	for i := range rows {
		empty = append(empty, s.ext.alloc.Free(rows[i].place)...)
	}
	s.count.deletes.Add(int64(len(rows)))
	if len(empty) > 0 {
		if err := s.ext.shrink(empty); err != nil {
			s.log.Warn("could not give an extent file back", "store", s.ident.ID.String(), "err", err)
		}
	}
	return nil
}

// openExtents opens the extent files and takes in every shard's place. Shards
// that a tombstone covers are what a deletion left when it was cut off.
func (s *Store) openExtents() error {
	var err error
	if s.ext, err = openExtents(s.fs, s.dir, s.ident.ExtentBytes); err != nil {
		return err
	}
	var doomed []shardName
	defer s.tellHurt()
	err = s.index.scan([]byte{keyShard}, func(key []byte, value func() ([]byte, error)) error {
		n, ok := decodeShardName(key[1:])
		if !ok {
			return badKey("shard", key)
		}
		v, err := value()
		if err != nil {
			return err
		}
		row, err := decodeShardRow(n, v)
		if err != nil {
			return err
		}
		hurt, err := s.ext.restore(row.place)
		if err != nil {
			return err
		}
		if hurt {
			s.wrong.add(n)
		}
		if err := s.ext.alloc.Mark(row.place); err != nil {
			return fmt.Errorf("shard %d of %s %s: %w", n.index, n.segment, n.generation, err)
		}
		s.addUseLocked(&row, 1)
		if s.mu.core.Deleted(row.head.Volume, n.segment, n.generation) {
			doomed = append(doomed, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.deleteShards(doomed)
}

// shardUse is what a volume has of the store.
type shardUse struct {
	shards int
	units  int64
}

// addUseLocked counts a shard that came (1) or went (-1).
func (s *Store) addUseLocked(row *shardRow, n int) {
	v, pg, units := row.head.Volume, row.head.Segment.PG(), int64(n)*row.place.Units()
	if s.mu.groups[pg] += units; s.mu.groups[pg] == 0 {
		delete(s.mu.groups, pg)
	}
	u := s.mu.volumes[v]
	u.shards += n
	u.units += units
	if u == (shardUse{}) {
		delete(s.mu.volumes, v)
		return
	}
	s.mu.volumes[v] = u
}
