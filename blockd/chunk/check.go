package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/telemetry"
	"ashlar.dev/pkg/vfs"
)

// Report is what Check found in a store's folder.
type Report struct {
	Identity   Identity
	Starts     uint32 // of the store since it was formatted
	Volumes    int
	Streams    int
	Records    int // batches that are not released, of journals and meta streams
	Tombstones int
	Shards     int
	ShardBytes int64 // of blocks
	Care       storeproto.Care
	// Problems is what is not as it should be, at most ProblemsShown of ProblemsAll.
	Problems    []Problem
	ProblemsAll int
}

// Problem is one thing that is wrong.
type Problem struct {
	Part string // "index", "log", "shard", "extent"
	What string
}

// ProblemsShown bounds the problems that a report lists.
const ProblemsShown = 1000

func (r *Report) add(part, format string, args ...any) {
	if r.ProblemsAll++; len(r.Problems) < ProblemsShown {
		r.Problems = append(r.Problems, Problem{part, fmt.Sprintf(format, args...)})
	}
}

// Check reads everything in a store's folder and writes nothing, not a byte, whatever it
// finds: index, journal log, every shard's head and blocks. It refuses a store that a
// process has open (errs.ErrConflict). An error says that it could not look; what is wrong
// stands in the report.
func Check(ctx context.Context, dir string, fs vfs.FS) (*Report, error) {
	if fs == nil {
		fs = vfs.OS
	}
	fs = vfs.ReadOnly(fs)
	r := &Report{}
	var err error
	if r.Identity, err = ReadIdentity(fs, dir); err != nil {
		return nil, fmt.Errorf("check store %s: %w", dir, err)
	}
	lock, err := fs.LockFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("check store %s, which a running blockd has open or had no lock file: %v: %w", dir, err, errs.ErrConflict)
	}
	c := &checker{r: r, s: &Store{dir: dir, fs: fs, ident: r.Identity}}
	return r, errors.Join(c.run(ctx), c.close(), lock.Close())
}

// checker is a store of which only what reads is used.
type checker struct {
	r     *Report
	s     *Store
	files []io.Closer
}

func (c *checker) run(ctx context.Context) error {
	if err := c.openIndex(); err != nil {
		c.r.add("index", "%v", err)
		return nil // without it nothing else has a meaning
	}
	if v, err := c.s.index.get([]byte{keyLife}); err == nil {
		c.r.Starts, _ = decodeNumber(v)
	}
	var err error
	if c.r.Care, err = c.s.Care(); err != nil {
		c.r.add("index", "care: %v", err)
	}
	found, err := c.s.index.load()
	if err != nil {
		c.r.add("index", "%v", err)
	} else {
		c.records(found)
	}
	if err := c.openExtents(); err != nil {
		return err
	}
	return c.shards(ctx)
}

func (c *checker) close() error {
	var all []error
	for i := len(c.files) - 1; i >= 0; i-- {
		all = append(all, c.files[i].Close())
	}
	return errors.Join(all...)
}

func (c *checker) openIndex() error {
	o := indexOptions(c.s.fs)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	o.Logger = telemetry.Pebble(slog.New(slog.DiscardHandler), func(string) {})
	db, err := pebble.Open(filepath.Join(c.s.dir, "index"), o)
	if err != nil {
		return err
	}
	c.s.index = &index{db: db}
	c.files = append(c.files, db)
	return nil
}

// records scans the log as an open does, and reads every batch of the meta streams.
func (c *checker) records(found *loaded) {
	k := core.New(core.Config{Store: c.s.ident.ID, Incarnation: c.s.ident.Incarnation})
	found.restore(k)
	c.r.Streams, c.r.Tombstones = len(found.rows), len(found.tombstones)
	o := logOptions(c.s.dir, c.s.fs, &c.s.ident)
	journals := make(map[storeproto.Stream]log.Origin)
	for _, row := range found.rows {
		if row.Stream.Kind == storeproto.Journal {
			journals[row.Stream] = log.Origin{Base: row.Base, Since: row.Mark}
		}
	}
	jlog, scan, err := log.Open(o, journals)
	if err != nil {
		c.r.add("log", "%v", err)
		return
	}
	c.files = append(c.files, jlog)
	for _, hole := range scan.Holes {
		c.r.add("log", "synced records are lost: %s", hole)
	}
	for _, row := range found.rows {
		r := core.Recovered{Row: row, Batches: found.metas[row.Stream]}
		if got := scan.Streams[row.Stream]; got != nil {
			r.Batches, r.Tail, r.TailLost = got.Batches, got.Tail, got.TailLost
			r.Row.Released = max(row.Released, got.Released)
		}
		if c.r.Records += len(r.Batches); k.RestoreStream(r) || row.LossyTo > row.Released {
			c.r.add("log", "stream %s %s of %s has lost records", row.Stream.Ensemble, row.Stream.Kind, row.Stream.Volume)
		}
		for _, b := range found.metas[row.Stream] {
			if _, err := c.s.index.metaBatch(row.Stream, b); err != nil {
				c.r.add("index", "meta batch at %d of %s: %v", b.First, row.Stream.Volume, err)
			}
		}
	}
}

// openExtents opens the extent files as they are.
func (c *checker) openExtents() error {
	x := &extents{fs: c.s.fs, dir: filepath.Join(c.s.dir, "extents"), bytes: c.s.ident.ExtentBytes,
		alloc: extent.NewAllocator(uint32(c.s.ident.ExtentBytes / extent.Unit))}
	x.files.Store(new([]extentFile))
	c.s.ext = x
	names, err := c.s.fs.List(x.dir)
	if err != nil {
		c.r.add("extent", "%v", err)
		return nil
	}
	for _, name := range names {
		num, ok := strings.CutSuffix(name, ".ext")
		n, err := strconv.ParseUint(num, 10, 32)
		if !ok || err != nil || extentName(uint32(n)) != name {
			c.r.add("extent", "%s is no file of a store", name)
			continue
		}
		f, err := c.s.fs.OpenDirect(filepath.Join(x.dir, name), false)
		if err != nil {
			return fmt.Errorf("check extents: %w", err)
		}
		c.files = append(c.files, f)
		if size, err := f.Size(); err != nil || size != x.bytes {
			c.r.add("extent", "%s has %d bytes, want %d", name, size, x.bytes)
		}
		x.set(uint32(n), f)
		x.alloc.AddFile(uint32(n))
	}
	return nil
}

// shards checks every row of the index and the blocks that it names.
func (c *checker) shards(ctx context.Context) error {
	b := buf.Get(verifyBlocks * storeproto.BlockSize)
	defer b.Release()
	volumes := make(map[[16]byte]bool)
	err := c.s.index.scan([]byte{keyShard}, func(key []byte, value func() ([]byte, error)) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, ok := decodeShardName(key[1:])
		v, err := value()
		if !ok || err != nil {
			c.r.add("index", "a row of a shard cannot be read: %v", err)
			return nil
		}
		row, err := decodeShardRow(n, v)
		if err != nil {
			c.r.add("index", "shard %d of %s %s: %v", n.index, n.segment, n.generation, err)
			return nil
		}
		volumes[row.head.Volume] = true
		c.r.Shards++
		c.r.ShardBytes += int64(row.head.Blocks) * storeproto.BlockSize
		if err := c.shard(n, row, b.Bytes()); err != nil {
			c.r.add("shard", "shard %d of %s %s of %s: %v", n.index, n.segment, n.generation, row.head.Volume, err)
		}
		return nil
	})
	c.r.Volumes = len(volumes)
	if err != nil && ctx.Err() == nil {
		c.r.add("index", "%v", err)
		return nil
	}
	return err
}

func (c *checker) shard(n shardName, row shardRow, b []byte) error {
	for _, run := range row.place {
		if files := *c.s.ext.files.Load(); int(run.File) >= len(files) || files[run.File].File == nil {
			return fmt.Errorf("its file %s is missing: %w", extentName(run.File), errs.ErrCorrupt)
		}
	}
	if err := c.s.ext.alloc.Mark(row.place); err != nil {
		return err
	}
	if _, err := c.s.index.get(ownerKey(row.head.Volume, n)); err != nil {
		return fmt.Errorf("it is not in the list of its volume: %w", err)
	}
	for first, blocks := uint16(0), uint16(1); first < blocks; first += verifyBlocks {
		var err error
		if blocks, err = c.s.checkPiece(n, first, b); err != nil {
			return err
		}
	}
	return nil
}
