package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/block"
)

// cleaning sums up what the disks open here hold, and what the cleaner did.
type cleaning struct {
	segments, live, dead, reclaimable, active, rewritten, merged, cleaned float64
}

func (x *cleaning) add(st *core.Stats) {
	x.segments += float64(st.Segments)
	x.live += float64(st.LiveBytes)
	x.dead += float64(st.DeadBytes)
	x.reclaimable += float64(st.DeadSegmentBytes)
	if st.Cleaning {
		x.active++
	}
	x.rewritten += float64(st.SegmentsRewritten)
	x.merged += float64(st.SegmentsMerged)
	x.cleaned += float64(st.BlocksCleaned+st.PagesRenewed) * block.Size
}

func (x *cleaning) put(put func(string, prometheus.ValueType, float64, ...string)) {
	put("blockd_volume_segments", gauge, x.segments)
	put("blockd_volume_live_bytes", gauge, x.live)
	put("blockd_volume_dead_bytes", gauge, x.dead)
	put("blockd_volume_reclaimable_bytes", gauge, x.reclaimable)
	put("blockd_volume_cleaning", gauge, x.active)
	put("blockd_volume_segments_rewritten_total", counter, x.rewritten)
	put("blockd_volume_segments_merged_total", counter, x.merged)
	put("blockd_volume_cleaned_bytes_total", counter, x.cleaned)
}
