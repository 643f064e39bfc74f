package progress_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/progress"
	"drayage/engine/event"

	"github.com/opencontainers/go-digest"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 1536 << 10: "1.5 MiB", 1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := progress.Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

// screen is a terminal of a fixed size that understands what Bars writes:
// printing, newline, cursor up, carriage return, and the two erasures.
type screen struct {
	mu            sync.Mutex
	width, height int
	lines         []string
	row           int
	scrolled      int
	fault         string
}

func (s *screen) size() (int, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.width, s.height
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(p)
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexAny(rest, "AJK")
			n, _ := strconv.Atoi(rest[:end]) // J and K come without a number
			switch rest[end] {
			case 'A':
				if s.row -= n; s.row < 0 {
					s.fault = "the cursor left the screen"
					s.row = 0
				}
			case 'J':
				s.lines = s.lines[:min(len(s.lines), s.row)]
			}
			text = rest[end+1:]
			continue
		}
		if text[0] == '\r' {
			text = text[1:]
			continue
		}
		end := strings.IndexAny(text, "\x1b\n")
		if end > 0 {
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] = text[:end]
			if n := len([]rune(text[:end])); n >= s.width {
				s.fault = fmt.Sprintf("a line of %d on a width of %d", n, s.width)
			}
			text = text[end:]
		}
		if strings.HasPrefix(text, "\n") {
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, "")
			}
			s.row++
			text = text[1:]
			if s.row >= s.height {
				s.scrolled++
				s.lines = s.lines[1:]
				s.row--
			}
		}
	}
	return len(p), nil
}

func id(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

// Three hundred blobs on a small terminal: what is drawn always fits, never
// scrolls, and is gone at the end but for one line.
func TestBarsStayCalm(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {40, 6}, {200, 60}, {21, 4}} {
		synctest.Test(t, func(t *testing.T) {
			s := &screen{width: size[0], height: size[1]}
			b := progress.NewBars(s, s.size)
			b.Observe(event.Started{Images: 60})
			for i := range 300 {
				b.Observe(event.Queued{Digest: id(i), Size: 1 << 20})
			}
			for i := range 300 {
				b.Observe(event.Fetching{Digest: id(i), Size: 1 << 20, Image: "registry.example/a/long/name/of/an/image:1.2.3"})
				b.Observe(event.Progress{Digest: id(i), N: 1 << 19})
				if i >= 16 {
					b.Observe(event.Progress{Digest: id(i - 16), N: 1 << 19})
					b.Observe(event.Fetched{Digest: id(i - 16), Size: 1 << 20})
				}
				time.Sleep(70 * time.Millisecond)
				if i%50 == 0 {
					b.Log("warning: something")
				}
			}
			s.mu.Lock()
			head := ""
			for _, l := range s.lines {
				if strings.Contains(l, "images") {
					head = l
				}
			}
			if want := "0/60 images, 28"[:min(15, size[0]-2)]; !strings.HasPrefix(head, want) || size[0] >= 80 && !strings.Contains(head, "=>") {
				t.Errorf("%v: the line for the whole is %q", size, head)
			}
			if s.fault != "" {
				t.Errorf("%v: %s", size, s.fault)
			}
			if most := 6 + size[1]; s.scrolled > most {
				t.Errorf("%v: scrolled %d lines", size, s.scrolled)
			}
			s.mu.Unlock()
			b.Close()
			b.Close()
			for i, l := range s.lines {
				if l != "warning: something" && i != len(s.lines)-1 {
					t.Errorf("%v: left on the screen: %q", size, l)
				}
			}
			if last := s.lines[len(s.lines)-1]; !strings.HasPrefix(last, "pulled 0 of 60 images"[:min(20, size[0]-1)]) {
				t.Errorf("%v: the last line is %q", size, last)
			}
		})
	}
}

func TestPlainIsFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := progress.NewPlain(&out, 10*time.Second)
		p.Observe(event.Started{Images: 1})
		p.Observe(event.Queued{Digest: id(1), Size: 100 << 20})
		p.Observe(event.Fetching{Digest: id(1), Size: 100 << 20})
		for range 1000 {
			p.Observe(event.Progress{Digest: id(1), N: 100 << 10})
			time.Sleep(50 * time.Millisecond)
		}
		p.Observe(event.Pulled{Image: "x:1", Fetched: 100 << 20})
		p.Close()
		p.Observe(event.Pulled{Image: "after the end"})
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) < 5 || len(lines) > 8 {
			t.Errorf("%d lines for 50 seconds:\n%s", len(lines), out.String())
		}
		if !strings.Contains(lines[0], "0 of 1 images, 0 of 1 blobs, ") || !strings.Contains(lines[0], "/s, ") || !strings.HasSuffix(lines[0], " left") {
			t.Errorf("first line: %s", lines[0])
		}
		if want := "pulled 1 of 1 images in 50s: "; !strings.HasPrefix(lines[len(lines)-1], want) {
			t.Errorf("last line: %s, want %s…", lines[len(lines)-1], want)
		}
	})
}

func TestPlainLines(t *testing.T) {
	for want, e := range map[string]event.Event{
		"pulled x:1: 3.0 KiB fetched, 0 B reused":                                    event.Pulled{Image: "x:1", Fetched: 3 << 10},
		"waiting for blob " + id(1).String() + ": another process is downloading it": event.Waiting{Digest: id(1)},
		"retrying in 2s: layer: connection reset":                                    event.Retrying{What: "layer", Why: "connection reset", Delay: 2 * time.Second},
		"":                     event.Retrying{What: "layer", Why: "connection reset", Delay: time.Second - 1},
		"wrote x.tar, 2.0 KiB": event.Written{Output: "x.tar", Size: 2 << 10},
		"wrote x.tar, 2.0 KiB, of which 1.0 KiB share disk space with the store": event.Written{Output: "x.tar", Size: 2 << 10, Cloned: 1 << 10},
		"loaded into Docker, 2.0 KiB":                                            event.Written{Output: "docker load", Size: 2 << 10},
		"x:1: layers converted; new manifest digest " + id(1).String():           event.Converted{Image: "x:1", Why: "layers converted", To: id(1)},
	} {
		var out bytes.Buffer
		p := progress.NewPlain(&out, time.Hour)
		p.Observe(e)
		if got := strings.TrimSuffix(out.String(), "\n"); got != want {
			t.Errorf("%s: %q, want %q", event.Kind(e), got, want)
		}
	}
}

func TestSummaryOfPartialBlobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := progress.NewPlain(&out, time.Hour)
		for _, e := range []event.Event{
			event.Started{Images: 1}, event.Queued{Digest: id(1), Size: 8 << 10}, event.Fetching{Digest: id(1), Size: 8 << 10},
			event.Resumed{Digest: id(1), N: 2 << 10}, event.Progress{Digest: id(1), N: 6 << 10}, event.Fetched{Digest: id(1), Size: 8 << 10},
		} {
			p.Observe(e)
		}
		time.Sleep(2 * time.Second)
		p.Observe(event.Pulled{Image: "x:1", Fetched: 6 << 10, Reused: 2 << 10})
		p.Close()
		want := "pulled x:1: 6.0 KiB fetched, 2.0 KiB reused\n" +
			"pulled 1 of 1 images in 2s: 6.0 KiB fetched (3.0 KiB/s), 2.0 KiB reused, 2.0 KiB of them in partial blobs\n"
		if out.String() != want {
			t.Errorf("%s\nwant\n%s", out.String(), want)
		}
	})
}

func TestJSONIsALineAnEvent(t *testing.T) {
	var out bytes.Buffer
	j := progress.NewJSON(&out)
	j.Observe(event.Queued{Digest: id(1), Size: 7})
	j.Log("odd")
	var got []map[string]any
	for line := range bytes.Lines(out.Bytes()) {
		var v map[string]any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	if len(got) != 2 || got[0]["event"] != "queued" || got[1]["event"] != "warning" {
		t.Errorf("%v", got)
	}
	if data := got[0]["data"].(map[string]any); data["size"] != 7.0 {
		t.Errorf("%v", data)
	}
}
