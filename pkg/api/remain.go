package api

import (
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// FromRemains makes the messages of what stores have that is coded otherwise than its group.
func FromRemains(xs []cluster.Remain) (out []*Remain) {
	for _, x := range xs[:min(len(xs), cluster.RemainsMax)] {
		m := &Remain{Pg: uint32(x.PG), Version: x.Version, Shards: x.Shards, Bytes: x.Bytes}
		for _, v := range x.Volumes {
			m.Volumes = append(m.Volumes, v[:])
		}
		out = append(out, m)
	}
	return out
}

// Remains is what FromRemains told. A number that is none of a group's is left out.
func Remains(xs []*Remain) (out []cluster.Remain, err error) {
	for _, x := range xs[:min(len(xs), cluster.RemainsMax)] {
		if x.GetPg() > uint32(id.PGMax) {
			continue
		}
		r := cluster.Remain{PG: id.PG(x.GetPg()), Version: x.GetVersion(), Shards: x.GetShards(), Bytes: x.GetBytes()}
		for _, b := range x.GetVolumes()[:min(len(x.GetVolumes()), cluster.RemainVolumesMax)] {
			v, err := VolumeID(b)
			if err != nil {
				return nil, err
			}
			r.Volumes = append(r.Volumes, v)
		}
		out = append(out, r)
	}
	return out, nil
}
