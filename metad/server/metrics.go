package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/pkg/errs"
)

// metrics are what metad shows of itself. A nil *metrics counts nothing.
type metrics struct {
	leader  prometheus.Gauge
	commits *prometheus.CounterVec
	took    prometheus.Histogram
	refused *prometheus.CounterVec
	backup  prometheus.Gauge
}

func newMetrics(reg *prometheus.Registry) *metrics {
	if reg == nil {
		return nil
	}
	m := &metrics{
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "metad_leader", Help: "1 while this member leads."}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "metad_commits_total",
			Help: "Commands committed, by result: ok or the class of the refusal."}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "metad_commit_seconds", Help: "From the request to the applied command.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "metad_calls_failed_total", Help: "Calls answered with an error, by class."}, []string{"class"}),
		backup:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "metad_backup_timestamp_seconds", Help: "When this member wrote its last scheduled backup; 0: not since it started."}),
	}
	reg.MustRegister(m.backup, m.leader, m.commits, m.took, m.refused)
	return m
}

var classNames = map[errs.Code]string{
	errs.OK: "ok", errs.Unknown: "unknown", errs.NotFound: "not_found", errs.Exists: "exists", errs.StaleEpoch: "stale_epoch",
	errs.Conflict: "conflict", errs.CorruptData: "corrupt", errs.NoSpace: "no_space", errs.Unavailable: "unavailable",
	errs.Invalid: "invalid", errs.Denied: "denied", errs.Closed: "closed", errs.Timeout: "timeout",
}

func (m *metrics) leading(yes bool) {
	if m == nil {
		return
	}
	m.leader.Set(0)
	if yes {
		m.leader.Set(1)
	}
}

func (m *metrics) backedUp(at time.Time) {
	if m != nil {
		m.backup.Set(float64(at.Unix()))
	}
}

func (m *metrics) committed(err error, took time.Duration) {
	if m == nil {
		return
	}
	m.commits.WithLabelValues(classNames[errs.CodeOf(err)]).Inc()
	m.took.Observe(took.Seconds())
}

func (m *metrics) failed(err error) {
	if m != nil {
		m.refused.WithLabelValues(classNames[errs.CodeOf(err)]).Inc()
	}
}
