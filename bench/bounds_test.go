package bench_test

import (
	"bytes"
	"strings"
	"testing"

	"drayage/bench"
	"drayage/engine/limitstest"
)

// Whatever a report is, reading it takes little memory.
func TestReadReportTakesLittleMemory(t *testing.T) {
	read := func(name string, raw []byte) {
		if peak := limitstest.Peak(func() {
			if _, err := bench.ReadReport(bytes.NewReader(raw)); err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("%s: not one short line: %.1000q", name, err)
			}
		}); peak > limitstest.Most {
			t.Errorf("%s: %d MiB", name, peak>>20)
		}
	}
	for name, raw := range limitstest.Texts("", "", 1<<20) {
		read(name, raw)
	}
	for _, list := range []string{"targets", "results", "comparisons", "exchanges", "series"} {
		for _, unit := range []string{`{}`, `{"byRound":[0,0,0,0,0,0],"latencyCurve":[0,0,0,0]}`, `{"errors":{"a":0,"b":0,"c":0}}`} {
			read(list+" of "+unit, limitstest.Filled(`{"version":1,"`+list+`":[`, unit, `]}`, 2<<20))
		}
	}
	for _, field := range []string{`"byRound":[`, `"latencyCurve":[`} {
		inner := limitstest.Filled(`{`+field, `0`, `]}`, 480_000)
		read(field, limitstest.Filled(`{"version":1,"results":[`, string(inner), `]}`, 4<<20))
	}
}
