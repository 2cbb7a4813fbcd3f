package server

import (
	"fmt"
	"slices"
	"strings"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
)

// fillFigures adds what is known of a disk's space and traffic. What its owner does not
// tell now stays absent: an old figure would pass for a new one.
func fillFigures(d *api.Disk, l *reconcile.Liveness, v *state.Volume, top *cluster.Topology, b *reconcile.VolumeBeat) {
	d.UsedBytes = l.Used(top, v.ID)
	if v.Deleted {
		d.ReclaimableBytes = d.UsedBytes
		return
	}
	d.Traffic, d.Cleaning = api.FromTraffic(b.Traffic), api.FromCleaning(b.Cleaning)
	if b.Space == nil {
		return
	}
	d.Space = api.FromSpace(b.Space)
	d.ReclaimableBytes = b.Space.Reclaimable(d.UsedBytes)
	paced(d.Cleaning, l.CleaningPace(v.Owner.Host, v.ID))
}

// paced adds how fast cleaning goes and how long it will take at that.
func paced(c *api.Cleaning, perSecond uint64) {
	c.BytesPerSecond, c.SecondsLeft = perSecond, 0
	if perSecond > 0 {
		c.SecondsLeft = (c.LeftBytes + perSecond - 1) / perSecond
	}
}

// fillRoom sums up the space of the cluster and what its disks do with it. rep.Stores need not be set.
func fillRoom(rep *api.StatusReply, m *state.Machine, l *reconcile.Liveness, top *cluster.Topology) {
	room := &api.Room{CapacityBytes: rep.CapacityBytes, UsedBytes: rep.UsedBytes}
	rep.Cleaning, rep.Traffic, rep.Room = &api.Cleaning{}, &api.Traffic{}, room
	var shards uint64
	for i := range top.Stores {
		if b, ok := l.StoreBeat(top.Stores[i].StoreRef); ok && top.Stores[i].State.Serves() {
			room.FreeBytes += b.Free
			for _, g := range b.Groups {
				shards += g.Bytes
			}
		}
	}
	var traffic cluster.Traffic
	var pace uint64
	for _, v := range m.Volumes() {
		if v.Deleted {
			room.ReclaimableBytes += l.Used(top, v.ID)
			continue
		}
		if v.Live() {
			room.ProvisionedBytes += v.Size
		}
		b, ok := l.Volume(v.Owner, v.ID, v.Epoch)
		if !ok || b.Space == nil {
			continue
		}
		room.ReclaimableBytes += b.Space.Reclaimable(l.Used(top, v.ID))
		traffic.Add(b.Traffic)
		rep.Cleaning.Active = rep.Cleaning.Active || b.Cleaning.Active
		rep.Cleaning.LeftBytes += b.Cleaning.Left
		rep.Cleaning.DoneBytes += b.Cleaning.Done
		pace += l.CleaningPace(v.Owner.Host, v.ID)
		if rep.Cleaning.Problem == "" {
			rep.Cleaning.Problem = b.Cleaning.Problem
		}
	}
	rep.Kept, rep.Trash = keptRoom(m, l, top), trashRoom(m, l, top)
	paced(rep.Cleaning, pace)
	rep.Traffic = api.FromTraffic(traffic)
	if k, width := code(top); width > 0 {
		room.UsableBytes = (shards + room.FreeBytes) / width * k
	}
	if room.UsableBytes > 0 {
		room.OvercommitPercent = uint64(100 * (float64(room.ProvisionedBytes) / float64(room.UsableBytes)))
	}
}

// code is how new bytes are coded now, k of width; in a cluster too full for new bytes, how the last group is.
func code(top *cluster.Topology) (k, width uint64) {
	if len(top.PGs) == 0 {
		return 0, 0
	}
	i := slices.IndexFunc(top.PGs, func(p cluster.PG) bool { return p.Preferred })
	if i < 0 {
		i = len(top.PGs) - 1
	}
	v := top.PGs[i].Current()
	return uint64(v.K), uint64(v.K) + uint64(v.M)
}

// fillRisk says how much hangs on what is missing, in figures and in one line.
func fillRisk(rep *api.StatusReply, h *reconcile.Report) {
	r := h.Risk
	rep.Risk = &api.Risk{ReducedBytes: r.Reduced, NoMarginBytes: r.None, UnreadableBytes: r.Unreadable, JournalBytes: r.Journals, Margin: uint32(r.Margin)}
	rep.Summary = summary(h)
}

// summary is the health in one line: what, how much, which margin is left.
func summary(h *reconcile.Report) string {
	r := h.Risk
	bytes := func(n uint64) string { return config.ByteSize(n).Human() }
	if slices.ContainsFunc(h.Reasons, func(x reconcile.Reason) bool { return x.Code == "rebuilding" }) {
		return "the state is being rebuilt; what stores have is not judged until then"
	}
	var parts []string
	add := func(n uint64, text string) {
		if n > 0 {
			parts = append(parts, bytes(n)+" "+text)
		}
	}
	add(r.Unreadable, "cannot be read now")
	if h.Stuck > 0 {
		parts = append(parts, fmt.Sprintf("%d disks cannot be served", h.Stuck))
	}
	add(r.None, "may be lost with the next store")
	add(r.Journals, "in journals may be lost with the next store")
	add(r.Reduced, "have less margin than they should")
	if len(parts) == 0 && h.Level != reconcile.OK {
		parts = append(parts, "all that is stored has its margin")
	}
	switch {
	case r.Unreadable+r.None+r.Journals > 0: // said already
	case r.Margin == 1:
		parts = append(parts, "any one store may be lost")
	case r.Margin > 1:
		parts = append(parts, fmt.Sprintf("any %d stores may be lost", r.Margin))
	case h.Level != reconcile.OK:
		parts = append(parts, "no further store may be lost")
	}
	return strings.Join(parts, "; ")
}
