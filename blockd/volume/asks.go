package volume

import (
	"context"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// carryAsks brings the core's questions to metad, each on a goroutine of its own;
// there is at most one of each kind on its way.
func (v *Volume) carryAsks(fx *core.Effects) {
	if fx.Range {
		v.group.Go("range", func(ctx context.Context) error { v.askRange(ctx); return nil })
	}
	if fx.AskPlace {
		exclude := append([]id.Store(nil), fx.Placement...)
		v.group.Go("placement", func(ctx context.Context) error { v.askPlacement(ctx, exclude); return nil })
	}
	v.carryReap(fx)
	if k := fx.Checkpoint; k != nil {
		v.group.Go("checkpoint", func(ctx context.Context) error { v.commitCheckpoint(ctx, *k); return nil })
	}
}

func (v *Volume) askRange(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	r, err := v.cfg.Metad.AllocRange(ctx, v.id, v.epoch)
	v.step(func(now time.Duration, fx *core.Effects) { v.core.RangeDone(now, r.First, uint64(r.Count), err, fx) })
}

func (v *Volume) askPlacement(ctx context.Context, exclude []id.Store) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	t, err := v.cfg.Metad.EnsurePlacement(ctx, exclude)
	v.step(func(now time.Duration, fx *core.Effects) {
		if err == nil {
			v.core.Topology(now, t, fx)
		}
		v.core.PlacementDone(now, err, fx)
	})
}

func (v *Volume) commitCheckpoint(ctx context.Context, k core.Checkpoint) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	err := v.cfg.Metad.CommitCheckpoint(ctx, v.id, v.epoch, cluster.Checkpoint{
		Epoch: k.Epoch, Meta: k.Position, Covered: k.Covered, Opaque: k.Record,
	})
	if err != nil {
		v.log.Info("checkpoint not committed in metad, will ask again", "err", err)
	}
	v.step(func(now time.Duration, fx *core.Effects) { v.core.CheckpointDone(now, k.Position, err, fx) })
}

// ask brings one question about the volume's list to metad.
func (v *Volume) ask(ctx context.Context, a journal.Ask) {
	ctx, cancel := context.WithTimeout(ctx, metadTimeout)
	defer cancel()
	rec, err := AskList(ctx, v.cfg.Metad, a)
	r := journal.AskResult{Ask: a, Err: err}
	if err == nil {
		r.List = ListOf(rec)
	}
	v.step(func(now time.Duration, fx *core.Effects) {
		if v.opener != nil {
			v.opener.Answer(now, r, &fx.Journal)
			return
		}
		v.core.Journal(now, fx, func(c *journal.Core, jfx *journal.Effects) { c.Answer(now, r, jfx) })
	})
}

// AskList brings a question of a journal to metad, in metad's words.
func AskList(ctx context.Context, m Metad, a journal.Ask) (*cluster.Volume, error) {
	at := client.ListVersion{Volume: a.Volume, Epoch: a.Epoch, Version: a.Version}
	switch a.Kind {
	case journal.AskAdd:
		return m.AddEnsemble(ctx, client.AddEnsemble{At: at, Exclude: a.Exclude, Better: a.Better})
	case journal.AskClose:
		return m.CloseEnsemble(ctx, closeOf(at, a))
	case journal.AskRemove:
		return m.RemoveEnsembles(ctx, client.RemoveEnsembles{At: at, Ensembles: a.Ensembles, Released: a.Released})
	case journal.AskReplace:
		return m.ReplaceList(ctx, at, a.Ensembles[0])
	}
	return m.Volume(ctx, a.Volume)
}

// closeOf is a close in metad's words.
func closeOf(at client.ListVersion, a journal.Ask) client.CloseEnsemble {
	c := client.CloseEnsemble{
		At: at, Ensemble: a.Ensemble, From: a.From[storeproto.Journal], MetaFrom: a.From[storeproto.Meta], To: a.To[storeproto.Journal], MetaTo: a.To[storeproto.Meta],
	}
	for _, h := range a.Holders {
		c.Holders = append(c.Holders, cluster.StoreRef(h))
	}
	return c
}

// ListOf is metad's list in the journal's words.
func ListOf(rec *cluster.Volume) journal.List { return journal.ListOf(rec) }
