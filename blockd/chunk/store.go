package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/vfs"
	"ashlar.dev/pkg/vfs/aio"
)

// Options open a store. Zero values are sane.
type Options struct {
	FS     vfs.FS       // vfs.OS if nil
	Clock  clock.Clock  // clock.System if nil
	Logger *slog.Logger // silent if nil
	// CapacityBytes bounds what the store takes of its disk, log and index
	// included. Zero: the whole file system.
	CapacityBytes int64
	// LeaseTerm is the length of a grant; core.LeaseTermDefault if zero.
	LeaseTerm time.Duration
	// SyncDelay makes every sync take longer: a debug setting, to see on a fast
	// disk what a slow one would do.
	SyncDelay time.Duration
	// Readers is how many shard reads run at once; more wait. 16 if zero.
	Readers int
	// Queue, if set, takes reads of one piece whose sums are in memory: many of them then
	// share a system call. Stores of a process share one; it outlives them.
	Queue *aio.Queue
	// Putters is how many shards are written at once; more wait. 4 if zero.
	Putters int
	// SumCacheBytes bounds the cache of block sums, 1/1000 of the data it covers;
	// 16 MiB if zero.
	SumCacheBytes int64
	// IndexCacheBytes bounds the index's block cache; 16 MiB if zero.
	IndexCacheBytes int64
	// StreamsMax bounds the streams; core.StreamsMaxDefault if zero.
	StreamsMax int
}

// EnsureDefaults fills what is zero.
func (o *Options) EnsureDefaults() {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Readers == 0 {
		o.Readers = 16
	}
	if o.Putters == 0 {
		o.Putters = 4
	}
	if o.SumCacheBytes == 0 {
		o.SumCacheBytes = 16 << 20
	}
	if o.IndexCacheBytes == 0 {
		o.IndexCacheBytes = 16 << 20
	}
	if o.LeaseTerm == 0 {
		o.LeaseTerm = core.LeaseTermDefault
	}
}

// Store is an open store. See the package comment.
type Store struct {
	dir   string
	ident Identity
	opts  Options
	fs    vfs.FS
	log   *slog.Logger
	clock clock.Clock
	lock  io.Closer
	life  uint32

	jlog  *log.Log
	index *index
	ext   *extents
	reads reads
	puts  puts
	group *lifecycle.Group
	count counters
	wrong suspects

	// deleting is held while shards are deleted, across I/O: two deletions of one
	// shard must not both free its room. Lock order: deleting, then mu.
	deleting sync.Mutex

	mu struct {
		sync.Mutex
		core       *core.Core
		delivering bool
		replies    []core.Reply
		freed      []core.Freed
		timer      clock.Timer
		due        time.Duration
		closing    bool
		writing    bool // the writer has a group
		volumes    map[id.Volume]shardUse
		groups     map[id.PG]int64 // units of shards
	}
	wake *sync.Cond // on mu: the queue has something, or the end has come

	death struct {
		once sync.Once
		c    chan struct{}
		err  atomic.Pointer[error]
	}
	closeOnce sync.Once
	closeErr  error
}

var _ storeproto.Store = (*Store)(nil)

// Open opens the store in dir. It takes the directory's lock, which a process
// that died has given back. What was answered before is there again; what was
// not may be there or not; what the log lost is told in the logger's Error and in
// every fence.
func Open(dir string, o Options) (*Store, error) {
	o.EnsureDefaults()
	s := &Store{dir: dir, opts: o, log: o.Logger, clock: o.Clock}
	s.fs = vfs.Count(vfs.Delay(o.FS, o.Clock, o.SyncDelay), &s.count.fs)
	s.wake = sync.NewCond(&s.mu)
	s.death.c = make(chan struct{})
	s.count.wantFile = make(chan struct{}, 1)
	s.mu.volumes, s.mu.groups = make(map[id.Volume]shardUse), make(map[id.PG]int64)
	s.wrong.init()
	lock, err := s.fs.LockFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("lock store %s: %w", dir, err)
	}
	s.lock = lock
	if err := s.open(); err != nil {
		s.closeParts()
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s.start()
	return s, nil
}

func (s *Store) open() (err error) {
	if s.ident, err = ReadIdentity(s.fs, s.dir); err != nil {
		return err
	}
	if s.index, err = openIndex(s); err != nil {
		return err
	}
	if s.life, err = s.index.nextLife(); err != nil {
		return err
	}
	found, err := s.index.load()
	if err != nil {
		return err
	}
	s.mu.core = core.New(core.Config{
		Store: s.ident.ID, Incarnation: s.ident.Incarnation, Life: s.life, Started: s.clock.Now(),
		LeaseTerm:       s.opts.LeaseTerm,
		JournalBytesMax: log.LiveBytesMax(s.ident.LogFileBytes, s.ident.LogFilesMax),
		BatchBytesMax:   log.BatchBytesMax(s.ident.LogFileBytes),
		StreamsMax:      s.opts.StreamsMax,
	})
	if err := s.recover(found); err != nil {
		return err
	}
	s.reads.init(s)
	s.puts.init(s)
	if err := s.openExtents(); err != nil {
		return err
	}
	if err := s.index.pruneTombstones(found); err != nil {
		return err
	}
	s.checkSpace()
	return nil
}

// recover restores the core from the index and the log.
func (s *Store) recover(found *loaded) error {
	c := s.mu.core
	found.restore(c)
	o := logOptions(s.dir, s.fs, &s.ident)
	o.Table, o.Carry, o.Moved = s.logTable, s.liveIn, s.moved
	journals := make(map[storeproto.Stream]log.Origin)
	for _, row := range found.rows {
		if row.Stream.Kind == storeproto.Journal {
			journals[row.Stream] = log.Origin{Base: row.Base, Since: row.Mark}
		}
	}
	jlog, scan, err := log.Open(o, journals)
	if err != nil {
		return err
	}
	s.jlog = jlog
	for _, hole := range scan.Holes {
		s.log.Error("synced log records are lost", "store", s.ident.ID.String(), "what", hole)
	}
	var changed []core.Row
	for _, row := range found.rows {
		r := core.Recovered{Row: row, Batches: found.metas[row.Stream]}
		if got := scan.Streams[row.Stream]; got != nil {
			r.Batches, r.Tail, r.TailLost = got.Batches, got.Tail, got.TailLost
			r.Row.Released = max(row.Released, got.Released)
		}
		if c.RestoreStream(r) {
			changed = append(changed, c.Stream(row.Stream).Row())
			s.log.Error("a stream has lost records", "store", s.ident.ID.String(), "volume", row.Stream.Volume.String(),
				"ensemble", row.Stream.Ensemble.String(), "kind", row.Stream.Kind.String())
		}
	}
	c.Restored()
	if err := s.index.saveRecovered(changed, c, found); err != nil {
		return err
	}
	return s.jlog.Start(func(f func(core.Batch)) {
		c.Streams(func(st *core.Stream) {
			if st.Row().Stream.Kind == storeproto.Journal {
				st.Batches(0, func(b core.Batch) bool { f(b); return true })
			}
		})
	})
}

func (s *Store) start() {
	s.group = lifecycle.NewGroup(context.Background())
	s.group.Go("store writer", s.writer)
	s.group.Go("store keeper", s.keeper)
	s.group.Go("store undertaker", s.undertaker)
	s.reads.start(s)
	s.puts.start(s)
}

// ID is the store's identity.
func (s *Store) ID() id.Store { return s.ident.ID }

// Incarnation is the incarnation it was formatted with.
func (s *Store) Incarnation() id.Incarnation { return s.ident.Incarnation }

// Done is closed when the store has died.
func (s *Store) Done() <-chan struct{} { return s.death.c }

// Err is why the store has died; nil while it lives.
func (s *Store) Err() error {
	if e := s.death.err.Load(); e != nil {
		return *e
	}
	return nil
}

// die ends the store for good; the undertaker does the rest. Any goroutine may
// call it, whatever it holds.
func (s *Store) die(err error) {
	s.death.once.Do(func() {
		s.death.err.Store(&err)
		close(s.death.c)
	})
}

// undertaker answers what is under way when the store dies.
func (s *Store) undertaker(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.death.c:
	}
	s.log.Error("store has died", "store", s.ident.ID.String(), "err", s.Err())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Kill(s.Err())
	s.wake.Broadcast()
	s.deliverLocked()
	return nil
}

// Close ends the store in order: what was accepted is carried out, what comes
// later is answered with errs.ErrUnavailable. It waits. The second call does nothing.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.mu.closing = true
		for s.Err() == nil && (s.mu.core.Waiting() || s.mu.writing || s.puts.busy() > 0) {
			s.wake.Wait()
		}
		s.mu.core.Kill(nil)
		s.wake.Broadcast()
		s.deliverLocked()
		if s.mu.timer != nil {
			s.mu.timer.Stop()
		}
		s.mu.Unlock()
		s.reads.stop()
		s.puts.stop()
		err := s.group.Close()
		s.closeErr = errors.Join(err, s.closeParts())
	})
	return s.closeErr
}

func (s *Store) closeParts() error {
	var all []error
	if s.index != nil {
		all = append(all, s.index.close()) // waits for the calls that are under way, which use the other parts
	}
	if s.ext != nil {
		all = append(all, s.ext.close())
	}
	if s.jlog != nil {
		all = append(all, s.jlog.Close())
	}
	if s.lock != nil {
		all = append(all, s.lock.Close())
	}
	return errors.Join(all...)
}

// enter locks for a request; false: it is refused with the error.
func (s *Store) enter() error {
	s.mu.Lock()
	if s.mu.closing {
		s.mu.Unlock()
		return fmt.Errorf("store %s is closed: %w", s.ident.ID, errs.ErrUnavailable)
	}
	return nil
}

// alive is nil while the store serves: for calls that need no step of the core.
func (s *Store) alive() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.mu.Unlock()
	return s.mu.core.Dead()
}

// leave unlocks after a step of the core: the writer is woken if there is
// something to write, and what is answered already is delivered.
func (s *Store) leave() {
	if s.mu.core.Waiting() {
		s.wake.Broadcast()
	}
	s.deliverLocked()
	s.scheduleLocked()
	s.mu.Unlock()
}

// deliverLocked delivers answers, in order: one goroutine at a time, and what
// comes up meanwhile is its as well. Done is never called with mu held.
func (s *Store) deliverLocked() {
	if s.mu.delivering {
		return
	}
	s.mu.delivering = true
	for {
		s.mu.replies = s.mu.core.Replies(s.mu.replies[:0])
		if len(s.mu.replies) == 0 {
			break
		}
		replies := s.mu.replies
		s.mu.Unlock()
		for _, r := range replies {
			r.Deliver()
		}
		s.mu.Lock()
	}
	s.mu.delivering = false
}

// scheduleLocked sees to it that tick runs when the core next wants it.
func (s *Store) scheduleLocked() {
	if !s.mu.core.TimerChanged() {
		return
	}
	due, ok := s.mu.core.NextTick()
	if !ok || s.mu.timer != nil && s.mu.due <= due {
		return
	}
	if s.mu.timer != nil {
		s.mu.timer.Stop()
	}
	s.mu.due = due
	s.mu.timer = s.clock.AfterFunc(due-s.clock.Now(), s.tick)
}

func (s *Store) tick() {
	s.mu.Lock()
	s.mu.timer = nil
	s.mu.core.Tick(s.clock.Now())
	s.leave()
}

// index and log ask for what the core knows:

func (s *Store) logTable() []log.StreamRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []log.StreamRow
	s.mu.core.Streams(func(st *core.Stream) {
		if row := st.Row(); row.Stream.Kind == storeproto.Journal {
			rows = append(rows, log.StreamRow{Stream: row.Stream, Released: row.Released, Tail: st.Durable()})
		}
	})
	return rows
}

func (s *Store) liveIn(slot uint32, f func(storeproto.Stream, core.Batch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Streams(func(st *core.Stream) {
		if row := st.Row(); row.Stream.Kind == storeproto.Journal {
			st.Batches(0, func(b core.Batch) bool {
				if b.Pos.File == slot {
					f(row.Stream, b)
				}
				return true
			})
		}
	})
}

func (s *Store) moved(name storeproto.Stream, b core.Batch, to core.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.core.Moved(name, b.First, b.Pos, to)
}
