package server

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/pkg/objectstore"
)

// metrics count what goes to and from the archive.
type metrics struct {
	uploads, backup    prometheus.Gauge
	archived, failed   prometheus.Counter
	puts, putBytes     prometheus.Counter
	reads, readBytes   prometheus.Counter
	errors             prometheus.Counter
	blocks, storedSize prometheus.Counter
}

func newMetrics(r *prometheus.Registry) metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := metrics{
		uploads:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "snapshotd_uploads", Help: "Snapshots being uploaded."}),
		archived:   counter("snapshotd_archived_total", "Snapshots archived."),
		failed:     counter("snapshotd_failed_total", "Uploads that failed."),
		puts:       counter("snapshotd_store_puts_total", "Objects put into the archive."),
		putBytes:   counter("snapshotd_store_put_bytes_total", "Bytes put into the archive."),
		reads:      counter("snapshotd_store_reads_total", "Reads from the archive."),
		readBytes:  counter("snapshotd_store_read_bytes_total", "Bytes read from the archive."),
		errors:     counter("snapshotd_store_errors_total", "Requests to the archive that failed after all tries."),
		blocks:     counter("snapshotd_uploaded_block_bytes_total", "Bytes of blocks uploaded, before compression."),
		storedSize: counter("snapshotd_uploaded_stored_bytes_total", "Bytes that archived snapshots took."),
	}
	m.backup = prometheus.NewGauge(prometheus.GaugeOpts{Name: "snapshotd_metad_backup_timestamp_seconds", Help: "When this snapshotd put metad's state into the archive last; 0: not in this life."})
	r.MustRegister(m.uploads, m.backup)
	return m
}

// counted is a store whose requests are counted.
type counted struct {
	objectstore.Store
	m *metrics
}

func (m *metrics) count(s objectstore.Store) objectstore.Store { return counted{s, m} }

func (c counted) noted(err error) error {
	if err != nil {
		c.m.errors.Inc()
	}
	return err
}

func (c counted) Put(ctx context.Context, key string, body []byte) error {
	c.m.puts.Inc()
	c.m.putBytes.Add(float64(len(body)))
	return c.noted(c.Store.Put(ctx, key, body))
}

func (c counted) PutNew(ctx context.Context, key string, body []byte) error {
	c.m.puts.Inc()
	c.m.putBytes.Add(float64(len(body)))
	return c.noted(c.Store.PutNew(ctx, key, body))
}

func (c counted) PutLocked(ctx context.Context, key string, body []byte, l objectstore.Lock) error {
	c.m.puts.Inc()
	c.m.putBytes.Add(float64(len(body)))
	return c.noted(c.Store.PutLocked(ctx, key, body, l))
}

func (c counted) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	c.m.reads.Inc()
	c.m.readBytes.Add(float64(len(dst)))
	return c.noted(c.Store.ReadAt(ctx, key, dst, offset))
}
