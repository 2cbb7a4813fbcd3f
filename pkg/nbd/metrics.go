package nbd

import (
	"github.com/prometheus/client_golang/prometheus"

	"ashlar.dev/pkg/buf"
)

var (
	descRequests = prometheus.NewDesc("nbd_requests_total", "Requests of all connections, by operation.", []string{"op"}, nil)
	descErrors   = prometheus.NewDesc("nbd_errors_total", "Requests answered with an error.", nil, nil)
	descConns    = prometheus.NewDesc("nbd_connections", "Connections now, handshakes included.", nil, nil)
	descRefused  = prometheus.NewDesc("nbd_connections_refused_total", "Connections closed at a limit.", nil, nil)
	descInFlight = prometheus.NewDesc("nbd_requests_in_flight", "Requests whose reply is not written yet.", nil, nil)
	descBytes    = prometheus.NewDesc("nbd_in_flight_bytes", "Payload of the requests in flight.", nil, nil)
	descWaits    = prometheus.NewDesc("nbd_limit_waits_total", "How often the limits of the server made a connection wait.", nil, nil)
	descBuffers  = prometheus.NewDesc("buffer_held_bytes", "Payload buffers out of the pool, process-wide.", nil, nil)
)

// Describe names the metrics of a server; it is a prometheus.Collector.
func (s *Server) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRequests, descErrors, descConns, descRefused, descInFlight, descBytes, descWaits, descBuffers} {
		out <- d
	}
}

// Collect gives their values.
func (s *Server) Collect(out chan<- prometheus.Metric) {
	st := s.Status()
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, op := range opNames {
		counter(descRequests, st.Counts.Requests[op], op)
	}
	counter(descErrors, st.Counts.Errors)
	gauge(descConns, float64(st.Conns))
	counter(descRefused, st.ConnsRefused)
	gauge(descInFlight, float64(st.RequestsInFlight))
	gauge(descBytes, float64(st.BytesInFlight))
	counter(descWaits, st.Waits)
	gauge(descBuffers, float64(buf.Outstanding().Bytes))
}
