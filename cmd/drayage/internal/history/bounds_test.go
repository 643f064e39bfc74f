package history_test

import (
	"bytes"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/history"
	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/limitstest"
)

// Whatever a record is, reading it takes little memory.
func TestReadTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	read := func(name string, raw []byte) {
		if peak := limitstest.Peak(func() {
			if _, err := history.Read(bytes.NewReader(raw)); err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("%s: not one short line: %.1000q", name, err)
			}
		}); peak > limitstest.Most {
			t.Errorf("%s: %d MiB", name, peak>>20)
		}
	}
	for name, raw := range limitstest.Texts("", "", 4<<20) {
		read(name, raw)
	}
	for _, list := range []string{"images", "blobs", "hosts", "outputs", "warnings", "more"} {
		for _, unit := range []string{`{}`, `""`} {
			read(list+" of "+unit, limitstest.Filled(`{"version":1,"`+list+`":[`, unit, `]}`, 4<<20))
		}
	}
	blob := `{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1,"image":"` + strings.Repeat("x", 100) + `"}`
	read("blobs", limitstest.Filled(`{"version":1,"blobs":[`, blob, `]}`, limits.ReportBytes))
}

func TestReadHoldsRecordsToTheLimits(t *testing.T) {
	blob := `{"digest":"sha256:` + strings.Repeat("0", 64) + `"}`
	record := func(n int) string {
		return `{"version":1,"blobs":[` + strings.TrimSuffix(strings.Repeat(blob+",", n), ",") + `]}`
	}
	for _, c := range []struct{ text, want string }{
		{record(limits.ReportEntries), ""}, {record(limits.ReportEntries + 1), "more than 50000 entries"},
		{`{"version":1,"blobs":null}`, ""}, {`{"version":1,"blobs":{}}`, "JSON"}, {`{"version":1,"blobs":[],"Blobs":[]}`, `duplicate field "Blobs"`},
		{`{"version":1,"Version":2}`, `duplicate field "Version"`}, {``, "JSON"}, {`{"version":1`, "JSON"}, {`{"version":2}`, "version 1"}, {`[]`, "JSON"},
	} {
		_, err := history.Read(strings.NewReader(c.text))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%.60s: %v, want %q", c.text, err, c.want)
		}
	}
}
