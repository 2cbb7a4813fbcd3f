package server

import (
	"bytes"
	"slices"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// pages says where the next pages of a store's lists begin.
type pages struct {
	streams int
	after   id.Volume
}

// use tells the next page of the room that volumes take. has is in order of ids.
func (p *pages) use(has []chunk.VolumeInfo, b *client.StoreBeat) {
	page := &cluster.VolumeUsePage{After: p.after, Last: true}
	for i := range has {
		v := &has[i]
		if v.ShardBytes <= 0 || bytes.Compare(v.Volume[:], p.after[:]) <= 0 {
			continue
		}
		if len(page.Uses) == cluster.VolumeUsesMax {
			page.Last = false
			break
		}
		page.Uses = append(page.Uses, cluster.VolumeUse{Volume: v.Volume, Bytes: uint64(v.ShardBytes)})
	}
	p.after = id.Volume{}
	if !page.Last {
		p.after = page.Uses[len(page.Uses)-1].Volume
	}
	b.Use = page
}

// figuresOf tells what a store did and has, for people to look at.
func figuresOf(st *chunk.Store, u *chunk.Stats, b *client.StoreBeat) {
	b.Free = uint64(u.FreeBytes)
	b.Traffic = cluster.StoreTraffic{Syncs: uint64(u.Syncs), Writes: uint64(u.Writes), WriteBytes: uint64(u.WriteBytes), Reads: uint64(u.ReadOps), ReadBytes: uint64(u.ReadBytes)}
	for pg, n := range st.GroupBytes() {
		b.Groups = append(b.Groups, cluster.GroupUse{PG: pg, Bytes: uint64(max(n, 0))})
	}
	slices.SortFunc(b.Groups, func(x, y cluster.GroupUse) int { return int(x.PG) - int(y.PG) })
}

func spaceOf(s *core.Stats) *cluster.Space {
	return &cluster.Space{Live: s.LiveBytes, Dead: s.DeadBytes, Doomed: s.DeadSegmentBytes, Pages: s.PageBytes, Segments: uint64(s.Segments)}
}

func cleaningOf(s *core.Stats) cluster.Cleaning {
	return cluster.Cleaning{Active: s.Cleaning, Left: s.CleanLeftBytes, Done: s.BlocksReclaimed * block.Size, Problem: s.CleanProblem}
}
