package benchmark

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"drayage/bench"
	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/listen"
	"drayage/cmd/drayage/internal/status"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics shows a bench to Prometheus while it runs. Nil shows nothing.
type metrics struct {
	server   *conns.Server
	listener net.Listener
	served   chan error

	requests    *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	latency     *prometheus.HistogramVec
	firstByte   *prometheus.HistogramVec
	connections *prometheus.GaugeVec
	round       prometheus.Gauge
}

// startMetrics serves metrics at an address; "" is nowhere.
func startMetrics(ctx context.Context, address string) (*metrics, error) {
	if address == "" {
		return nil, nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, status.Misuse(fmt.Errorf("--metrics-listen %q: must be HOST:PORT, e.g. 127.0.0.1:9090", address))
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, listen.Explain("--metrics-listen", address, err)
	}
	// A millisecond to 65 seconds.
	buckets := prometheus.ExponentialBuckets(0.001, 2, 17)
	m := &metrics{
		listener: listener, served: make(chan error, 1),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drayage_bench_requests_total", Help: "Reads that have ended, by what went wrong; empty when nothing did."}, []string{"target", "host", "error"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drayage_bench_received_bytes_total", Help: "Bytes of blobs, of reads that have ended."}, []string{"target", "host"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drayage_bench_latency_seconds", Help: "From when a read was due to its last byte.", Buckets: buckets}, []string{"target"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "drayage_bench_first_byte_seconds", Help: "From a read's beginning to its first byte.", Buckets: buckets}, []string{"target"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "drayage_bench_connections", Help: "Connections to the target that is read from now."}, []string{"target"}),
		round: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "drayage_bench_round", Help: "The round that is under way; 0 is the warm-up."}),
	}
	all := prometheus.NewRegistry()
	all.MustRegister(m.requests, m.bytes, m.latency, m.firstByte, m.connections, m.round)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{}))
	const patience = 5 * time.Second
	m.server = conns.New(conns.Options{Handler: conns.NoBodies(mux), Timeouts: conns.Timeouts{Header: patience}})
	go func() { m.served <- m.server.Serve(listener) }()
	return m, nil
}

// Addr is where the metrics are.
func (m *metrics) Addr() net.Addr { return m.listener.Addr() }

// Close stops the server, and waits for it.
func (m *metrics) Close() error {
	if m == nil {
		return nil
	}
	err := m.server.Close()
	if served := <-m.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (m *metrics) step(st bench.Step) {
	if m == nil {
		return
	}
	m.connections.Reset()
	m.connections.WithLabelValues(st.Target).Set(float64(st.Connections))
	m.round.Set(float64(st.Round))
}

func (m *metrics) sample(st bench.Step, s bench.Sample) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(st.Target, s.Host, s.Err).Inc()
	m.bytes.WithLabelValues(st.Target, s.Host).Add(float64(s.Bytes))
	if s.Err == "" {
		m.latency.WithLabelValues(st.Target).Observe(s.Total.Seconds())
		m.firstByte.WithLabelValues(st.Target).Observe(s.FirstByte.Seconds())
	}
}
