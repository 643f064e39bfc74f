package bench_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"drayage/bench"
)

// FuzzReport reads reports, and compares a report with them.
func FuzzReport(f *testing.F) {
	for _, s := range []string{
		`{"version":1}`, `{"version":1,"targets":[{"name":"a"}],"results":[{"target":"a","connections":1},{"target":"b","connections":-1}]}`, `{"version":1,"results":[null]}`, `{"version":2}`, `{"version":3}`, `{"version":1,"targets":[null]}`, `{`, `[]`,
		`{"version":1,"targets":[{"name":"a","knee":5}],"results":[{"target":"a","connections":5,"throughput":{"value":1e308,"low":-1e308,"high":1e308}}],"points":[{}]}`,
	} {
		f.Add([]byte(s))
	}
	now := &bench.Report{Version: 1, Targets: []bench.ReportTarget{{Name: "a"}, {Name: "b"}}, Results: []bench.Result{{Target: "a", Connections: 1}, {Target: "b", Connections: 5}}}
	raw, err := json.Marshal(now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		old, err := bench.ReadReport(bytes.NewReader(raw))
		if err != nil {
			return
		}
		regressions, err := now.Regressions(old, 0.1)
		if err != nil && len(regressions) > 0 {
			t.Errorf("%q: %+v and %v", raw, regressions, err)
		}
		for _, r := range regressions {
			if !(r.Fraction > 0.1) {
				t.Errorf("%q: %+v", raw, r)
			}
		}
	})
}
