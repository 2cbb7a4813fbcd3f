package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Disks made from archives. Metad reaches no archive itself: hosts that export disks must, and
// one of them is asked what a manifest says. The disk is committed with its allotment, which
// holds the manifest, and then the manifest is looked at once more: whoever deletes manifests
// looks at the holds after it has taken one away, so that one of both sees the other.

const (
	manifestWait = 10 * time.Second // for a host to say what a manifest says
	manifestsMax = 64               // asked for at a time
)

// manifestAsked is a question that waits for a host's answer.
type manifestAsked struct {
	waiting int
	told    map[id.Host]*api.TellManifestRequest
}

// manifestsFor are the manifests that a host is to tell of.
func (r *reign) manifestsFor(h id.Host) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, a := range r.mu.manifests {
		if a.told[h] == nil {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// askManifest has hosts read a manifest. The first that can gives the answer; errors count when all
// hosts that are up gave one. Anew: one that was given before the call does not count.
func (r *reign) askManifest(ctx context.Context, key string, anew bool) (*api.TellManifestRequest, error) {
	a, err := r.beginAsking(key, anew)
	if err != nil {
		return nil, err
	}
	defer r.endAsking(key, a)
	ctx, cancel := context.WithTimeout(ctx, manifestWait)
	defer cancel()
	for {
		changed := r.snapped()
		told, err := r.manifestTold(a)
		if told != nil || err != nil {
			return told, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no host has read manifest %s in time; is one up that exports disks? %w", key, errs.ErrUnavailable)
		case <-r.ctx.Done():
			return nil, r.s.node.NotLeader()
		}
	}
}

func (r *reign) beginAsking(key string, anew bool) (*manifestAsked, error) {
	r.mu.Lock()
	a := r.mu.manifests[key]
	if a == nil {
		if len(r.mu.manifests) >= manifestsMax {
			r.mu.Unlock()
			return nil, fmt.Errorf("%d manifests are being read already: %w", manifestsMax, errs.ErrUnavailable)
		}
		if r.mu.manifests == nil {
			r.mu.manifests = make(map[string]*manifestAsked)
		}
		a = &manifestAsked{told: make(map[id.Host]*api.TellManifestRequest)}
		r.mu.manifests[key] = a
	}
	a.waiting++
	if anew { // an answer from before does not count
		clear(a.told)
	}
	r.mu.Unlock()
	r.tellSnapped()
	return a, nil
}

func (r *reign) endAsking(key string, a *manifestAsked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.waiting--; a.waiting == 0 {
		delete(r.mu.manifests, key)
	}
}

// manifestTold gives an answer, or the error of a host when all that are up have one; neither: not yet.
func (r *reign) manifestTold(a *manifestAsked) (told *api.TellManifestRequest, err error) {
	r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		all := true
		for _, h := range m.Hosts() {
			if !h.Exports || !l.HostUp(now, h.Host) {
				continue
			}
			switch x := a.told[h.Host]; {
			case x == nil:
				all = false
			case x.Code == 0:
				told = x
			default:
				err = fmt.Errorf("host %s: %w", h.Host, errs.FromCode(errs.Code(x.Code), firstBytes(x.Problem, 512)))
			}
		}
		if told != nil || !all {
			err = nil
		}
	})
	return told, err
}

func (b *blockdService) TellManifest(ctx context.Context, q *api.TellManifestRequest) (*api.TellManifestReply, error) {
	r, err := b.ruling()
	host := q.GetHolder().Value().Host
	if err == nil {
		err = mustBe(ctx, host)
	}
	if err != nil {
		return nil, b.s.fail(err)
	}
	r.mu.Lock()
	if a := r.mu.manifests[q.GetManifest()]; a != nil {
		a.told[host] = q
	}
	r.mu.Unlock()
	r.tellSnapped()
	return &api.TellManifestReply{}, nil
}

func (b *blockdService) RestoreWhole(ctx context.Context, q *api.RestoreWholeRequest) (*api.VolumeRecord, error) {
	v, err := api.VolumeID(q.GetVolume())
	if err != nil {
		return nil, b.s.fail(err)
	}
	return b.record(ctx, &state.RestoreWhole{Volume: v, Epoch: id.Epoch(q.GetEpoch())})
}

// restoreCommand checks a request, so that nonsense is not committed to be refused by everyone.
func (c *clusterService) restoreCommand(r *reign, q *api.RestoreDiskRequest, is *api.TellManifestRequest) (*state.CreateRestored, error) {
	archived := is.GetBlocks() * block.Size
	size := q.GetSizeBytes()
	if size == 0 {
		size = archived
	}
	raw, err := id.NewRaw(c.s.clock.Wall(), c.s.random)
	switch {
	case err != nil:
	case len(q.GetRequestId()) > state.NameMax:
		err = fmt.Errorf("request id of %d bytes, at most %d: %w", len(q.GetRequestId()), state.NameMax, errs.ErrInvalid)
	case size < archived:
		err = fmt.Errorf("snapshot %s of disk %s has %d bytes, a disk made of it cannot have %d: %w", is.GetSnapshot(), is.GetDisk(), archived, size, errs.ErrInvalid)
	default:
		err = state.CheckDiskName(q.GetName())
		if err == nil {
			err = state.CheckDiskSize(size)
		}
		if err == nil {
			err = q.GetQos().Value().Validate()
		}
	}
	if err != nil {
		return nil, err
	}
	return &state.CreateRestored{Create: state.CreateVolume{ID: id.Volume(raw), Name: q.GetName(), Size: size, RequestID: q.GetRequestId(),
		NowMS: c.s.clock.Wall().UnixMilli(), QoS: q.GetQos().Value()}, Manifest: q.GetManifest(), Segments: is.GetSegments(),
		PGs: reconcile.GoodGroups(r.refresh()), Rate: q.GetBytesPerSecond()}, nil
}

// RestoreDisk makes a disk from an archive.
func (c *clusterService) RestoreDisk(ctx context.Context, q *api.RestoreDiskRequest) (*api.Disk, error) {
	r, err := c.s.ruling()
	if err != nil {
		return nil, c.s.fail(err)
	}
	if n := len(q.GetManifest()); n == 0 || n > cluster.ManifestKeyMax {
		return nil, c.s.fail(fmt.Errorf("the key of a manifest has 1 to %d bytes: %w", cluster.ManifestKeyMax, errs.ErrInvalid))
	}
	is, err := r.askManifest(ctx, q.GetManifest(), false)
	if err != nil {
		return nil, c.s.fail(err)
	}
	cmd, err := c.restoreCommand(r, q, is)
	if err != nil {
		return nil, c.s.fail(err)
	}
	res, err := c.s.commit(ctx, cmd)
	if err != nil {
		return nil, err
	}
	v := res.Volume
	if _, err := r.askManifest(ctx, q.GetManifest(), true); errs.CodeOf(err) == errs.NotFound {
		if _, e := c.s.commit(ctx, &state.DeleteVolume{Volume: v.ID, Epoch: v.Epoch}); e != nil {
			c.s.log.Warn("disk made from an archive that is gone, and not deleted", "volume", v.ID.String(), "err", e)
		}
		return nil, c.s.fail(fmt.Errorf("manifest %s was deleted meanwhile: %w", q.GetManifest(), errs.ErrNotFound))
	}
	c.s.note(state.Info, "disk_restored", aboutDisk, v.Name, caller(ctx).String(), "disk %s of %d bytes from snapshot %s of disk %s, archived as %s", v.ID, v.Size, is.GetSnapshot(), is.GetDisk(), q.GetManifest())
	c.s.log.Info("disk made from an archive", "volume", v.ID.String(), "name", v.Name, "bytes", v.Size, "manifest", q.GetManifest(), "segments", is.GetSegments(), "by", caller(ctx).String())
	return c.answer(r, v), nil
}

// SetHydrate changes how fast a disk is brought in.
func (c *clusterService) SetHydrate(ctx context.Context, q *api.SetHydrateRequest) (*api.Disk, error) {
	r, v, err := c.found(ctx, q.GetNameOrId())
	if err != nil {
		return nil, err
	}
	res, err := c.s.commit(ctx, &state.SetHydrate{Volume: v.ID, Rate: q.GetBytesPerSecond()})
	if err != nil {
		return nil, err
	}
	c.s.log.Info("rate of a restore changed", "volume", v.ID.String(), "rate", q.GetBytesPerSecond(), "by", caller(ctx).String())
	return c.answer(r, res.Volume), nil
}

// describeHydration is how far a disk is brought in, as people see it.
func describeHydration(v *state.Volume, b *reconcile.VolumeBeat) *api.Hydration {
	x := v.Restored
	if x == nil {
		return nil
	}
	out := &api.Hydration{Segments: x.Segments, Left: x.Segments}
	if b.Hydration != nil {
		out = api.FromHydration(b.Hydration)
	}
	out.Manifest, out.BytesPerSecond = x.Manifest, x.Rate
	return out
}

// hydration is what an owner says of it, cut to a size.
func hydration(x *api.Hydration) *cluster.Hydration {
	h := x.Value()
	if h != nil {
		h.Problem = firstBytes(h.Problem, 256)
	}
	return h
}

func hydrateRate(v *state.Volume) uint64 {
	if v.Restored == nil {
		return 0
	}
	return v.Restored.Rate
}
