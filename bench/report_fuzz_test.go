package bench_test

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"drayage/bench"
)

// FuzzReport reads reports, compares with them, and writes them in all forms.
func FuzzReport(f *testing.F) {
	for _, s := range []string{
		`{"version":1}`, `{"version":1,"targets":[{"name":"a"}],"results":[{"target":"a","connections":1},{"target":"b","connections":-1}]}`, `{"version":1,"results":[null]}`, `{"version":2}`, `{"version":3}`, `{"version":1,"targets":[null]}`, `{`, `[]`,
		`{"version":1,"targets":[{"name":"a","knee":5}],"results":[{"target":"a","connections":5,"throughput":{"value":1e308,"low":-1e308,"high":1e308}}],"points":[{}]}`,
	} {
		f.Add([]byte(s))
	}
	if raw, err := json.Marshal(bench.Report{Version: bench.ReportVersion, Results: []bench.Result{{Target: "<b>", Connections: 1}}}); err == nil {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := bench.ReadReport(bytes.NewReader(raw))
		if err != nil {
			return
		}
		old, err := bench.ReadReport(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		r.Shares(old)
		r.Baseline(old, 0.1)
		r.Failed()
		bench.Count(r)
		for _, target := range r.Targets {
			r.KneeText(target)
		}
		var page bytes.Buffer
		for _, write := range []func(io.Writer) error{r.WriteJSON, r.WriteCSV, r.WriteBenchstat, r.WriteHTML} {
			_ = write(&page) // numbers that JSON hasn't are refused
		}
		if bytes.Contains(page.Bytes(), []byte("<script>alert")) {
			t.Error("a name becomes part of the page")
		}
	})
}
