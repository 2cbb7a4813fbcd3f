package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/record"
	uploads "ashlar.dev/snapshotd/archive"
)

// Settings of the archive, short as the others are.
const (
	workersOfWorld = 2
	workerSilent   = 500 * time.Millisecond // then another gets its uploads
	leaseSilence   = 400 * time.Millisecond // of metad; then it ends no upload
	sourcePause    = 25 * time.Millisecond
	sourceTries    = 12
	slotsPerObject = 96
)

// worker is one snapshotd: it asks metad for uploads and does them, as they ship, on goroutines of their own.
type worker struct {
	w     *World
	name  string
	life  uint64
	up    bool
	heard time.Duration // metad, last
	doing []*uploading
	ctx   context.Context
	end   context.CancelFunc
}

// uploading is an upload that a life of a worker has.
type uploading struct {
	lease
	stop context.CancelFunc
	over bool // and metad is being told
}

// lease is what metad gives to a worker.
type lease struct {
	volume   id.Volume
	snapshot id.Snapshot
	upload   id.Raw
	base     id.Snapshot
	epoch    uint64
}

func newWorker(w *World, n int) *worker { return &worker{w: w, name: fmt.Sprintf("a%d", n+1)} }

func (x *worker) boot() {
	if x.up {
		return
	}
	x.life++
	x.up, x.heard, x.doing = true, x.w.now(), nil
	x.ctx, x.end = context.WithCancel(context.Background())
	x.w.log("%s boots, life %d", x.name, x.life)
	x.asks(x.life)
}

// kill ends a life. What it asked of the bucket may arrive there still.
func (x *worker) kill() {
	if !x.up {
		return
	}
	x.w.log("%s is killed", x.name)
	x.up = false
	x.w.touch(x.end)
}

func (x *worker) alive(life uint64) bool { return x.up && x.life == life }

// asks has the worker ask for work, again and again.
func (x *worker) asks(life uint64) {
	w := x.w
	w.after(w.between(15*time.Millisecond, 40*time.Millisecond), x.name+" asks for work", func() {
		if !x.alive(life) {
			return
		}
		x.metad(life, "work", func(m *metad) { x.heard = w.now(); x.take(m.work(x)) })
		x.asks(life)
	})
}

// metad does something at metad, some time later; its outcome is known at once, or never.
func (x *worker) metad(life uint64, what string, f func(*metad)) {
	w := x.w
	if w.oneIn(20) {
		return // the question is lost
	}
	w.later(w.between(200*time.Microsecond, 2*time.Millisecond), x.name+" at metad: ", what, nil, func() {
		if x.alive(life) && !w.metad.silent() {
			f(w.metad)
		}
	})
}

// work gives a worker what it has and all that it may have, as metad's server does.
func (m *metad) work(x *worker) (out []lease) {
	holder := fmt.Sprintf("%s#%d", x.name, x.life)
	if m.workers == nil {
		m.workers = make(map[string]time.Duration)
	}
	m.workers[holder] = m.now()
	for _, v := range m.m.ArchiveWork() {
		for _, s := range v.Snapshots {
			a := s.Archived
			switch {
			case !a.Pending() || a.State == cluster.ArchiveUploading && a.Worker != holder && !m.lapsed(a.Worker):
				continue
			case a.State != cluster.ArchiveUploading || a.Worker != holder:
				if r := m.apply(&state.LeaseArchive{Volume: v.ID, ID: s.ID, Worker: holder, Epoch: a.Epoch}); r.Err != nil {
					m.w.fail(CheckMetad, "upload of %s is not leased: %v", s.ID, r.Err)
				}
				a.Epoch++
				m.w.log("metad: upload of %s to %s under %d", s.ID, holder, a.Epoch)
			}
			out = append(out, lease{v.ID, s.ID, a.Upload, a.Base, a.Epoch})
		}
	}
	return out
}

// lapsed tells whether somebody who has a lease may be taken for gone.
func (m *metad) lapsed(holder string) bool {
	heard, known := m.workers[holder]
	if !known {
		heard = m.reigns
	}
	return m.now()-heard > workerSilent
}

// take begins what is new and stops what is not this worker's any more.
func (x *worker) take(all []lease) {
	for _, u := range slices.Clone(x.doing) {
		if !slices.Contains(all, u.lease) {
			x.drop(u)
			x.w.touch(u.stop)
		}
	}
	for _, l := range all {
		if !slices.ContainsFunc(x.doing, func(u *uploading) bool { return u.snapshot == l.snapshot }) {
			x.begin(l)
		}
	}
}

func (x *worker) drop(u *uploading) {
	x.doing = slices.DeleteFunc(slices.Clone(x.doing), func(y *uploading) bool { return y == u })
}

// begin uploads, outside.
func (x *worker) begin(l lease) {
	w := x.w
	ctx, stop := context.WithCancel(x.ctx)
	u := &uploading{lease: l, stop: stop}
	x.doing = append(x.doing, u)
	a := w.bucket.of[l.snapshot]
	if a == nil {
		w.fail(CheckArchive, "metad has snapshot %s archived, which nobody asked for", l.snapshot)
		return
	}
	name := fmt.Sprintf("%s#%d uploads %s under %d", x.name, x.life, l.snapshot, l.epoch)
	life := x.life
	j := uploads.Job{Volume: l.volume, Disk: a.d.name, Snapshot: l.snapshot, Name: l.snapshot.String(), Upload: l.upload, Base: l.base, Again: l.epoch > 1,
		Tell: func(uint64, uint64) {}, AtOnce: 1, Store: &door{w.bucket, name}, SlotsPerObject: slotsPerObject}
	j.Created = w.bucket.wall(w.now())
	j.StillMine = func(ctx context.Context) (err error) {
		w.consult(nil, name+" still", func() {
			if err = ctx.Err(); err == nil && w.now()-x.heard > leaseSilence {
				err = errs.ErrUnavailable
			}
		})
		return err
	}
	w.log("%s", name)
	w.touch(func() {
		go func() {
			r, err := uploads.Upload(ctx, j, &source{w: w, d: a.d, name: name})
			w.enter(name+" ends", 0, func() { x.ended(life, u, r, err) })
		}()
	})
}

// ended: an upload has ended; metad is told until it hears, or says that it does not count.
func (x *worker) ended(life uint64, u *uploading, r uploads.Result, err error) {
	w := x.w
	if !x.alive(life) || !slices.Contains(x.doing, u) {
		return
	}
	if !u.over {
		w.log("%s: upload of %s under %d: %s", x.name, u.snapshot, u.epoch, errClass(err))
	}
	u.over = true
	c := &state.EndArchive{Volume: u.volume, ID: u.snapshot, Epoch: u.epoch, State: cluster.ArchiveDone, Bytes: r.Stored, Manifest: r.Manifest}
	if err != nil {
		w.cover.UploadsFailed++
		c.State, c.Reason = cluster.ArchiveFailed, errClass(err)
	}
	x.metad(life, "the end of an upload", func(m *metad) {
		x.drop(u)
		if e := m.apply(c).Err; e != nil && !errors.Is(e, errs.ErrStaleEpoch) && !errors.Is(e, errs.ErrConflict) && !errors.Is(e, errs.ErrNotFound) {
			w.fail(CheckMetad, "the end of the upload of %s is refused: %v", u.snapshot, e)
		}
	})
	w.after(100*time.Millisecond, x.name+" tells again of an upload", func() { x.ended(life, u, r, err) })
}

// source reads a disk wherever it is owned now.
type source struct {
	w    *World
	d    *disk
	name string
}

// again asks the disk's owner until it answers, or too often.
func (s *source) again(ctx context.Context, what string, f func(*volume.Snapshots) error) error {
	for try := 1; ; try++ {
		var at *volume.Snapshots
		s.w.consult(nil, s.name+" looks for the owner", func() {
			if e := s.d.owner(); e != nil && !e.h.paused && !s.w.net.cut[way{metadHost, e.h.name}] {
				at = e.snapshots
			}
		})
		err := errs.ErrUnavailable
		if at != nil {
			err = f(at)
		}
		passes := errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrStaleEpoch) || errors.Is(err, errs.ErrTimeout) || errors.Is(err, errs.ErrClosed)
		if err == nil || ctx.Err() != nil || !passes || try == sourceTries {
			return err
		}
		if e := s.w.wait(ctx, s.name+" waits for "+what, sourcePause); e != nil {
			return e
		}
	}
}

// Plan is part of archive.Source.
func (s *source) Plan(ctx context.Context, q archproto.PlanQuery) (out *archproto.Plan, err error) {
	err = s.again(ctx, "a plan", func(x *volume.Snapshots) error {
		p, err := x.Plan(ctx, q.Snapshot, q.Base, q.After)
		if err != nil {
			return err
		}
		out = &archproto.Plan{Root: p.Tree.Root, Blocks: p.Tree.Blocks, Watermark: p.Tree.Watermark, More: p.More}
		for _, h := range p.Held {
			out.Held = append(out.Held, archproto.Held(h))
		}
		return nil
	})
	return out, err
}

// Read is part of archive.Source.
func (s *source) Read(ctx context.Context, q archproto.ReadQuery, _ []byte) (out *archproto.Slots, err error) {
	err = s.again(ctx, "slots", func(x *volume.Snapshots) error {
		data := make([]byte, q.Slots.Count()*block.Size)
		entries, sums, err := x.Read(ctx, q.Segment, q.Slots, data)
		out = &archproto.Slots{Entries: entries, Sums: sums, Data: data}
		return err
	})
	return out, err
}

// readSnapshots makes what the archive reads of the engine's disk.
func (e *engine) readSnapshots() *volume.Snapshots {
	return &volume.Snapshots{
		Tree: func(s id.Snapshot) (tree record.Snapshot, err error) {
			e.w.consult(e.h, e.name+" gives a tree", func() {
				if err = errs.ErrStaleEpoch; e.opened && !e.dead {
					tree, err = e.core.SnapshotTree(id.Raw(s))
				}
			})
			return tree, err
		},
		Where: func(ctx context.Context, s id.Segment) (core.Where, error) {
			var where core.Where
			var err error
			lent := false
			e.w.consult(e.h, e.name+" gives a place", func() {
				ok := false
				if where, ok = e.core.WhereIs(s); !ok {
					err = errs.ErrNotFound
				}
				if e.dead {
					err = errs.ErrStaleEpoch
				}
				lent = e.lender(s) != nil
			})
			switch {
			case err != nil:
				return where, err
			case where.Foreign:
				return where, errs.ErrUnavailable
			case !where.Inherited():
				return where, nil
			}
			x, err := e.h.reader.Find(ctx, s)
			if lent && errors.Is(err, errs.ErrNotFound) {
				err = errs.ErrUnavailable
			}
			return core.Where{Generation: x.Generation, PGVersion: x.PGVersion, K: x.K, M: x.M, Slots: x.Slots, Kept: x.Kept}, err
		},
		Reader: e.h.reader,
	}
}
