package volumetest

import (
	"fmt"
	"time"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/memstore"
)

// LeaseTerm is that of the stores of a Cluster; short, for some tests wait it out.
const LeaseTerm = 300 * time.Millisecond

// Cluster is stores in memory and a metad without a quorum.
type Cluster struct {
	Metad *coretest.Metad
	All   []*memstore.Store
}

// Ref names the n-th store of a test cluster, from 0.
func Ref(n int) cluster.StoreRef {
	return cluster.StoreRef{Store: id.Store{15: byte(n + 1)}, Incarnation: id.Incarnation{1, byte(n)}}
}

// NewCluster makes hosts b1, b2, … of perHost stores each, and groups of profile k+m over them.
func NewCluster(hosts, perHost int, k, m uint8) *Cluster {
	c := &Cluster{Metad: coretest.NewMetad()}
	for n := range hosts * perHost {
		ref := Ref(n)
		c.All = append(c.All, memstore.New(memstore.Options{ID: ref.Store, Incarnation: ref.Incarnation, Clock: clock.System, LeaseTerm: LeaseTerm}))
		c.Metad.AddStore(cluster.Store{StoreRef: ref, Host: id.Host(fmt.Sprintf("b%d", n/perHost+1)), State: cluster.StoreUp})
	}
	c.Metad.Profile(k, m)
	return c
}

// Store makes Cluster the volumes' Stores.
func (c *Cluster) Store(s id.Store) (storeproto.Store, bool) {
	for _, x := range c.All {
		if x.ID() == s {
			return x, true
		}
	}
	return nil, false
}

// Limits are small, so that little is much.
func Limits() core.Limits {
	return core.Limits{
		UnpackedBytesMax: 1 << 20, SealBlocks: 64, SealBytes: 512 << 10, CheckpointBytes: 2 << 20, CheckpointDead: 256 << 10, LongBlocksMin: 32,
		CleanPercent: 3, CleanSlack: 1, PagesPercent: 1, CleanRate: 1 << 40, MergeBelow: 16,
	}
}
