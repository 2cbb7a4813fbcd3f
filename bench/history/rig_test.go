package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/blockd/volume/volumetest"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/storeproto/memstore"
)

// patience bounds what would hang.
const patience = time.Minute

// rig is a cluster in memory, six stores on three hosts, and an archive.
type rig struct {
	*volumetest.Cluster
	t       *testing.T
	metad   *coretest.Metad
	stores  []*memstore.Store
	objects objectstore.Store
	life    uint64
}

func newRig(t *testing.T) *rig {
	c := volumetest.NewCluster(3, 2, 4, 2)
	return &rig{Cluster: c, t: t, metad: c.Metad, stores: c.All, objects: objectstoretest.NewMemory()}
}

// limits are small, and let dead segments go at once.
func limits() core.Limits {
	l := volumetest.Limits()
	l.CheckpointDead, l.CheckpointIdle = 64<<10, time.Millisecond
	return l
}

// owner is a process that has one volume open.
type owner struct {
	*volume.Volume
	process *volumetest.Process
}

// kill ends the process: nothing of it goes on.
func (o *owner) kill() {
	o.process.Kill()
	if o.Volume != nil {
		o.Abandon()
	}
}

// open has a new process take a volume; roll, if any, is committed with that, as metad does it.
func (r *rig) open(v id.Volume, roll *cluster.Rollback) *owner {
	r.t.Helper()
	r.life++
	holder := id.Holder{Host: id.Host(fmt.Sprintf("b%d", r.life%3+1)), Number: r.life}
	o := &owner{process: volumetest.Start(volumetest.Config{Metad: r.metad, Stores: r, Holder: holder})}
	r.t.Cleanup(o.kill)
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	var err error
	o.Volume, err = o.process.Open(ctx, v, limits(), func(c *volume.Config) {
		c.Record.Rollback = roll
		c.Archive = restore.New(restore.Config{Store: r.objects, CacheBytes: 1 << 20})
	})
	if err != nil {
		r.t.Fatalf("open %s: %v", v, err)
	}
	return o
}

// await waits for a condition.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	for end := clock.System.Now() + patience; !ok(); {
		if clock.System.Sleep(r.t.Context(), time.Millisecond) != nil || clock.System.Now() > end {
			r.t.Fatalf("waited for %s", what)
		}
	}
}
