package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/segment"
)

// Source is who has the disk; see archproto.Peer.
type Source interface {
	Plan(ctx context.Context, q archproto.PlanQuery) (*archproto.Plan, error)
	// Read may put the blocks into room, if that is enough for them; what it gives is good until the next call with that room.
	Read(ctx context.Context, q archproto.ReadQuery, room []byte) (*archproto.Slots, error)
}

// Job is a snapshot to be uploaded.
type Job struct {
	Cluster    [16]byte
	Volume     id.Volume
	Disk       string
	Snapshot   id.Snapshot
	Name       string
	Created    time.Time
	Upload     id.Raw
	Base       id.Snapshot // zero: whole
	Again      bool        // somebody may have begun
	StillMine  func(ctx context.Context) error
	Tell       func(done, total uint64)
	AtOnce     int // objects
	Store      objectstore.Store
	Secret     *archive.Secret
	RecordPuts func(key string) // for tests; may be nil
	Lock       Locking          // of objects and manifest
	// SlotsPerObject cuts objects: 4,096 slots, 16 MiB, if zero. The same for all who work on one archive.
	SlotsPerObject int
}

// Result is what became of it.
type Result struct {
	Manifest string
	Stored   uint64 // bytes of the objects of this upload
}

// upload is one job being done.
type upload struct {
	Job
	src   Source
	base  *archive.Manifest
	tree  archproto.Plan // of the first page; its Held are not used
	below []id.Segment   // held at or below the base's watermark
	cut   [][]archproto.Held
	parts []archived // by object

	mu          sync.Mutex
	done, total uint64
}

// archived is an object that is there.
type archived struct {
	object archive.Object
	parts  []archive.Segment
	locked time.Time // until then at least
}

// Upload brings a snapshot into the archive, or says why not. It goes on where an earlier try of the same upload ended. When it
// returns well the manifest is there, durable, and everything it names.
func Upload(ctx context.Context, j Job, src Source) (Result, error) {
	u := &upload{Job: j, src: src}
	key := archive.ManifestKey(j.Volume, j.Snapshot)
	if m, err := archive.ReadManifest(ctx, j.Store, key, j.Secret); err == nil {
		return u.result(key, m), nil // put before a crash
	} else if !errors.Is(err, errs.ErrNotFound) {
		return Result{}, err
	}
	if err := u.readBase(ctx); err != nil {
		return Result{}, err
	}
	if err := u.plan(ctx); err != nil {
		return Result{}, err
	}
	if err := u.objects(ctx); err != nil {
		return Result{}, err
	}
	m, err := u.manifest()
	if err != nil {
		return Result{}, err
	}
	lock, err := u.lock(ctx, m)
	if err == nil {
		err = j.StillMine(ctx)
	}
	if err != nil {
		return Result{}, err
	}
	if _, err := j.Lock.put(ctx, j.Store, key, archive.EncodeManifest(m, j.Secret), func() objectstore.Lock { return lock }); err != nil {
		if !errors.Is(err, errs.ErrExists) {
			return Result{}, fmt.Errorf("put manifest: %w", err)
		}
		if m, err = archive.ReadManifest(ctx, j.Store, key, j.Secret); err != nil {
			return Result{}, err
		}
	}
	for n := range u.cut { // what is left of them goes with the next gc
		if err := j.Store.Delete(ctx, u.recordKey(n)); err != nil {
			break
		}
	}
	return u.result(key, m), nil
}

// lock locks what the manifest names, before it is put, and gives the lock that it is to be put with.
func (u *upload) lock(ctx context.Context, m *archive.Manifest) (objectstore.Lock, error) {
	known := make(map[string]time.Time)
	for _, a := range u.parts {
		known[a.object.Key] = a.locked
	}
	return u.Lock.lockObjects(ctx, u.Store, m, known)
}

// result counts what the objects of this upload take.
func (u *upload) result(key string, m *archive.Manifest) Result {
	r := Result{Manifest: key}
	for _, o := range m.Objects {
		if strings.HasPrefix(o.Key, uploadPrefix(u.Upload)) {
			r.Stored += o.Size
		}
	}
	return r
}

func uploadPrefix(u id.Raw) string { return fmt.Sprintf("data/%x/", u[:]) }

// objectKey is where object n lies, recordKey where its record does. What was to be uploaded against a base that is of no use is
// uploaded whole, and cut otherwise: whoever goes on may find the base where another did not, or not find it any more, so
// such objects have names of their own. What is left of the other cut no manifest names.
func (u *upload) objectKey(n int) string { return "data/" + u.place(n) }
func (u *upload) recordKey(n int) string { return "uploads/" + u.place(n) }

func (u *upload) place(n int) string {
	whole := ""
	if u.base == nil && !u.Base.IsZero() {
		whole = "w"
	}
	return fmt.Sprintf("%x/%s%d", u.Upload[:], whole, n)
}

func manifestOfTrash(trash string) string {
	return archive.ManifestsPrefix + strings.TrimPrefix(trash, archive.TrashPrefix)
}

// readBase reads the manifest of what is uploaded against. One that is not there any more, or sealed
// with a key that is not at hand, makes this a whole upload.
func (u *upload) readBase(ctx context.Context) error {
	if u.Base.IsZero() {
		return nil
	}
	m, err := archive.ReadManifest(ctx, u.Store, archive.ManifestKey(u.Volume, u.Base), u.Secret)
	if errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrDenied) {
		return nil
	}
	if errors.Is(err, errs.ErrCorrupt) {
		return fmt.Errorf("what this is archived against is damaged: take it out (ashlar archive delete) and ask again, this is then archived whole: %w", err)
	}
	if err != nil {
		return fmt.Errorf("base of the upload: %w", err)
	}
	u.base = m
	return nil
}

// plan asks what the snapshot holds and cuts it into objects: by slots alone, so that whoever does it again cuts alike.
// Of two snapshots that were asked for at about the same time the one that was asked for first, and so is the other's base, may have
// been taken last: then the other one is archived whole, as whoever does it again finds.
func (u *upload) plan(ctx context.Context) error {
	q := archproto.PlanQuery{Volume: u.Volume, Snapshot: u.Snapshot}
	if u.base != nil {
		q.Base = u.base.Watermark
	}
	slots, most := 0, u.SlotsPerObject
	if most == 0 {
		most = id.SlotsMax
	}
	for more := true; more; {
		p, err := u.src.Plan(ctx, q)
		if err != nil {
			return err
		}
		if q.After == 0 {
			u.tree = *p
			u.tree.Held = nil
			if u.base != nil && p.Watermark < u.base.Watermark {
				u.base, q.Base = nil, 0
				continue // more is still true
			}
		}
		for _, h := range p.Held {
			q.After = h.Segment.Sequence()
			if h.Slots == nil {
				u.below = append(u.below, h.Segment)
				continue
			}
			n := h.Slots.Count()
			if len(u.cut) == 0 || slots+n > most {
				u.cut, slots = append(u.cut, nil), 0
			}
			last := len(u.cut) - 1
			u.cut[last] = append(u.cut[last], h)
			slots += n
			u.total += uint64(n) * block.Size
		}
		more = p.More
	}
	u.parts = make([]archived, len(u.cut))
	u.Tell(0, u.total)
	return nil
}

// objects brings all of them there, some at once.
func (u *upload) objects(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range max(1, u.AtOnce) {
		wg.Go(func() {
			m := &making{}
			for n := range next {
				if err := u.object(ctx, n, m); err != nil {
					cancel(err)
					return
				}
				u.progress(n)
			}
		})
	}
	for n := range u.cut {
		select {
		case next <- n:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func (u *upload) progress(n int) {
	u.mu.Lock()
	for _, h := range u.cut[n] {
		u.done += uint64(h.Slots.Count()) * block.Size
	}
	done := u.done
	u.mu.Unlock()
	u.Tell(done, u.total)
}

// making is the memory for one object after the other.
type making struct {
	builder *archive.Builder
	slots   []archive.Slot
	room    [pieceSlots * block.Size]byte
}

// pieceSlots are read, checked and compressed at once: what is in the processor's cache is not fetched again for each of these.
const pieceSlots = 16 * archive.GroupSlots

// make reads what object n is to have, and makes it.
func (u *upload) make(ctx context.Context, n int, m *making) (body []byte, o archive.Object, parts []archive.Segment, err error) {
	key := u.objectKey(n)
	if m.builder == nil {
		m.builder = archive.NewBuilder(key, u.Secret)
	} else {
		m.builder.Begin(key)
	}
	for _, h := range u.cut[n] {
		for piece := range slices.Chunk(h.Slots.Slots(), pieceSlots) {
			var set segment.SlotSet
			for _, number := range piece {
				set.Add(number)
			}
			s, err := u.src.Read(ctx, archproto.ReadQuery{Volume: u.Volume, Snapshot: u.Snapshot, Segment: h.Segment, Slots: &set}, m.room[:])
			if err != nil {
				return nil, o, nil, err
			}
			m.slots = m.slots[:0]
			for i, number := range piece {
				m.slots = append(m.slots, archive.Slot{Number: number, Entry: s.Entries[i], Sum: s.Sums[i]})
			}
			m.builder.AddSlots(m.slots, s.Data)
		}
		m.builder.EndPart(h.Segment)
	}
	body, o, parts = m.builder.Finish()
	return body, o, parts, nil
}

// object brings one there, unless it is.
func (u *upload) object(ctx context.Context, n int, m *making) error {
	key := u.objectKey(n)
	if u.Again {
		if found, err := u.found(ctx, n); found || err != nil {
			return err
		}
	}
	body, o, parts, err := u.make(ctx, n, m)
	if err != nil {
		return err
	}
	if u.RecordPuts != nil {
		u.RecordPuts(key)
	}
	lock, err := u.Lock.put(ctx, u.Store, key, body, u.Lock.object)
	switch {
	case errors.Is(err, errs.ErrExists):
		found, err := u.found(ctx, n)
		if err == nil && !found {
			err = fmt.Errorf("object %s is there and is not: %w", key, errs.ErrUnavailable)
		}
		return err
	case err != nil:
		return fmt.Errorf("put object: %w", err)
	}
	return u.record(ctx, n, archived{o, parts, lock.Until})
}

// record writes down what object n has, for whoever goes on.
func (u *upload) record(ctx context.Context, n int, a archived) error {
	u.parts[n] = a
	m := u.header()
	m.Objects, m.Segments = []archive.Object{a.object}, a.parts
	if err := u.Store.Put(ctx, u.recordKey(n), archive.EncodeManifest(m, u.Secret)); err != nil {
		return fmt.Errorf("record object %d: %w", n, err)
	}
	return nil
}

// found looks whether object n is there already: by its record, else by itself, whole and checked.
func (u *upload) found(ctx context.Context, n int) (bool, error) {
	key := u.objectKey(n)
	is, err := u.Store.Head(ctx, key)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	m, err := archive.ReadManifest(ctx, u.Store, u.recordKey(n), u.Secret)
	switch {
	case err == nil && len(m.Objects) == 1 && m.Objects[0].Key == key && m.Objects[0].Size == uint64(is.Size) && u.fits(n, m.Segments):
		u.parts[n] = archived{object: m.Objects[0], parts: m.Segments}
		return true, nil
	case err != nil && !errors.Is(err, errs.ErrNotFound):
		return false, err
	case is.Size > archive.ObjectMax:
		return false, fmt.Errorf("object %s of %d bytes: %w", key, is.Size, errs.ErrCorrupt)
	}
	body := make([]byte, is.Size)
	if err := u.Store.ReadAt(ctx, key, body, 0); err != nil {
		return false, err
	}
	o, parts, err := archive.ParseObject(key, body, u.Secret, nil)
	if err == nil && !u.fits(n, parts) {
		err = fmt.Errorf("object %s is not what this upload would put there; give it up and begin again (ashlar snapshot archive --cancel): %w", key, errs.ErrConflict)
	}
	if err != nil {
		return false, err
	}
	return true, u.record(ctx, n, archived{object: o, parts: parts})
}

// fits tells whether the parts are those that object n is to have.
func (u *upload) fits(n int, parts []archive.Segment) bool {
	if len(parts) != len(u.cut[n]) {
		return false
	}
	for i, p := range parts {
		if h := u.cut[n][i]; p.ID != h.Segment || int(p.Slots) != h.Slots.Count() {
			return false
		}
	}
	return true
}

// header is a manifest without objects.
func (u *upload) header() *archive.Manifest {
	m := &archive.Manifest{Cluster: u.Cluster, Volume: u.Volume, VolumeName: u.Disk, Blocks: u.tree.Blocks, Snapshot: u.Snapshot, Name: u.Name,
		Created: u.Created, Watermark: u.tree.Watermark, Root: u.tree.Root}
	if u.base != nil {
		m.Base = u.Base
	}
	return m
}

// manifest names everything: what the base has of what is still held, and what was uploaded.
func (u *upload) manifest() (*archive.Manifest, error) {
	m := u.header()
	places := make(map[uint32]uint32) // of the base's objects that are still needed
	for _, s := range u.below {
		i, ok := -1, false
		if u.base != nil {
			i, ok = u.base.Find(s)
		}
		if !ok {
			return nil, fmt.Errorf("snapshot %s holds segment %s, which its base does not have: %w", u.Name, s, errs.ErrCorrupt)
		}
		x := u.base.Segments[i]
		place, ok := places[x.Object]
		if !ok {
			place = uint32(len(m.Objects))
			places[x.Object] = place
			m.Objects = append(m.Objects, u.base.Objects[x.Object])
		}
		x.Object = place
		m.Segments = append(m.Segments, x)
	}
	for _, a := range u.parts {
		for _, x := range a.parts {
			x.Object = uint32(len(m.Objects))
			m.Segments = append(m.Segments, x)
		}
		m.Objects = append(m.Objects, a.object)
	}
	return m, m.Check("manifest of snapshot " + u.Name)
}
