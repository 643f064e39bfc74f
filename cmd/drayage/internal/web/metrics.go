package web

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"drayage/blobstore"
	"drayage/engine/mirror"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics count what is served.
type Metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	flight   prometheus.Gauge
	served   *prometheus.CounterVec
	received prometheus.Counter

	hits, misses atomic.Int64 // for the page
}

// NewMetrics makes counters that stand at 0.
func NewMetrics() *Metrics {
	const least, buckets = 0.0005, 16 // seconds; to 16 s
	return &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drayage_serve_requests_total", Help: "Requests by what they were for and how they were answered."}, []string{"kind", "status"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drayage_serve_sent_bytes_total", Help: "Bytes of answers' bodies."}, []string{"kind"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "drayage_serve_request_seconds", Help: "How long answers took, to their last byte.",
			Buckets: prometheus.ExponentialBuckets(least, 2, buckets)}, []string{"kind"}),
		flight:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "drayage_serve_requests_in_flight", Help: "Requests that are being answered."}),
		served:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drayage_serve_served_total", Help: "Manifests and blobs by where they came from: store, upstream, or stale."}, []string{"kind", "from"}),
		received: prometheus.NewCounter(prometheus.CounterOpts{Name: "drayage_serve_upstream_received_bytes_total", Help: "Bytes of blobs that came from upstream."}),
	}
}

// Served counts where a manifest or blob came from.
func (m *Metrics) Served(kind string, from mirror.Hit) {
	m.served.WithLabelValues(kind, string(from)).Inc()
	if kind != "blob" {
		return
	}
	if from == mirror.FromStore {
		m.hits.Add(1)
	} else {
		m.misses.Add(1)
	}
}

func (m *Metrics) begin() { m.flight.Inc() }

func (m *Metrics) end(kind string, status int, bytes int64, took time.Duration) {
	m.flight.Dec()
	m.requests.WithLabelValues(kind, strconv.Itoa(status)).Inc()
	m.bytes.WithLabelValues(kind).Add(float64(bytes))
	m.took.WithLabelValues(kind).Observe(took.Seconds())
}

// registry has the counters, those of the process, and what the store takes.
func (m *Metrics) registry(usage *held[blobstore.Usage]) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(m.requests, m.bytes, m.took, m.flight, m.served, m.received, &storeCollector{usage},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// storeCollector looks at the store when it is asked.
type storeCollector struct{ usage *held[blobstore.Usage] }

var (
	storeBytes  = prometheus.NewDesc("drayage_store_bytes", "Bytes of the store's blobs.", nil, nil)
	storeImages = prometheus.NewDesc("drayage_store_images", "Images in the store.", nil, nil)
	storeFree   = prometheus.NewDesc("drayage_store_free_bytes", "Bytes that are free on the store's disk.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(out chan<- *prometheus.Desc) {
	out <- storeBytes
	out <- storeImages
	out <- storeFree
}

// Collect implements prometheus.Collector.
func (c *storeCollector) Collect(out chan<- prometheus.Metric) {
	u, err := c.usage.get(context.Background())
	if err != nil {
		out <- prometheus.NewInvalidMetric(storeBytes, err)
		return
	}
	out <- prometheus.MustNewConstMetric(storeBytes, prometheus.GaugeValue, float64(u.Bytes))
	out <- prometheus.MustNewConstMetric(storeImages, prometheus.GaugeValue, float64(u.Images))
	out <- prometheus.MustNewConstMetric(storeFree, prometheus.GaugeValue, float64(u.Free))
}
