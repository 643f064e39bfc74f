package bench

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteCSV writes one line per result, with bytes, seconds, and bytes per second.
func (r *Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{{"target", "connections", "throughput", "throughput_low", "throughput_high", "requests", "errors", "bytes", "elapsed",
		"latency_p50", "latency_p90", "latency_p99", "latency_p99.9", "first_byte_p50", "first_byte_p90", "first_byte_p99", "first_byte_p99.9"}}
	num := func(f float64) string { return strconv.FormatFloat(f, 'g', 8, 64) }
	for _, x := range r.Results {
		row := []string{x.Target, strconv.Itoa(x.Connections), num(x.Throughput.Estimate), num(x.Throughput.Low), num(x.Throughput.High),
			strconv.Itoa(x.Requests), strconv.Itoa(x.ErrorCount()), strconv.FormatInt(x.Bytes, 10), num(x.Elapsed)}
		for _, q := range []Quantiles{x.Latency, x.FirstByte} {
			row = append(row, num(q.P50), num(q.P90), num(q.P99), num(q.P999))
		}
		rows = append(rows, row)
	}
	return out.WriteAll(rows)
}

// WriteBenchstat writes one line per round in the format of Go's benchmarks, for
// benchstat.
func (r *Report) WriteBenchstat(w io.Writer) error {
	var b strings.Builder
	for _, x := range r.Results {
		name := "BenchmarkPull/target=" + strings.NewReplacer(" ", "_", "/", "_").Replace(x.Target)
		for _, tp := range x.ByRound {
			if tp > 0 {
				fmt.Fprintf(&b, "%s/connections=%d 1 %.0f ns/op %.2f MB/s %.6f p50-first-byte-sec %.6f p99-latency-sec\n",
					name, x.Connections, 1e9*float64(x.Bytes)/float64(len(x.ByRound))/tp, tp/1e6, x.FirstByte.P50, x.Latency.P99)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
