package progress_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/progress"
	"drayage/engine/event"

	"github.com/opencontainers/go-digest"
)

// FuzzEvents shows events with odd words and numbers in all ways. For programs each is one line of
// JSON that reads as it was.
func FuzzEvents(f *testing.F) {
	for i, s := range []string{"docker.io/library/alpine:3", "\x1b]0;x\x07", "a\nb", "\r\x08", "\xff", "\u2028\u202e", `"},{"`, strings.Repeat("x", 5000), ""} {
		f.Add(s, int64(5), int64(i))
		f.Add(s, int64(-1), int64(1)<<62)
	}
	f.Fuzz(func(t *testing.T, s string, n, size int64) {
		d := digest.FromString(s)
		events := []event.Event{
			event.Started{Images: int(n)}, event.Resolved{Image: s, Digest: d, Blobs: int(n), Size: size, Here: n}, event.Queued{Digest: d, Size: size}, event.Fetching{Digest: d, Size: size, Image: s},
			event.Waiting{Digest: d}, event.Progress{Digest: d, N: n}, event.Resumed{Digest: d, N: size}, event.Warned{Message: s}, event.Retrying{What: s, Why: s, Try: int(n), Delay: time.Duration(size)},
			event.Verified{Digest: d}, event.Fetched{Digest: d, Size: n}, event.Failed{Digest: digest.Digest(s), Why: s}, event.Progress{Digest: digest.Digest(s), N: 1}, event.Pulled{Image: s},
		}
		var out bytes.Buffer
		lines := progress.NewJSON(&out)
		for _, p := range []progress.Printer{progress.NewBars(io.Discard, func() (int, int) { return int(n % 300), int(size % 100) }), progress.NewPlain(io.Discard, time.Nanosecond), lines} {
			for _, e := range events {
				p.Observe(e)
			}
			p.Hide()
			p.Close()
		}
		shown := 0
		for line := range strings.Lines(out.String()) {
			shown++
			if !json.Valid([]byte(line)) || !strings.HasSuffix(line, "\n") {
				t.Errorf("not a line of JSON: %q", line)
			}
		}
		if shown < len(events) {
			t.Errorf("%d lines for %d events", shown, len(events))
		}
	})
}
