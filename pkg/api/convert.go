package api

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// The messages as the words of pkg/cluster and back. What comes from a peer may be
// anything: an id of a wrong length is ErrInvalid.

func sixteen(what string, b []byte) (x [16]byte, err error) {
	if len(b) != len(x) {
		return x, fmt.Errorf("%s has %d bytes, want 16: %w", what, len(b), errs.ErrInvalid)
	}
	copy(x[:], b)
	return x, nil
}

// VolumeID reads a volume's 16 bytes.
func VolumeID(b []byte) (id.Volume, error) {
	x, err := sixteen("volume id", b)
	return id.Volume(x), err
}

// SnapshotID reads a snapshot's 16 bytes.
func SnapshotID(b []byte) (id.Snapshot, error) {
	x, err := sixteen("snapshot id", b)
	return id.Snapshot(x), err
}

// StoreID reads a store's 16 bytes.
func StoreID(b []byte) (id.Store, error) {
	x, err := sixteen("store id", b)
	return id.Store(x), err
}

// StoreIDs reads a list.
func StoreIDs(in [][]byte) ([]id.Store, error) {
	var out []id.Store
	for _, b := range in {
		s, err := StoreID(b)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// FromRef makes the message of r.
func FromRef(r cluster.StoreRef) *StoreRef {
	return &StoreRef{Store: r.Store[:], Incarnation: r.Incarnation[:]}
}

// FromRefs makes the messages of a list.
func FromRefs(in []cluster.StoreRef) []*StoreRef {
	out := make([]*StoreRef, len(in))
	for i, r := range in {
		out[i] = FromRef(r)
	}
	return out
}

// Value reads the message.
func (x *StoreRef) Value() (cluster.StoreRef, error) {
	s, err := sixteen("store id", x.GetStore())
	if err != nil {
		return cluster.StoreRef{}, err
	}
	inc, err := sixteen("incarnation", x.GetIncarnation())
	return cluster.StoreRef{Store: id.Store(s), Incarnation: id.Incarnation(inc)}, err
}

// Refs reads a list.
func Refs(in []*StoreRef) ([]cluster.StoreRef, error) {
	var out []cluster.StoreRef
	for _, x := range in {
		r, err := x.Value()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// FromEnsembleID makes the message of e.
func FromEnsembleID(e id.Ensemble) *EnsembleID { return &EnsembleID{Epoch: uint64(e.Epoch), N: e.N} }

// Value reads the message; nil gives zero.
func (x *EnsembleID) Value() id.Ensemble {
	return id.Ensemble{Epoch: id.Epoch(x.GetEpoch()), N: x.GetN()}
}

// FromHolder makes the message of h; a zero holder is no message.
func FromHolder(h id.Holder) *Holder {
	if h == (id.Holder{}) {
		return nil
	}
	return &Holder{Host: string(h.Host), Number: h.Number}
}

// Value reads the message; nil gives zero.
func (x *Holder) Value() id.Holder {
	return id.Holder{Host: id.Host(x.GetHost()), Number: x.GetNumber()}
}

func fromEnsemble(e cluster.Ensemble) *Ensemble {
	return &Ensemble{Id: FromEnsembleID(e.ID), Stores: FromRefs(e.Stores), Closed: e.Closed,
		FromLsn: uint64(e.From), ToLsn: uint64(e.To), FromMeta: uint64(e.MetaFrom), ToMeta: uint64(e.MetaTo),
		Holders: FromRefs(e.Holders), LossAccepted: e.LossAccepted, Found: e.Found}
}

// Value reads the message.
func (x *Ensemble) Value() (cluster.Ensemble, error) {
	e := cluster.Ensemble{ID: x.GetId().Value(), Closed: x.GetClosed(), LossAccepted: x.GetLossAccepted(), Found: x.GetFound(),
		From: id.LSN(x.GetFromLsn()), To: id.LSN(x.GetToLsn()), MetaFrom: id.LSN(x.GetFromMeta()), MetaTo: id.LSN(x.GetToMeta())}
	var err error
	if e.Stores, err = Refs(x.GetStores()); err != nil {
		return e, err
	}
	e.Holders, err = Refs(x.GetHolders())
	return e, err
}

// FromCheckpoint makes the message of c; nil is no message.
func FromCheckpoint(c *cluster.Checkpoint) *Checkpoint {
	if c == nil {
		return nil
	}
	return &Checkpoint{Epoch: uint64(c.Epoch), MetaPosition: uint64(c.Meta), CoveredLsn: uint64(c.Covered), Opaque: c.Opaque}
}

// Value reads the message; nil gives nil.
func (x *Checkpoint) Value() *cluster.Checkpoint {
	if x == nil {
		return nil
	}
	return &cluster.Checkpoint{Epoch: id.Epoch(x.Epoch), Meta: id.LSN(x.MetaPosition), Covered: id.LSN(x.CoveredLsn), Opaque: x.Opaque}
}

// FromQoS makes the message of q; one that bounds nothing is no message.
func FromQoS(q cluster.QoS) *QoS {
	if q == (cluster.QoS{}) {
		return nil
	}
	return &QoS{Iops: q.IOPS, IopsBurst: q.IOPSBurst, BytesPerSecond: q.Bytes, BurstBytes: q.BytesBurst}
}

// Value reads the message; nil bounds nothing.
func (x *QoS) Value() cluster.QoS {
	return cluster.QoS{IOPS: x.GetIops(), IOPSBurst: x.GetIopsBurst(), Bytes: x.GetBytesPerSecond(), BytesBurst: x.GetBurstBytes()}
}

// FromVolume makes the message of v.
func FromVolume(v *cluster.Volume) *VolumeRecord {
	x := &VolumeRecord{Volume: v.ID[:], Name: v.Name, SizeBytes: v.Size, CreatedUnixMs: v.Created.UnixMilli(),
		Epoch: uint64(v.Epoch), Owner: FromHolder(v.Owner), OpenComplete: v.OpenComplete, ListVersion: v.ListVersion,
		Checkpoint: FromCheckpoint(v.Checkpoint), Deleted: v.Deleted, Qos: FromQoS(v.QoS)}
	if v.Origin != nil {
		x.Origin = lineage.Append(nil, v.Origin)
	}
	if r := v.Rollback; r != nil {
		x.RollbackTo, x.RollbackSafety = r.To[:], r.Safety[:]
	}
	x.Restored, x.Kept, x.Flatten = FromRestored(v.Restored), FromKept(v.Kept), FromFlatten(v.Flatten)
	for i := range v.Lent {
		x.Lent = append(x.Lent, FromRestored(&v.Lent[i]))
	}
	for _, e := range v.List {
		x.Ensembles = append(x.Ensembles, fromEnsemble(e))
	}
	for _, h := range v.Prior {
		x.PriorHosts = append(x.PriorHosts, string(h))
	}
	for _, l := range v.Losses {
		x.Losses = append(x.Losses, &AcceptedLoss{Ensemble: FromEnsembleID(l.Ensemble), Lost: FromRefs(l.Lost), AtUnixMs: l.At.UnixMilli(), By: l.By})
	}
	for _, s := range v.Spans {
		x.Spans = append(x.Spans, &SequenceSpan{Epoch: uint64(s.Epoch), First: uint64(s.First), End: uint64(s.End)})
	}
	for _, s := range v.Snapshots {
		x.Snapshots = append(x.Snapshots, &SnapshotRecord{Snapshot: s.ID[:], Name: s.Name, SizeBytes: s.Size, CreatedUnixMs: s.Created.UnixMilli(), State: uint32(s.State)})
	}
	return x
}

// Value reads the message.
func (x *VolumeRecord) Value() (*cluster.Volume, error) {
	v := &cluster.Volume{Name: x.GetName(), Size: x.GetSizeBytes(), Created: time.UnixMilli(x.GetCreatedUnixMs()).UTC(),
		Epoch: id.Epoch(x.GetEpoch()), Owner: x.GetOwner().Value(), OpenComplete: x.GetOpenComplete(), ListVersion: x.GetListVersion(),
		Checkpoint: x.GetCheckpoint().Value(), Deleted: x.GetDeleted(), QoS: x.GetQos().Value()}
	var err error
	if v.ID, err = VolumeID(x.GetVolume()); err != nil {
		return nil, err
	}
	if v.Origin, err = lineage.Decode("origin of a volume", x.GetOrigin()); err != nil {
		return nil, err
	}
	if len(x.GetRollbackTo()) > 0 {
		to, err := SnapshotID(x.GetRollbackTo())
		if err != nil {
			return nil, err
		}
		safety, err := SnapshotID(x.GetRollbackSafety())
		if err != nil {
			return nil, err
		}
		v.Rollback = &cluster.Rollback{To: to, Safety: safety}
	}
	v.Restored, v.Kept, v.Flatten = x.GetRestored().Value(), x.GetKept().Value(), x.GetFlatten().Value()
	for _, r := range x.GetLent() {
		v.Lent = append(v.Lent, *r.Value())
	}
	for _, e := range x.GetEnsembles() {
		y, err := e.Value()
		if err != nil {
			return nil, err
		}
		v.List = append(v.List, y)
	}
	for _, h := range x.GetPriorHosts() {
		v.Prior = append(v.Prior, id.Host(h))
	}
	for _, l := range x.GetLosses() {
		lost, err := Refs(l.GetLost())
		if err != nil {
			return nil, err
		}
		v.Losses = append(v.Losses, cluster.Loss{Ensemble: l.GetEnsemble().Value(), Lost: lost, At: time.UnixMilli(l.GetAtUnixMs()).UTC(), By: l.GetBy()})
	}
	for _, s := range x.GetSpans() {
		v.Spans = append(v.Spans, cluster.Span{Epoch: id.Epoch(s.GetEpoch()), First: id.Sequence(s.GetFirst()), End: id.Sequence(s.GetEnd())})
	}
	for _, s := range x.GetSnapshots() {
		snap, err := SnapshotID(s.GetSnapshot())
		if err != nil {
			return nil, err
		}
		v.Snapshots = append(v.Snapshots, cluster.Snapshot{ID: snap, Name: s.GetName(), Size: s.GetSizeBytes(),
			Created: time.UnixMilli(s.GetCreatedUnixMs()).UTC(), State: cluster.SnapshotState(s.GetState())})
	}
	return v, nil
}

// FromSettings makes the message of s.
func FromSettings(s cluster.Settings) *Settings {
	return &Settings{LeaseTermMs: uint32(s.LeaseTerm.Milliseconds()), HeartbeatIntervalMs: uint32(s.HeartbeatInterval.Milliseconds()),
		HeartbeatTimeoutMs: uint32(s.HeartbeatTimeout.Milliseconds()), RangeCount: s.RangeCount}
}

// Value reads the message.
func (x *Settings) Value() cluster.Settings {
	ms := func(v uint32) time.Duration { return time.Duration(v) * time.Millisecond }
	return cluster.Settings{LeaseTerm: ms(x.GetLeaseTermMs()), HeartbeatInterval: ms(x.GetHeartbeatIntervalMs()),
		HeartbeatTimeout: ms(x.GetHeartbeatTimeoutMs()), RangeCount: x.GetRangeCount()}
}

// FromTopology makes the message of t.
func FromTopology(t *cluster.Topology) *Topology {
	x := &Topology{Version: t.Version}
	for _, h := range t.Hosts {
		x.Hosts = append(x.Hosts, &HostInfo{Host: string(h.Host), HolderNumber: h.HolderNumber, DataAddress: h.DataAddress, Zone: h.Zone,
			Up: h.Up, Exports: h.Exports, NbdUnixPath: h.NBDUnixPath, NbdTcpAddress: h.NBDTCP, NbdTcpTls: h.NBDTLS})
	}
	for _, h := range t.Removed {
		x.Removed = append(x.Removed, &RemovedHost{Host: string(h.Host), AtUnixMs: h.AtMS})
	}
	for _, s := range t.Stores {
		x.Stores = append(x.Stores, &StoreInfo{Ref: FromRef(s.StoreRef), Host: string(s.Host), Zone: s.Zone, State: StoreState(s.State),
			Full: s.Full, Slow: s.Slow, CapacityBytes: s.Capacity, UsedBytes: s.Used})
	}
	for _, p := range t.PGs {
		pg := &PlacementGroup{Number: uint32(p.Number), Preferred: p.Preferred, Healthy: p.Healthy}
		for _, v := range p.Versions {
			pg.Versions = append(pg.Versions, &PGVersion{Version: v.Version, K: uint32(v.K), M: uint32(v.M), Stores: FromRefs(v.Stores), Relaxed: v.Relaxed})
		}
		x.Pgs = append(x.Pgs, pg)
	}
	return x
}

// Value reads the message and indexes it.
func (x *Topology) Value() (*cluster.Topology, error) {
	t := &cluster.Topology{Version: x.GetVersion()}
	for _, h := range x.GetHosts() {
		t.Hosts = append(t.Hosts, cluster.Host{Host: id.Host(h.Host), HolderNumber: h.HolderNumber, DataAddress: h.DataAddress, Zone: h.Zone,
			Up: h.Up, Exports: h.Exports, NBDUnixPath: h.NbdUnixPath, NBDTCP: h.NbdTcpAddress, NBDTLS: h.NbdTcpTls})
	}
	for _, h := range x.GetRemoved() {
		t.Removed = append(t.Removed, cluster.RemovedHost{Host: id.Host(h.Host), AtMS: h.AtUnixMs})
	}
	for _, s := range x.GetStores() {
		ref, err := s.GetRef().Value()
		if err != nil {
			return nil, err
		}
		t.Stores = append(t.Stores, cluster.Store{StoreRef: ref, Host: id.Host(s.Host), Zone: s.Zone, State: cluster.StoreState(s.State),
			Full: s.Full, Slow: s.Slow, Capacity: s.CapacityBytes, Used: s.UsedBytes})
	}
	for _, p := range x.GetPgs() {
		if p.GetNumber() > uint32(id.PGMax) || len(p.GetVersions()) == 0 {
			return nil, fmt.Errorf("placement group %d with %d versions: %w", p.GetNumber(), len(p.GetVersions()), errs.ErrInvalid)
		}
		pg := cluster.PG{Number: id.PG(p.Number), Preferred: p.Preferred, Healthy: p.Healthy}
		for _, v := range p.Versions {
			stores, err := Refs(v.Stores)
			if err != nil {
				return nil, err
			}
			if v.K == 0 || v.K > 32 || v.M > 32 || len(stores) != int(v.K+v.M) {
				return nil, fmt.Errorf("placement group %d: %d+%d with %d stores: %w", p.Number, v.K, v.M, len(stores), errs.ErrInvalid)
			}
			pg.Versions = append(pg.Versions, cluster.PGVersion{Version: v.Version, K: uint8(v.K), M: uint8(v.M), Stores: stores, Relaxed: v.Relaxed})
		}
		t.PGs = append(t.PGs, pg)
	}
	return t.Index(), nil
}
