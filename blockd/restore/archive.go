package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/record"
)

// Limits of the process.
const (
	// fetchesMax bounds the requests under way that somebody waits for; beyond it they wait.
	fetchesMax = 16
	// fetchPatience bounds one of them, with what the store itself tries again.
	fetchPatience = 20 * time.Second
	// cacheBytes is the default of Config.CacheBytes.
	cacheBytes = 32 << 20
	// partsMax bounds the heads of segments kept, some 100 KiB each.
	partsMax = 64
)

// Config has what an Archive needs.
type Config struct {
	Store      objectstore.Store
	Secret     *archive.Secret // nil: what is not encrypted alone can be read
	CacheBytes int64           // of blocks kept; 0: 32 MiB
}

// Archive is where a process finds the archives of its volumes.
type Archive struct {
	cfg    Config
	groups *cache[groupKey, *group]
	parts  *cache[partKey, *archive.Part]
	turns  chan struct{}
}

// partKey names a segment by the allotment of its volume, which no other has: two disks of one manifest have other
// ids in their pages, and a manifest that is deleted may come again under its key.
type partKey struct {
	first   id.Sequence
	segment uint32
}

type groupKey struct {
	partKey
	group int
}

// New makes one. It does not connect.
func New(cfg Config) *Archive {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = cacheBytes
	}
	return &Archive{
		cfg: cfg, turns: make(chan struct{}, fetchesMax),
		groups: newCache[groupKey, *group](int(cfg.CacheBytes / (archive.GroupSlots * block.Size))),
		parts:  newCache[partKey, *archive.Part](partsMax),
	}
}

// Description is what a manifest says of the snapshot it is of.
type Description struct {
	Disk, Snapshot string
	Created        time.Time
	Blocks         block.LBA
	Segments       uint32
}

// Describe reads a manifest.
func (a *Archive) Describe(ctx context.Context, key string) (Description, error) {
	m, err := a.manifest(ctx, key)
	if err != nil {
		return Description{}, err
	}
	return Description{Disk: m.VolumeName, Snapshot: m.Name, Created: m.Created, Blocks: m.Blocks, Segments: uint32(len(m.Segments))}, nil
}

// heldManifest reads the manifest of a disk that is there, which holds it: also when it was deleted just before, by somebody who did not
// see that hold yet. It is in the trash then, and stays there as long. Who makes a disk must not take it from
// there, for its objects may be going.
func (a *Archive) heldManifest(ctx context.Context, key string) (*archive.Manifest, error) {
	m, err := a.manifest(ctx, key)
	if !errors.Is(err, errs.ErrNotFound) {
		return m, err
	}
	if m, e := a.readManifest(ctx, key, archive.TrashKey(key)); !errors.Is(e, errs.ErrNotFound) {
		return m, e
	}
	return nil, err
}

func (a *Archive) manifest(ctx context.Context, key string) (*archive.Manifest, error) {
	return a.readManifest(ctx, key, key)
}

// readManifest reads the manifest of a key, at a place.
func (a *Archive) readManifest(ctx context.Context, key, place string) (*archive.Manifest, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return nil, err
	}
	m, err := archive.ReadManifest(ctx, a.cfg.Store, place, a.cfg.Secret)
	if err == nil && len(m.Segments) > record.ArchiveSegmentsMax {
		err = fmt.Errorf("manifest %s has %d segments, at most %d can be restored: %w", key, len(m.Segments), record.ArchiveSegmentsMax, errs.ErrInvalid)
	}
	return m, err
}

// turn waits until another request may be made; the func it gives is its end.
func (a *Archive) turn(ctx context.Context) (func(), error) {
	select {
	case a.turns <- struct{}{}:
		return func() { <-a.turns }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the archive: %w: %w", errs.ErrUnavailable, ctx.Err())
	}
}
