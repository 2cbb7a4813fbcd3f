package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/buf"
)

// collector reads the rooms' own counters when somebody asks: nothing is counted twice
// on the I/O path.
type collector struct {
	s     *server
	descs map[string]*prometheus.Desc
}

// gauge and counter say what a figure is.
const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// figures are the metrics of a blockd: name, help, labels.
var figures = []struct {
	name, help string
	labels     []string
}{
	{"blockd_volumes", "Disks owned by this host.", nil},
	{"blockd_volume_unpacked_bytes", "Written bytes in the journal that are not in segments yet.", nil},
	{"blockd_volume_waiting_writes", "Writes that wait for memory.", nil},
	{"blockd_volume_checkpoints_total", "Checkpoints of the disks open now.", nil},
	{"blockd_volume_pack_retries_total", "Segments given up and made anew, of the disks open now.", nil},
	{"blockd_volume_segments", "Segments of the disks open now.", nil},
	{"blockd_volume_live_bytes", "Bytes in segments that the disks open now refer to.", nil},
	{"blockd_volume_dead_bytes", "Bytes beside them that nobody refers to: the cleaner's work.", nil},
	{"blockd_volume_reclaimable_bytes", "Bytes that go with the next checkpoint.", nil},
	{"blockd_volume_cleaning", "Disks being cleaned now.", nil},
	{"blockd_volume_segments_rewritten_total", "Segments rewritten without their dead slots, of the disks open now.", nil},
	{"blockd_volume_segments_merged_total", "Segments whose blocks were moved, of the disks open now.", nil},
	{"blockd_volume_cleaned_bytes_total", "Bytes written by cleaning, parity not counted, of the disks open now.", nil},
	{"blockd_throttle_disks", "Disks open here that have limits.", nil},
	{"blockd_throttle_waiting", "Requests that the disks' limits hold back now.", nil},
	{"blockd_throttle_delayed_total", "Requests that were held back, of the disks open now.", nil},
	{"blockd_repair_rate_bytes", "Bytes per second that repair may move on this host now.", nil},
	{"blockd_repair_moved_bytes_total", "Bytes that repair moved on this host.", nil},
	{"blockd_volume_leftovers_total", "Segments that dead owners had put and not committed, found and deleted by the disks open now.", nil},
	{"blockd_packer_segments_total", "Segments written.", nil},
	{"blockd_packer_failures_total", "Segments that could not be written.", nil},
	{"blockd_reader_reads_total", "Runs of slots read.", nil},
	{"blockd_reader_hedged_total", "Reads for which the other shards were asked because one was slow.", nil},
	{"blockd_reader_degraded_total", "Reads answered by rebuilding from other shards.", nil},
	{"blockd_reader_failures_total", "Reads that too few shards could answer.", nil},
	{"blockd_cache_hits_total", "Blocks found in the block cache.", nil},
	{"blockd_cache_misses_total", "Blocks not found in the block cache.", nil},
	{"blockd_buffers_bytes", "Payload buffers in use.", nil},
	{"blockd_store_used_bytes", "Bytes used of a store.", []string{"store"}},
	{"blockd_store_capacity_bytes", "Bytes that a store may use.", []string{"store"}},
	{"blockd_store_journal_bytes", "Journal bytes that a store keeps unreleased.", []string{"store"}},
	{"blockd_store_syncs_total", "fdatasyncs of a store.", []string{"store"}},
	{"blockd_store_written_bytes_total", "Bytes that a store gave to its disk.", []string{"store"}},
	{"blockd_store_bad_blocks_total", "Blocks of shards that a store could not read or that failed their check: its disk rots.", []string{"store"}},
	{"blockd_store_shards_wrong_total", "Shards that were found wrong, since the store was formatted.", []string{"store"}},
	{"blockd_store_shards_missing_total", "Shards that should have been there and were not, since the store was formatted.", []string{"store"}},
	{"blockd_store_shards_mended_total", "Shards put right again, since the store was formatted.", []string{"store"}},
	{"blockd_store_shards_stuck", "Shards that are wrong and cannot be rebuilt now.", []string{"store"}},
	{"blockd_store_dead", "1 if the store has died.", []string{"store"}},
}

func newCollector(s *server) *collector {
	c := &collector{s: s, descs: make(map[string]*prometheus.Desc)}
	for _, f := range figures {
		c.descs[f.name] = prometheus.NewDesc(f.name, f.help, f.labels, nil)
	}
	return c
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range figures {
		ch <- c.descs[f.name]
	}
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	put := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], kind, v, labels...)
	}
	var volumes, unpacked, waiting, checkpoints, retries, leftovers float64
	var clean cleaning
	c.s.exports.Owned(func(v *volume.Volume, _ int) {
		st := v.Stats()
		volumes++
		unpacked += float64(st.UnpackedBytes)
		waiting += float64(st.WaitingForRoom)
		checkpoints += float64(st.Checkpoints)
		retries += float64(st.PackRetries)
		leftovers += float64(st.Leftovers)
		clean.add(&st)
	})
	put("blockd_volumes", gauge, volumes)
	put("blockd_volume_unpacked_bytes", gauge, unpacked)
	put("blockd_volume_waiting_writes", gauge, waiting)
	put("blockd_volume_checkpoints_total", counter, checkpoints)
	put("blockd_volume_pack_retries_total", counter, retries)
	put("blockd_volume_leftovers_total", counter, leftovers)
	clean.put(put)
	limited, held, delayed := c.s.exports.Throttled()
	put("blockd_repair_rate_bytes", gauge, c.s.repairPace.Rate())
	put("blockd_repair_moved_bytes_total", counter, float64(c.s.repairPace.Moved()))
	put("blockd_throttle_disks", gauge, float64(limited))
	put("blockd_throttle_waiting", gauge, float64(held))
	put("blockd_throttle_delayed_total", counter, float64(delayed))
	p := c.s.packer.Stats()
	put("blockd_packer_segments_total", counter, float64(p.Segments))
	put("blockd_packer_failures_total", counter, float64(p.Failed))
	r := c.s.reader.Stats()
	put("blockd_reader_reads_total", counter, float64(r.Reads))
	put("blockd_reader_hedged_total", counter, float64(r.Hedged))
	put("blockd_reader_degraded_total", counter, float64(r.Degraded))
	put("blockd_reader_failures_total", counter, float64(r.Failed))
	k := c.s.cache.Stats()
	put("blockd_cache_hits_total", counter, float64(k.Hits))
	put("blockd_cache_misses_total", counter, float64(k.Misses))
	put("blockd_buffers_bytes", gauge, float64(buf.Outstanding().Bytes))
	c.stores(put)
}

// stores reports the local stores; their number is bounded by the config.
func (c *collector) stores(put func(string, prometheus.ValueType, float64, ...string)) {
	for _, st := range c.s.local.all() {
		name := st.ID().String()
		n := st.Stats()
		if st.filler.worker != nil { // the process may be just starting
			h := st.filler.worker.Health()
			put("blockd_store_shards_wrong_total", counter, float64(h.Wrong), name)
			put("blockd_store_shards_missing_total", counter, float64(h.Missing), name)
			put("blockd_store_shards_mended_total", counter, float64(h.Mended), name)
			put("blockd_store_shards_stuck", gauge, float64(h.Stuck), name)
		}
		dead := 0.0
		if st.Err() != nil {
			dead = 1
		}
		put("blockd_store_used_bytes", gauge, float64(n.UsedBytes), name)
		put("blockd_store_capacity_bytes", gauge, float64(n.CapacityBytes), name)
		put("blockd_store_journal_bytes", gauge, float64(n.JournalBytes), name)
		put("blockd_store_syncs_total", counter, float64(n.Syncs), name)
		put("blockd_store_written_bytes_total", counter, float64(n.WriteBytes), name)
		put("blockd_store_bad_blocks_total", counter, float64(n.BadBlocks), name)
		put("blockd_store_dead", gauge, dead, name)
	}
}
