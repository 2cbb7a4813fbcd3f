package volume_test

import (
	"context"
	"testing"
	"time"

	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/restore"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/blockd/volume/volumetest"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/storeproto/memstore"
)

// rig is a cluster in memory, and what its processes are given.
type rig struct {
	*volumetest.Cluster
	t       *testing.T
	metad   *coretest.Metad
	stores  []*memstore.Store
	limits  core.Limits
	cache   *reader.Cache
	memory  *core.Memory
	archive *restore.Archive
	life    uint64
}

// newRig makes hosts × perHost stores and groups of profile k+m over them.
func newRig(t *testing.T, hosts, perHost int, k, m uint8) *rig {
	t.Helper()
	c := volumetest.NewCluster(hosts, perHost, k, m)
	return &rig{Cluster: c, t: t, metad: c.Metad, stores: c.All, limits: volumetest.Limits()}
}

// engine is one process that can open volumes.
type engine struct {
	*volumetest.Process
	r *rig
}

func (r *rig) engine(host id.Host) *engine {
	r.life++
	e := &engine{r: r, Process: volumetest.Start(volumetest.Config{Metad: r.metad, Stores: r, Holder: id.Holder{Host: host, Number: r.life}, Cache: r.cache})}
	r.t.Cleanup(e.Kill)
	return e
}

// open acquires the volume from metad and opens it.
func (e *engine) open(v id.Volume) (*volume.Volume, error) { return e.openWithin(v, 20*time.Second) }

func (e *engine) openWithin(v id.Volume, d time.Duration) (*volume.Volume, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return e.Open(ctx, v, e.r.limits, func(c *volume.Config) { c.Memory, c.Archive = e.r.memory, e.r.archive })
}

func (e *engine) mustOpen(v id.Volume) *volume.Volume {
	e.r.t.Helper()
	vol, err := e.open(v)
	if err != nil {
		e.r.t.Fatal(err)
	}
	e.r.t.Cleanup(vol.Abandon)
	return vol
}

// do runs one request to its end.
func do(v *volume.Volume, op nbd.Op, off, n uint64, data []byte) (*nbd.Request, error) {
	ch := make(chan error, 1)
	r := nbd.NewRequest(op, 0, off, n, data, nbd.CompleterFunc(func(_ *nbd.Request, err error) { ch <- err }))
	v.Submit(r)
	return r, <-ch
}

func write(v *volume.Volume, off uint64, data []byte) error {
	r, err := do(v, nbd.OpWrite, off, uint64(len(data)), data)
	r.Recycle()
	return err
}

func readBack(v *volume.Volume, off uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	r, err := do(v, nbd.OpRead, off, uint64(n), b)
	r.FillHoles()
	r.Recycle()
	return b, err
}
