package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Cluster is metad as operators and tools see it. It speaks in the messages of pkg/api,
// whose ids are the text people see. Safe for concurrent use.
type Cluster struct{ p *pool }

// NewCluster makes a client. It connects when first used.
func NewCluster(o Options) (*Cluster, error) {
	p, err := newPool(o)
	if err != nil {
		return nil, err
	}
	return &Cluster{p: p}, nil
}

// Close ends the connections.
func (c *Cluster) Close() error { return c.p.close() }

// ask calls one method of the service with retries.
func ask[Req, Rep any](ctx context.Context, c *Cluster, req Req, f func(api.ClusterClient, context.Context, Req) (Rep, error)) (Rep, error) {
	var rep Rep
	err := c.p.call(ctx, retryAlways, func(ctx context.Context, conn *target) (err error) {
		rep, err = f(conn.cluster, ctx, req)
		return err
	})
	return rep, err
}

// Status gives the health of the cluster with its reasons; withLists the disks and stores too.
func (c *Cluster) Status(ctx context.Context, withLists bool) (*api.StatusReply, error) {
	return ask(ctx, c, &api.StatusRequest{WithDisks: withLists}, func(x api.ClusterClient, ctx context.Context, r *api.StatusRequest) (*api.StatusReply, error) {
		return x.Status(ctx, r)
	})
}

// Hosts lists every blockd.
func (c *Cluster) Hosts(ctx context.Context) ([]*api.Host, error) {
	r, err := ask(ctx, c, &api.ListHostsRequest{}, func(x api.ClusterClient, ctx context.Context, r *api.ListHostsRequest) (*api.ListHostsReply, error) {
		return x.ListHosts(ctx, r)
	})
	return r.GetHosts(), err
}

// Stores lists every store.
func (c *Cluster) Stores(ctx context.Context) ([]*api.Store, error) {
	r, err := ask(ctx, c, &api.ListStoresRequest{}, func(x api.ClusterClient, ctx context.Context, r *api.ListStoresRequest) (*api.ListStoresReply, error) {
		return x.ListStores(ctx, r)
	})
	return r.GetStores(), err
}

// MoveDisk has a disk handed off to a host. It returns when that is under way.
func (c *Cluster) MoveDisk(ctx context.Context, nameOrID, host string) (*api.Disk, error) {
	return ask(ctx, c, &api.MoveDiskRequest{NameOrId: nameOrID, Host: host}, func(x api.ClusterClient, ctx context.Context, r *api.MoveDiskRequest) (*api.Disk, error) {
		return x.MoveDisk(ctx, r)
	})
}

// EventsWaitMax is the longest that Events waits in one call.
const EventsWaitMax = 2 * time.Second

// Events gives up to limit events with a number above after, of since or later (zero: all that
// are kept), oldest first, and the newest number there is. If there are none it waits for some, up to wait.
func (c *Cluster) Events(ctx context.Context, after uint64, since time.Time, limit int, wait time.Duration) ([]*api.Event, uint64, error) {
	req := &api.ListEventsRequest{After: after, Limit: uint32(limit), WaitMs: uint32(min(wait, EventsWaitMax).Milliseconds())}
	if !since.IsZero() {
		req.SinceUnixMs = since.UnixMilli()
	}
	r, err := ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.ListEventsRequest) (*api.ListEventsReply, error) {
		return x.ListEvents(ctx, r)
	})
	return r.GetEvents(), r.GetLast(), err
}

// CreateDisk makes a disk without limits; see CreateLimitedDisk.
func (c *Cluster) CreateDisk(ctx context.Context, name string, sizeBytes uint64) (*api.Disk, error) {
	return c.CreateLimitedDisk(ctx, name, sizeBytes, cluster.QoS{})
}

// CreateLimitedDisk makes a disk. A retry after a lost answer finds the disk it made.
func (c *Cluster) CreateLimitedDisk(ctx context.Context, name string, sizeBytes uint64, q cluster.QoS) (*api.Disk, error) {
	var token [16]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, fmt.Errorf("draw request id: %w", err)
	}
	req := &api.CreateDiskRequest{Name: name, SizeBytes: sizeBytes, RequestId: hex.EncodeToString(token[:]), Qos: api.FromQoS(q)}
	return ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.CreateDiskRequest) (*api.Disk, error) {
		return x.CreateDisk(ctx, r)
	})
}

// Disks lists all disks by name.
func (c *Cluster) Disks(ctx context.Context) ([]*api.Disk, error) {
	var all []*api.Disk
	req := &api.ListDisksRequest{}
	for {
		r, err := ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.ListDisksRequest) (*api.ListDisksReply, error) {
			return x.ListDisks(ctx, r)
		})
		if err != nil {
			return nil, err
		}
		all = append(all, r.Disks...)
		if !r.More || len(r.Disks) == 0 {
			return all, nil
		}
		req = &api.ListDisksRequest{AfterName: r.Disks[len(r.Disks)-1].Name}
	}
}

// Disk finds one disk by name or id.
func (c *Cluster) Disk(ctx context.Context, nameOrID string) (*api.Disk, error) {
	return ask(ctx, c, &api.GetDiskRequest{NameOrId: nameOrID}, func(x api.ClusterClient, ctx context.Context, r *api.GetDiskRequest) (*api.Disk, error) {
		return x.GetDisk(ctx, r)
	})
}

// ResizeDisk grows a disk; shrinking is ErrInvalid.
func (c *Cluster) ResizeDisk(ctx context.Context, nameOrID string, sizeBytes uint64) (*api.Disk, error) {
	return ask(ctx, c, &api.ResizeDiskRequest{NameOrId: nameOrID, SizeBytes: sizeBytes}, func(x api.ClusterClient, ctx context.Context, r *api.ResizeDiskRequest) (*api.Disk, error) {
		return x.ResizeDisk(ctx, r)
	})
}

// SetDiskQoS changes how fast a disk may be; limits it does not name stay.
func (c *Cluster) SetDiskQoS(ctx context.Context, nameOrID string, x cluster.QoSChange) (*api.Disk, error) {
	req := &api.SetDiskQoSRequest{NameOrId: nameOrID, Iops: x.IOPS, IopsBurst: x.IOPSBurst, BytesPerSecond: x.Bytes, BurstBytes: x.BytesBurst}
	return ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.SetDiskQoSRequest) (*api.Disk, error) {
		return x.SetDiskQoS(ctx, r)
	})
}

// DiskEndpoints tells where clients may attach, the owner first.
func (c *Cluster) DiskEndpoints(ctx context.Context, nameOrID string) (*api.DiskEndpointsReply, error) {
	return ask(ctx, c, &api.DiskEndpointsRequest{NameOrId: nameOrID}, func(x api.ClusterClient, ctx context.Context, r *api.DiskEndpointsRequest) (*api.DiskEndpointsReply, error) {
		return x.DiskEndpoints(ctx, r)
	})
}

// DeclareStoreLost says that a store's memory never comes back.
func (c *Cluster) DeclareStoreLost(ctx context.Context, storeID, incarnation string, acceptLoss bool) error {
	_, err := ask(ctx, c, &api.DeclareStoreLostRequest{StoreId: storeID, Incarnation: incarnation, AcceptLoss: acceptLoss}, func(x api.ClusterClient, ctx context.Context, r *api.DeclareStoreLostRequest) (*api.DeclareStoreLostReply, error) {
		return x.DeclareStoreLost(ctx, r)
	})
	return err
}

// DrainStore has a store emptied, or stops that. ErrConflict or ErrNoSpace with the
// reason if what it has could have no other place.
func (c *Cluster) DrainStore(ctx context.Context, storeID string, stop bool) (*api.DrainStoreReply, error) {
	return ask(ctx, c, &api.DrainStoreRequest{StoreId: storeID, Stop: stop}, func(x api.ClusterClient, ctx context.Context, r *api.DrainStoreRequest) (*api.DrainStoreReply, error) {
		return x.DrainStore(ctx, r)
	})
}

// AcceptLoss lets a disk open although an ensemble of it lost its records for good.
func (c *Cluster) AcceptLoss(ctx context.Context, nameOrID string, e id.Ensemble) (*api.Disk, error) {
	req := &api.AcceptLossRequest{NameOrId: nameOrID, EnsembleEpoch: uint64(e.Epoch), EnsembleN: e.N}
	return ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.AcceptLossRequest) (*api.Disk, error) {
		return x.AcceptLoss(ctx, r)
	})
}

// Scrub has stores look at their shards: all, or those of a disk (by name or id), or one store's (by
// id). Asked again with the same id, it tells how far that is.
func (c *Cluster) Scrub(ctx context.Context, scrub [16]byte, target string) (*api.ScrubReply, error) {
	return ask(ctx, c, &api.ScrubRequest{ScrubId: scrub[:], Target: target}, func(x api.ClusterClient, ctx context.Context, r *api.ScrubRequest) (*api.ScrubReply, error) {
		return x.Scrub(ctx, r)
	})
}

// CordonHost keeps what is new off a host; off lets it come again.
func (c *Cluster) CordonHost(ctx context.Context, host string, off bool) (*api.Host, error) {
	return ask(ctx, c, &api.CordonHostRequest{Host: host, Off: off}, func(x api.ClusterClient, ctx context.Context, r *api.CordonHostRequest) (*api.Host, error) {
		return x.CordonHost(ctx, r)
	})
}

// SetCluster changes settings of the whole cluster.
func (c *Cluster) SetCluster(ctx context.Context, req *api.SetClusterRequest) (*api.ClusterSettings, error) {
	return ask(ctx, c, req, func(x api.ClusterClient, ctx context.Context, r *api.SetClusterRequest) (*api.ClusterSettings, error) {
		return x.SetCluster(ctx, r)
	})
}

// LostRanges asks what of a disk cannot be read, from byte q.From on. Without Lost in the answer
// the owner still looks: ask again with the same id.
func (c *Cluster) LostRanges(ctx context.Context, disk string, q cluster.Look) (*api.LostRangesReply, error) {
	return ask(ctx, c, &api.LostRangesRequest{NameOrId: disk, LookId: q.ID[:], From: q.From}, func(x api.ClusterClient, ctx context.Context, r *api.LostRangesRequest) (*api.LostRangesReply, error) {
		return x.LostRanges(ctx, r)
	})
}

// WaitHealth asks until the cluster's health is want or better, or ctx ends; it returns the last status.
func (c *Cluster) WaitHealth(ctx context.Context, want api.Health) (*api.StatusReply, error) {
	for {
		s, err := c.Status(ctx, false)
		if err != nil || s.Health <= want {
			return s, err
		}
		if err := c.p.o.Clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return s, fmt.Errorf("wait for health %v, it is %v: %w", want, s.Health, err)
		}
	}
}

// RemoveHost takes a host off the list for good. ErrConflict, with the reason, while something leads to it.
func (c *Cluster) RemoveHost(ctx context.Context, host string) error {
	return c.p.call(ctx, retryUnknown, func(ctx context.Context, t *target) error {
		_, err := t.hosts.RemoveHost(ctx, &api.RemoveHostRequest{Host: host})
		return err
	})
}
