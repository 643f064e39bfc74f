package benchmark

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"drayage/bench"
)

// The metrics tell what has been read so far, and go with the run.
func TestBenchMetrics(t *testing.T) {
	m, err := startMetrics(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	st := bench.Step{Target: "app", Connections: 4, Round: 2}
	m.step(st)
	m.sample(st, bench.Sample{Host: "a.example", Bytes: 1000, Total: 30 * time.Millisecond, FirstByte: 3 * time.Millisecond})
	m.sample(st, bench.Sample{Host: "a.example", Bytes: 10, Err: "cut short"})
	url := "http://" + m.Addr().String() + "/metrics"
	raw, err := get(t, url)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`drayage_bench_requests_total{error="",host="a.example",target="app"} 1`,
		`drayage_bench_requests_total{error="cut short",host="a.example",target="app"} 1`,
		`drayage_bench_received_bytes_total{host="a.example",target="app"} 1010`,
		`drayage_bench_latency_seconds_bucket{target="app",le="0.032"} 1`,
		`drayage_bench_latency_seconds_bucket{target="app",le="0.016"} 0`,
		`drayage_bench_first_byte_seconds_count{target="app"} 1`,
		`drayage_bench_connections{target="app"} 4`, `drayage_bench_round 2`,
	} {
		if !strings.Contains(string(raw), want+"\n") {
			t.Errorf("no %s in\n%s", want, raw)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := get(t, url); err == nil {
		t.Error("it is still there")
	}
}

func get(t *testing.T, url string) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
