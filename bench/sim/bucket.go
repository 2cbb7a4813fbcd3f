package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
)

// bucket is the archive's place: objects that are there whole or not at all, and seen by everybody at
// once. Each manifest that is put is read back with all that it names, and judged as the
// snapshot is that it is of; nothing goes that a manifest needs which is there, or which a disk relies on.
type bucket struct {
	w       *World
	objects map[string]object
	away    bool
	// of are the snapshots that somebody asked to have archived, have the manifests that are there.
	of   map[id.Snapshot]*archived
	have map[string]*archived
}

type object struct {
	body []byte
	put  time.Duration
}

// archived is a snapshot that is or was on its way into the archive.
type archived struct {
	*snap
	d   *disk
	key string
}

var errBucket = fmt.Errorf("sim: the bucket does not answer: %w", errs.ErrUnavailable)

func newBucket(w *World) *bucket {
	return &bucket{w: w, objects: make(map[string]object), of: make(map[id.Snapshot]*archived), have: make(map[string]*archived)}
}

// wall is the bucket's clock.
func (b *bucket) wall(at time.Duration) time.Time { return time.Unix(0, 0).Add(at - b.w.epoch) }

// Put is part of objectstore.Store, at once; see door.
func (b *bucket) Put(_ context.Context, key string, body []byte) error {
	b.objects[key] = object{slices.Clone(body), b.w.now()}
	if strings.HasPrefix(key, archive.ManifestsPrefix) {
		b.arrived(key)
	}
	return nil
}

// PutNew is part of objectstore.Store.
func (b *bucket) PutNew(ctx context.Context, key string, body []byte) error {
	if _, there := b.objects[key]; there {
		return errs.ErrExists
	}
	return b.Put(ctx, key, body)
}

var errNoLocks = fmt.Errorf("sim: nothing can be locked: %w", errs.ErrInvalid)

// PutLocked is part of objectstore.Store.
func (*bucket) PutLocked(context.Context, string, []byte, objectstore.Lock) error { return errNoLocks }

// Extend is part of objectstore.Store.
func (*bucket) Extend(context.Context, string, objectstore.Lock) error { return errNoLocks }

// CanLock is part of objectstore.Store.
func (*bucket) CanLock(context.Context) error { return errNoLocks }

// ReadAt is part of objectstore.Store.
func (b *bucket) ReadAt(_ context.Context, key string, dst []byte, offset int64) error {
	o, there := b.objects[key]
	switch {
	case !there:
		return fmt.Errorf("object %s: %w", key, errs.ErrNotFound)
	case offset+int64(len(dst)) > int64(len(o.body)):
		return fmt.Errorf("object %s is shorter: %w", key, errs.ErrCorrupt)
	}
	copy(dst, o.body[offset:])
	return nil
}

// Head is part of objectstore.Store.
func (b *bucket) Head(_ context.Context, key string) (objectstore.Info, error) {
	o, there := b.objects[key]
	if !there {
		return objectstore.Info{}, fmt.Errorf("object %s: %w", key, errs.ErrNotFound)
	}
	return objectstore.Info{Key: key, Size: int64(len(o.body)), Modified: b.wall(o.put)}, nil
}

// List is part of objectstore.Store.
func (b *bucket) List(ctx context.Context, prefix, after string, limit int) (out []objectstore.Info, err error) {
	if limit <= 0 || limit > objectstore.ListMax {
		limit = objectstore.ListMax
	}
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if strings.HasPrefix(key, prefix) && key > after && len(out) < limit {
			is, _ := b.Head(ctx, key)
			out = append(out, is)
		}
	}
	return out, nil
}

// Delete is part of objectstore.Store.
func (b *bucket) Delete(_ context.Context, key string) error {
	if _, there := b.objects[key]; !there {
		return nil
	}
	delete(b.objects, key)
	if strings.HasPrefix(key, archive.ManifestsPrefix) {
		delete(b.have, key)
	}
	b.gone(key)
	return nil
}

// String is part of objectstore.Store.
func (*bucket) String() string { return "sim" }

// arrived judges a manifest that was put, by all that it names.
func (b *bucket) arrived(key string) {
	ctx := context.Background()
	m, err := archive.ReadManifest(ctx, b, key, nil)
	if err != nil {
		b.w.fail(CheckArchive, "%s cannot be read: %v", key, err)
		return
	}
	a := b.of[m.Snapshot]
	if a == nil || a.key != key {
		b.w.fail(CheckArchive, "%s is of snapshot %s, which nobody asked for", key, m.Snapshot)
		return
	}
	r := archive.NewReader(b, m, nil)
	err = a.judgeAll(func(judge func(block.LBA, []byte)) error {
		return r.NewWalker().Blocks(ctx, func(l block.LBA, at id.Location) error {
			data := make([]byte, block.Size)
			_, err := r.Block(ctx, at, data)
			if err == nil {
				judge(l, data)
			}
			return err
		})
	})
	if err != nil {
		b.w.fail(CheckArchive, "%s of %s, in the archive: %v", a.snap, a.d.name, err)
		return
	}
	b.have[key] = a
	b.w.cover.Archived++
	if !m.Base.IsZero() {
		b.w.cover.Increments++
	}
	b.w.log("%s of %s is archived, base %s, %d segments", a.snap, a.d.name, m.Base, len(m.Segments))
}

// gone demands that nobody needs an object that was deleted.
func (b *bucket) gone(key string) {
	if !strings.HasPrefix(key, "data/") && !strings.HasPrefix(key, archive.TrashPrefix) && !strings.HasPrefix(key, archive.ManifestsPrefix) {
		return
	}
	needs := func(manifest, place string) {
		m, err := archive.ReadManifest(context.Background(), b, place, nil)
		if err != nil {
			b.w.fail(CheckArchive, "%s was deleted, and %s cannot be read: %v", key, manifest, err)
			return
		}
		for _, o := range m.Objects {
			if o.Key == key {
				b.w.fail(CheckArchive, "%s was deleted, and %s needs it", key, manifest)
			}
		}
	}
	for _, manifest := range slices.Sorted(maps.Keys(b.have)) {
		needs(manifest, manifest)
	}
	if b.w.metad.restore != nil {
		return // what disks need is not known now
	}
	for _, d := range b.w.disks {
		v, ok := b.w.metad.m.Volume(d.id)
		if !ok || v.Deleted {
			continue
		}
		held, err := reconcile.ManifestsOf(v)
		if err != nil {
			b.w.fail(CheckMetad, "%s: %v", d.name, err)
		}
		for _, manifest := range held {
			if d.given == nil || d.served == 0 { // it is only being made: who makes it looks again
				continue
			}
			if _, there := b.objects[manifest]; there {
				needs(manifest, manifest)
			} else {
				needs(manifest, archive.TrashKey(manifest))
			}
		}
	}
}

// door is one process's way to the bucket: an objectstore.Store for those outside. What is asked takes its time, fails
// before or after it was done, and is done though whoever asked is dead by then.
type door struct {
	b   *bucket
	who string
}

// ask brings a request into the world and waits for its answer.
func (x *door) ask(ctx context.Context, what, key string, serve func() error) error {
	if strings.HasPrefix(key, "gc/") {
		key = "gc/" // the rest is random
	}
	w, name := x.b.w, x.who+" "+what+" "+key
	done := make(chan error, 1)
	w.enter("bucket "+name, 0, func() { x.b.take(name, serve, func(err error) { w.touch(func() { done <- err }) }) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(errs.ErrUnavailable, ctx.Err())
	case <-w.ctx.Done(): // the world ends
		return errs.ErrClosed
	}
}

// take lets a request arrive, and its answer go back.
func (b *bucket) take(name string, serve func() error, answer func(error)) {
	w := b.w
	w.messages++
	d := w.between(300*time.Microsecond, 2*time.Millisecond)
	if w.oneIn(25) {
		d = w.between(20*time.Millisecond, 200*time.Millisecond)
	}
	w.later(d, "bucket: ", name, nil, func() {
		if b.away || w.oneIn(50) {
			w.cover.add(BucketRefused)
			answer(errBucket)
			return
		}
		err := serve()
		if w.oneIn(50) {
			w.cover.add(BucketAnswerLost)
			err = errBucket
		}
		w.later(w.between(100*time.Microsecond, time.Millisecond), "bucket answers ", name, nil, func() { answer(err) })
	})
}

// Put is part of objectstore.Store.
func (x *door) Put(ctx context.Context, key string, body []byte) error {
	body = slices.Clone(body)
	return x.ask(ctx, "put", key, func() error { return x.b.Put(ctx, key, body) })
}

// PutNew is part of objectstore.Store.
func (x *door) PutNew(ctx context.Context, key string, body []byte) error {
	body = slices.Clone(body)
	return x.ask(ctx, "put new", key, func() error { return x.b.PutNew(ctx, key, body) })
}

// PutLocked is part of objectstore.Store.
func (*door) PutLocked(context.Context, string, []byte, objectstore.Lock) error { return errNoLocks }

// Extend is part of objectstore.Store.
func (*door) Extend(context.Context, string, objectstore.Lock) error { return errNoLocks }

// CanLock is part of objectstore.Store.
func (*door) CanLock(context.Context) error { return errNoLocks }

// ReadAt is part of objectstore.Store.
func (x *door) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	got := make([]byte, len(dst))
	err := x.ask(ctx, "read "+numbers(uint64(offset), uint64(len(dst))), key, func() error { return x.b.ReadAt(ctx, key, got, offset) })
	if err == nil {
		copy(dst, got)
	}
	return err
}

// Head is part of objectstore.Store.
func (x *door) Head(ctx context.Context, key string) (objectstore.Info, error) {
	got := new(objectstore.Info)
	err := x.ask(ctx, "head", key, func() (err error) { *got, err = x.b.Head(ctx, key); return err })
	if err != nil {
		return objectstore.Info{}, err
	}
	return *got, nil
}

// List is part of objectstore.Store.
func (x *door) List(ctx context.Context, prefix, after string, limit int) ([]objectstore.Info, error) {
	got := new([]objectstore.Info)
	err := x.ask(ctx, "list after "+after, prefix, func() (err error) { *got, err = x.b.List(ctx, prefix, after, limit); return err })
	if err != nil {
		return nil, err
	}
	return *got, nil
}

// Delete is part of objectstore.Store.
func (x *door) Delete(ctx context.Context, key string) error {
	return x.ask(ctx, "delete", key, func() error { return x.b.Delete(ctx, key) })
}

// String is part of objectstore.Store.
func (*door) String() string { return "sim" }
