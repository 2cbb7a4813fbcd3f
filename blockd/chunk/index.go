package chunk

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/telemetry"
	"ashlar.dev/pkg/vfs"
)

// index is the store's Pebble. Every write goes through one goroutine of its own:
// what Pebble cannot survive ends in its logger, which parks the goroutine that
// asked, and that must be nobody else's.
type index struct {
	db      *pebble.DB
	cache   *pebble.Cache
	dead    <-chan struct{}
	err     func() error
	commits chan *commit
	stopped chan struct{}
	parked  atomic.Int64 // calls that never return; see park

	mu struct {
		sync.Mutex
		forgotten [][]byte // keys of released meta batches, to delete with the next batch
		users     int      // calls under way, see enter
		closed    bool
		idle      sync.Cond // closed, and no users any more
	}
}

// enter keeps Pebble open until leave: a store may close while others serve and its callers
// live on. It is refused once the index closes, also to who is inside already.
func (x *index) enter() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.closed {
		return fmt.Errorf("index is closed: %w", errs.ErrUnavailable)
	}
	x.mu.users++
	return nil
}

func (x *index) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.mu.users--; x.mu.users == 0 && x.mu.closed {
		x.mu.idle.Broadcast()
	}
}

// shut refuses newcomers and waits for the calls under way.
func (x *index) shut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.mu.closed = true
	x.mu.idle.L = &x.mu.Mutex
	for x.mu.users > 0 {
		x.mu.idle.Wait()
	}
}

type commit struct {
	batch *pebble.Batch
	opts  *pebble.WriteOptions
	err   error
	done  chan struct{}
}

// forgottenMax bounds the keys that wait for a batch; the rest goes at the next open.
const forgottenMax = 1 << 16

// At memTables of memTableBytes that wait to be written commits wait; one more is being filled.
const (
	memTableBytes = 16 << 20
	memTables     = 2
)

func indexOptions(fs vfs.FS) *pebble.Options {
	return &pebble.Options{
		FS:                          namesFirst(fs),
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                256,
		BytesPerSync:                512 << 10,
	}
}

// namesFirst syncs a directory before a marker of Pebble's is made in it. A marker names the manifest in force, and both names
// become durable by one sync after it: of names that were not synced a power loss may keep any, so also the marker's alone.
func namesFirst(fs vfs.FS) vfs.FS {
	return vfs.WithHooks(fs, vfs.Hooks{Before: func(op vfs.Op) error {
		if op.Kind != vfs.OpCreate || !strings.HasPrefix(filepath.Base(op.Path), "marker.") {
			return nil
		}
		dir, err := fs.OpenDir(filepath.Dir(op.Path))
		if err != nil {
			return fmt.Errorf("sync what a marker will name: %w", err)
		}
		return errors.Join(dir.Sync(), dir.Close())
	}})
}

// formatIndex makes an empty index, so that a store whose index is missing is
// told from a new one.
func formatIndex(dir string, fs vfs.FS) error {
	o := indexOptions(fs)
	o.Logger = telemetry.Pebble(slog.New(slog.DiscardHandler), func(string) {})
	db, err := pebble.Open(filepath.Join(dir, "index"), o)
	if err != nil {
		return fmt.Errorf("make index: %w", err)
	}
	err = db.Set([]byte{keyLife}, encodeNumber(0), pebble.Sync)
	return errors.Join(err, db.Close())
}

func openIndex(s *Store) (*index, error) {
	x := &index{dead: s.death.c, err: s.Err, commits: make(chan *commit), stopped: make(chan struct{})}
	o := indexOptions(vfs.WithHooks(s.fs, vfs.Hooks{Before: x.park, AfterSync: func(op vfs.Op, err error) error {
		if err != nil { // Pebble panics where it is that of a directory
			s.die(fmt.Errorf("index: %s: %w", op, err))
			return x.park(op)
		}
		return nil
	}}))
	o.ErrorIfNotExists = true
	x.cache = pebble.NewCache(s.opts.IndexCacheBytes)
	o.Cache = x.cache
	fatal := func(what string) { s.die(fmt.Errorf("index: %s", what)) }
	o.Logger = telemetry.Pebble(s.log, fatal)
	o.EventListener = &pebble.EventListener{BackgroundError: func(err error) {
		// A flush or compaction that failed may have failed at a sync.
		if !errors.Is(err, pebble.ErrCancelledCompaction) && !errors.Is(err, pebble.ErrClosed) {
			s.die(fmt.Errorf("index in the background: %w", err))
		}
	}}
	if err := x.orDead(func() (err error) {
		x.db, err = pebble.Open(filepath.Join(s.dir, "index"), o)
		return err
	}); err != nil {
		x.cache.Unref()
		return nil, fmt.Errorf("open index: %w", err)
	}
	go x.run()
	return x, nil
}

// orDead waits for the end of Pebble's opening or closing, or for the store's death: then that never ends.
func (x *index) orDead(do func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	select {
	case err := <-ended:
		return err
	case <-x.dead:
		return x.err()
	}
}

// park keeps whoever would change files of a dead index for ever: Pebble tries a flush that failed
// again at once, and again, as long as it is told that it failed.
func (x *index) park(op vfs.Op) error {
	select {
	case <-x.dead:
	default:
		return nil
	}
	if op.Kind != vfs.OpRead {
		x.parked.Add(1)
		select {}
	}
	return nil
}

// run carries out commits until close; it may be parked for ever by a fatal error.
func (x *index) run() {
	defer close(x.stopped)
	for {
		select {
		case c, more := <-x.commits:
			if !more {
				return
			}
			c.err = x.db.Apply(c.batch, c.opts)
			close(c.done)
		case <-x.dead:
			return
		}
	}
}

// close ends the index. A dead one is left as it is: its goroutines may be
// parked with its locks.
func (x *index) close() error {
	select {
	case <-x.dead:
		return nil
	default:
	}
	err := x.orDead(func() error {
		x.shut()
		close(x.commits)
		<-x.stopped
		return x.db.Close()
	})
	x.cache.Unref()
	return err
}

func (x *index) newBatch() *pebble.Batch {
	b := x.db.NewBatch()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, k := range x.mu.forgotten {
		_ = b.Delete(k, nil) // a batch in memory takes everything
	}
	x.mu.forgotten = x.mu.forgotten[:0]
	return b
}

// forgetMeta has a released meta batch deleted at the next occasion.
func (x *index) forgetMeta(s storeproto.Stream, first id.LSN) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.mu.forgotten) < forgottenMax {
		x.mu.forgotten = append(x.mu.forgotten, metaKey(s, first))
	}
}

// commitAsync hands a batch over; await its end.
func (x *index) commitAsync(b *pebble.Batch, o *pebble.WriteOptions) *commit {
	c := &commit{batch: b, opts: o, done: make(chan struct{})}
	select {
	case x.commits <- c:
	case <-x.dead:
	}
	return c
}

// await waits for a commit, or for the store's death.
func (x *index) await(c *commit) error {
	select {
	case <-c.done:
	case <-x.dead:
		return x.err()
	}
	if c.err != nil {
		return fmt.Errorf("commit to index: %w", c.err)
	}
	if err := c.batch.Close(); err != nil {
		return fmt.Errorf("close index batch: %w", err)
	}
	return nil
}

// commit makes a batch durable. An error is the store's death.
func (x *index) commit(b *pebble.Batch) error { return x.await(x.commitAsync(b, pebble.Sync)) }

// addOp puts into b what op changes in the index. logSeq is not above the log
// write that the op's group will get.
func (x *index) addOp(b *pebble.Batch, op *core.Op, logSeq uint64) (err error) {
	set := func(k, v []byte) {
		if err == nil {
			err = b.Set(k, v, nil)
		}
	}
	switch op.Kind {
	case core.OpAppend:
		return x.addAppend(b, op, logSeq)
	case core.OpFence:
		row := op.Fence.Row()
		set(volumeKey(keyFence, row.Volume), encodeFence(row))
	case core.OpDrop:
		for _, row := range op.Control.Dropped {
			set(streamKey(keyDropped, row.Stream), encodeEpoch(op.Control.DropEpoch))
			if err == nil {
				err = b.Delete(streamKey(keyStream, row.Stream), nil)
			}
			if err == nil && row.Stream.Kind == storeproto.Meta {
				lower, upper := keyRange(streamKey(keyMeta, row.Stream))
				err = b.DeleteRange(lower, upper, nil)
			}
		}
	case core.OpTombstones:
		for _, t := range op.Control.Tombstones {
			set(tombstoneKey(t.Volume, t.Segment), encodeTombstone(t))
		}
		for _, t := range op.Control.Pruned {
			if err == nil {
				err = b.Delete(tombstoneKey(t.Volume, t.Segment), nil)
			}
		}
	case core.OpPG:
		for _, v := range op.Control.PGs {
			set(pgKey(v.PG), encodeNumber(v.Version))
		}
	case core.OpShard:
		p := op.Control.Shard.(*putting)
		set(p.name.key(keyShard), p.row.encode())
		set(p.name.key(keyEntries), p.entries)
		set(p.name.key(keySums), p.sums)
		set(ownerKey(p.row.head.Volume, p.name), nil)
	}
	return err
}

func (x *index) addAppend(b *pebble.Batch, op *core.Op, logSeq uint64) error {
	a := op.Append
	row := op.Stream.Row()
	if a.Stream.Kind == storeproto.Meta {
		key := metaKey(a.Stream, a.Batch.First)
		d := b.SetDeferred(len(key), storeproto.HeaderSize+a.Batch.BodySize())
		copy(d.Key, key)
		a.EncodeHeader(d.Value)
		v := d.Value[storeproto.HeaderSize:]
		v = v[copy(v, a.Batch.Meta):]
		v = v[len(storeproto.AppendSums(v[:0], a.Batch.Sums)):]
		for _, p := range a.Batch.Payload {
			v = v[copy(v, p):]
		}
		if err := d.Finish(); err != nil {
			return err
		}
		if a.Released > row.Released || op.Creates {
			row.Released = max(row.Released, a.Released)
			return b.Set(streamKey(keyStream, a.Stream), encodeRow(row), nil)
		}
		return nil
	}
	if op.Creates {
		row.Mark = logSeq
		return b.Set(streamKey(keyStream, a.Stream), encodeRow(row), nil)
	}
	return nil
}

// get gives a copy of a value; ErrNotFound if there is none.
func (x *index) get(key []byte) ([]byte, error) {
	if err := x.enter(); err != nil {
		return nil, err
	}
	defer x.leave()
	v, closer, err := x.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, errs.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	out := append([]byte(nil), v...)
	if err := closer.Close(); err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return out, nil
}

// scan calls f for every pair whose key has the prefix, in order, until f gives
// an error. Key and value are valid during the call only.
func (x *index) scan(prefix []byte, f func(key []byte, value func() ([]byte, error)) error) error {
	return x.scanFrom(prefix, prefix, f)
}

// scanFrom is scan from a key on.
func (x *index) scanFrom(prefix, lower []byte, f func(key []byte, value func() ([]byte, error)) error) error {
	if err := x.enter(); err != nil {
		return err
	}
	defer x.leave()
	_, upper := keyRange(prefix)
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("scan index: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := f(it.Key(), it.ValueAndErr); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("scan index: %w", err)
	}
	return nil
}

// metaBatch reads a meta batch. Its memory is the caller's.
func (x *index) metaBatch(s storeproto.Stream, b core.Batch) (*storeproto.Batch, error) {
	v, err := x.get(metaKey(s, b.First))
	if err != nil {
		return nil, err
	}
	got, err := decodeMetaBatch(s, v)
	if err != nil {
		return nil, err
	}
	if got.Sum != b.Sum {
		return nil, &errs.Corrupt{Place: "meta stream", Offset: -1, What: "batch sum", Want: uint64(b.Sum), Got: uint64(got.Sum)}
	}
	return got, nil
}

// decodeMetaBatch reads the value of a meta batch; the result keeps v.
func decodeMetaBatch(s storeproto.Stream, v []byte) (*storeproto.Batch, error) {
	h, err := storeproto.DecodeHeader("meta stream", v)
	if err != nil {
		return nil, err
	}
	body := v[storeproto.HeaderSize:]
	if h.Stream != s || len(body) != h.BodySize() {
		return nil, &errs.Corrupt{Place: "meta stream", Offset: -1, What: "batch bytes", Want: uint64(h.BodySize()), Got: uint64(len(body))}
	}
	b := &storeproto.Batch{Epoch: h.BatchEpoch, First: h.First, Count: h.Count, Meta: body[:h.MetaLen:h.MetaLen]}
	b.Sums = storeproto.DecodeSums(nil, body[h.MetaLen:h.MetaLen+4*h.Blocks])
	if p := body[h.MetaLen+4*h.Blocks:]; len(p) > 0 {
		b.Payload = [][]byte{p}
	}
	b.Seal()
	if b.Sum != h.Sum {
		return nil, &errs.Corrupt{Place: "meta stream", Offset: -1, What: "batch sum", Want: uint64(h.Sum), Got: uint64(b.Sum)}
	}
	return b, b.Verify("meta stream")
}
