package api

import (
	"bytes"
	"fmt"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// FromSpace makes the message of s; nil stays nil: nothing is known.
func FromSpace(s *cluster.Space) *Space {
	if s == nil {
		return nil
	}
	return &Space{LiveBytes: s.Live, DeadBytes: s.Dead, DoomedBytes: s.Doomed, PageBytes: s.Pages, Segments: s.Segments}
}

// Value reads the message.
func (x *Space) Value() *cluster.Space {
	if x == nil {
		return nil
	}
	return &cluster.Space{Live: x.LiveBytes, Dead: x.DeadBytes, Doomed: x.DoomedBytes, Pages: x.PageBytes, Segments: x.Segments}
}

// FromCleaning makes the message of c, without the figures that metad works out.
func FromCleaning(c cluster.Cleaning) *Cleaning {
	return &Cleaning{Active: c.Active, LeftBytes: c.Left, DoneBytes: c.Done, Problem: c.Problem}
}

// problemBytesMax bounds a problem in words that a peer tells.
const problemBytesMax = 256

// Value reads the message.
func (x *Cleaning) Value() cluster.Cleaning {
	p := x.GetProblem()
	return cluster.Cleaning{Active: x.GetActive(), Left: x.GetLeftBytes(), Done: x.GetDoneBytes(), Problem: p[:min(len(p), problemBytesMax)]}
}

// FromTraffic makes the message of t.
func FromTraffic(t cluster.Traffic) *Traffic {
	return &Traffic{Reads: t.Reads, Writes: t.Writes, Others: t.Others, ReadBytes: t.ReadBytes, WriteBytes: t.WriteBytes, TimedReads: t.TimedReads,
		TimedWrites: t.TimedWrites, ReadUs: uint64(t.ReadTime.Microseconds()), WriteUs: uint64(t.WriteTime.Microseconds()), Failed: t.Failed}
}

// Value reads the message.
func (x *Traffic) Value() cluster.Traffic {
	return cluster.Traffic{Reads: x.GetReads(), Writes: x.GetWrites(), Others: x.GetOthers(), ReadBytes: x.GetReadBytes(), WriteBytes: x.GetWriteBytes(),
		TimedReads: x.GetTimedReads(), TimedWrites: x.GetTimedWrites(), ReadTime: time.Duration(x.GetReadUs()) * time.Microsecond,
		WriteTime: time.Duration(x.GetWriteUs()) * time.Microsecond, Failed: x.GetFailed()}
}

// FromStoreTraffic makes the message of t.
func FromStoreTraffic(t cluster.StoreTraffic) *StoreTraffic {
	return &StoreTraffic{Syncs: t.Syncs, Writes: t.Writes, WriteBytes: t.WriteBytes, Reads: t.Reads, ReadBytes: t.ReadBytes}
}

// Value reads the message.
func (x *StoreTraffic) Value() cluster.StoreTraffic {
	return cluster.StoreTraffic{Syncs: x.GetSyncs(), Writes: x.GetWrites(), WriteBytes: x.GetWriteBytes(), Reads: x.GetReads(), ReadBytes: x.GetReadBytes()}
}

// FromIdentity makes the message of i; nil stays nil.
func FromIdentity(i *cluster.Identity) *IdentityBeat {
	if i == nil {
		return nil
	}
	return &IdentityBeat{TrustHash: i.TrustHash[:], Issuer: i.Issuer[:], ExpiresUnixMs: i.Expires.UnixMilli()}
}

// Value reads the message; nil if it says nothing that can be understood.
func (x *IdentityBeat) Value() *cluster.Identity {
	i := &cluster.Identity{Expires: time.UnixMilli(x.GetExpiresUnixMs())}
	if copy(i.TrustHash[:], x.GetTrustHash()) != len(i.TrustHash) || copy(i.Issuer[:], x.GetIssuer()) != len(i.Issuer) {
		return nil
	}
	return i
}

// FromGroupUses makes the messages of a list.
func FromGroupUses(in []cluster.GroupUse) []*GroupUse {
	out := make([]*GroupUse, len(in))
	for i, g := range in {
		out[i] = &GroupUse{Pg: uint32(g.PG), Bytes: g.Bytes}
	}
	return out
}

// GroupUses reads a list; what is too long or names no group is ErrInvalid.
func GroupUses(in []*GroupUse) ([]cluster.GroupUse, error) {
	if len(in) > int(id.PGMax)+1 {
		return nil, fmt.Errorf("room of %d placement groups: %w", len(in), errs.ErrInvalid)
	}
	out := make([]cluster.GroupUse, len(in))
	for i, x := range in {
		if x.GetPg() > uint32(id.PGMax) {
			return nil, fmt.Errorf("room of placement group %d: %w", x.GetPg(), errs.ErrInvalid)
		}
		out[i] = cluster.GroupUse{PG: id.PG(x.GetPg()), Bytes: x.GetBytes()}
	}
	return out, nil
}

// FromVolumeUsePage makes the message of p; nil stays nil.
func FromVolumeUsePage(p *cluster.VolumeUsePage) *VolumeUsePage {
	if p == nil {
		return nil
	}
	x := &VolumeUsePage{After: p.After[:], Last: p.Last}
	for i := range p.Uses {
		x.Uses = append(x.Uses, &VolumeUse{Volume: p.Uses[i].Volume[:], Bytes: p.Uses[i].Bytes})
	}
	return x
}

// Value reads the message: nil if there is none, ErrInvalid if it is too long or not in order.
func (x *VolumeUsePage) Value() (*cluster.VolumeUsePage, error) {
	if x == nil {
		return nil, nil
	}
	if len(x.Uses) > cluster.VolumeUsesMax {
		return nil, fmt.Errorf("page of %d volumes, at most %d: %w", len(x.Uses), cluster.VolumeUsesMax, errs.ErrInvalid)
	}
	p := &cluster.VolumeUsePage{Last: x.Last}
	if len(x.After) > 0 {
		v, err := VolumeID(x.After)
		if err != nil {
			return nil, err
		}
		p.After = v
	}
	at := p.After
	for _, u := range x.Uses {
		v, err := VolumeID(u.GetVolume())
		if err != nil {
			return nil, err
		}
		if bytes.Compare(v[:], at[:]) <= 0 {
			return nil, fmt.Errorf("page of volumes is not in order: %w", errs.ErrInvalid)
		}
		at = v
		p.Uses = append(p.Uses, cluster.VolumeUse{Volume: v, Bytes: u.GetBytes()})
	}
	return p, nil
}

// FromStoreWaits makes the messages of a list.
func FromStoreWaits(in []cluster.StoreWait) []*StoreWait {
	var out []*StoreWait
	for _, w := range in {
		out = append(out, &StoreWait{Store: w.Store[:], Count: w.Count, TotalUs: uint64(w.Total.Microseconds())})
	}
	return out
}

// StoreWaits reads a list of at most cluster.StoreWaitsMax.
func StoreWaits(in []*StoreWait) ([]cluster.StoreWait, error) {
	if len(in) > cluster.StoreWaitsMax {
		return nil, fmt.Errorf("waits for %d stores, at most %d: %w", len(in), cluster.StoreWaitsMax, errs.ErrInvalid)
	}
	var out []cluster.StoreWait
	for _, x := range in {
		s, err := StoreID(x.GetStore())
		if err != nil {
			return nil, err
		}
		// Nobody waits for longer than a day between two heartbeats.
		total := time.Duration(min(x.GetTotalUs(), uint64((24*time.Hour).Microseconds()))) * time.Microsecond
		out = append(out, cluster.StoreWait{Store: s, Count: min(x.GetCount(), 1<<32), Total: total})
	}
	return out, nil
}
