package history_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/history"
	"drayage/engine/event"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

var one, two = digest.FromString("one"), digest.FromString("two")

// A record has what the events told, and comes back as it was written.
func TestRecord(t *testing.T) {
	r := history.NewRecorder()
	for _, e := range []event.Event{
		event.Started{Images: 2},
		event.Resolved{Image: "app:1", Digest: one, Blobs: 2, Size: 30},
		event.Fetching{Digest: one, Size: 10, Image: "app:1"},
		event.Resumed{Digest: one, N: 4},
		event.Resumed{Digest: one, N: -1},
		event.Progress{Digest: one, N: 6},
		event.Progress{Digest: one, N: -2},
		event.Progress{Digest: one, N: 3},
		event.Retrying{What: "x", Why: "y", Try: 2, Delay: time.Second},
		event.Fetched{Digest: one, Size: 10},
		event.Fetching{Digest: two, Size: 20, Image: "app:1"},
		event.Failed{Digest: two, Why: "gone"},
		event.Requested{Method: "GET", URL: "https://a.example/v2/x", Status: 200},
		event.Requested{Method: "GET", URL: "https://a.example/v2/y", Status: 404},
		event.Requested{Method: "GET", URL: "https://b.example/z", Why: "reset"},
		event.Requested{Method: "GET", URL: "https://b.example/z%zz", Why: "no URL"},
		event.Pulled{Image: "app:1", Digest: one, Fetched: 9, Reused: 21},
		event.Lost{Image: "app:2", Why: "no such image"},
		event.Written{Output: "out.tar", Size: 99},
		event.Warned{Message: "odd"},
	} {
		r.Observe(e)
	}
	p := r.Pull()
	if p.Received != 9 || p.Retries != 1 || len(p.Images) != 2 || len(p.Blobs) != 2 || len(p.Warnings) != 1 || len(p.Outputs) != 1 {
		t.Errorf("%+v", p)
	}
	if b := p.Blobs[0]; b.Received != 9 || b.Dropped != 3 || b.Resumed != 4 || b.Elapsed <= 0 || b.Image != "app:1" {
		t.Errorf("%+v", b)
	}
	if b := p.Blobs[1]; b.Error != "gone" || b.Received != 0 {
		t.Errorf("%+v", b)
	}
	if p.Images[0].Reused != 21 || p.Images[1].Error == "" {
		t.Errorf("%+v", p.Images)
	}
	if diff := cmp.Diff([]history.Host{{Host: "a.example", Requests: 2, Failed: 1}, {Host: "b.example", Requests: 1, Failed: 1}}, p.Hosts); diff != "" {
		t.Error(diff)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	again, err := history.Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again); diff != "" {
		t.Error(diff)
	}
}

var bad = []string{
	"", "[]", "{}", `{"version":2}`, `{"version":1,"blobs":[{"digest":"sha256:x"}]}`,
	`{"version":1,"blobs":[{"digest":"` + one.String() + `","size":-1}]}`, `{"version":1,"blobs":[{"digest":"` + one.String() + `","start":1e300}]}`,
}

func TestReadRefuses(t *testing.T) {
	for _, text := range bad {
		if _, err := history.Read(strings.NewReader(text)); err == nil {
			t.Errorf("%s is a record", text)
		}
	}
}

// FuzzRead reads anything, and nothing that a replay could stumble over.
func FuzzRead(f *testing.F) {
	for _, text := range bad {
		f.Add(text)
	}
	f.Add(`{"version":1,"blobs":[{"digest":"` + one.String() + `","size":5,"start":1.5,"elapsed":2,"image":"app:1"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := history.Read(strings.NewReader(text))
		for _, b := range p.Blobs {
			if err == nil && (b.Size < 0 || !(b.Start >= 0) || !(b.Elapsed >= 0) || b.Digest.Validate() != nil) {
				t.Errorf("%+v", b)
			}
		}
	})
}
