package volume_test

import (
	"testing"
	"time"

	"ashlar.dev/pkg/id"
)

// Without this what the simulated world knows of generations would be tried nowhere on real
// shards: ranks, headers, pieces with gaps, generations of generations, with a store
// gone, and the next owner, who knows nothing but the tables.
func TestCleanedVolumeIsLikeFlatBytes(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.limits.LongBlocksMin, r.limits.CheckpointDead, r.limits.CheckpointIdle = 64, 64<<10, time.Millisecond
	v := id.Volume{1}
	const size = 4 << 20
	r.metad.Create(v, size)
	f := &flat{t: t, rng: seed(t), data: make([]byte, size)}
	for life := range 2 {
		vol := r.engine(id.Host([]string{"b1", "b2"}[life])).mustOpen(v)
		f.all(vol) // with nothing but the tables
		limit := time.Now().Add(30 * time.Second)
		for n := 0; ; n++ {
			for range 16 {
				off := f.rng.Uint64N(size/4096) * 4096
				b := f.bytes(4096)
				if err := write(vol, off, b); err != nil {
					t.Fatal(err)
				}
				copy(f.data[off:], b)
			}
			if n%64 == 0 {
				f.all(vol)
			}
			if st := vol.Stats(); st.SegmentsRewritten >= 12 && st.SegmentsMerged >= 4 && st.GenerationsDeleted >= 4 {
				t.Logf("life %d: %+v", life, st)
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("the cleaner does too little: %+v", vol.Stats())
			}
		}
		f.all(vol)
		r.stores[life].Crash(1)
		f.all(vol)
		r.stores[life].Restart()
	}
}
