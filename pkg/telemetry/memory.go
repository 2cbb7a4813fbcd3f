package telemetry

import (
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// heapBeside is what a process has beside its bounded uses: code's own tables, stacks, what
// the collector has not collected yet.
const heapBeside = 256 << 20

// heapLimit is what LimitHeap set last.
var heapLimit atomic.Int64

// LimitHeap makes Go's collector work harder rather than let the process grow beyond the sum of what
// its uses of memory may take, and a quarter of a GiB. It may be called again when the uses change. Whoever sets GOMEMLIMIT knows better: it stays as it is.
func LimitHeap(uses uint64) {
	limit := int64(uses) + heapBeside
	if os.Getenv("GOMEMLIMIT") == "" && heapLimit.Swap(limit) != limit { // setting it stops the world for a moment
		debug.SetMemoryLimit(limit)
	}
}

// ReadHeap gives the limit in force, 0 for none, and what counts against it now.
func ReadHeap() (limit, used uint64) {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	if set := debug.SetMemoryLimit(-1); set != math.MaxInt64 {
		limit = uint64(set)
	}
	return limit, s[0].Value.Uint64() - s[1].Value.Uint64()
}

var (
	descMemoryUsed = prometheus.NewDesc("ashlar_memory_used_bytes", "Memory in use, by what for; some uses lie within others.", []string{"use", "within"}, nil)
	descMemoryMax  = prometheus.NewDesc("ashlar_memory_limit_bytes", "What a use of memory may take.", []string{"use", "within"}, nil)
	descHeapMax    = prometheus.NewDesc("ashlar_memory_heap_limit_bytes", "Above what Go's collector lets the process not grow: the limits of its uses, or GOMEMLIMIT.", nil, nil)
)

// MemoryMetrics shows the uses of memory that each tells of: their names are few and fixed.
type MemoryMetrics func(tell func(use, within string, limit, used uint64))

// Describe is prometheus.Collector's.
func (MemoryMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- descMemoryUsed
	ch <- descMemoryMax
	ch <- descHeapMax
}

// Collect is prometheus.Collector's.
func (m MemoryMetrics) Collect(ch chan<- prometheus.Metric) {
	m(func(use, within string, limit, used uint64) {
		ch <- prometheus.MustNewConstMetric(descMemoryUsed, prometheus.GaugeValue, float64(used), use, within)
		ch <- prometheus.MustNewConstMetric(descMemoryMax, prometheus.GaugeValue, float64(limit), use, within)
	})
	limit, _ := ReadHeap()
	ch <- prometheus.MustNewConstMetric(descHeapMax, prometheus.GaugeValue, float64(limit))
}
