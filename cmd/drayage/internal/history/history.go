// Package history makes reports of pulls from their events: which images, which blobs arrived when and
// how fast, from which hosts, and what failed. drayage bench replays the reads of a report.
package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"sync"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/event"
	"drayage/engine/jsonstream"

	"github.com/opencontainers/go-digest"
)

// version is the version of the JSON form (docs/report.md).
const version = 1

// Pull is the report of a pull. Sizes are in bytes, times in seconds.
type Pull struct {
	Version  int       `json:"version"` // 1
	Started  time.Time `json:"started"`
	Elapsed  float64   `json:"elapsed"`
	Received int64     `json:"received"` // bytes of blobs that were downloaded
	Retries  int       `json:"retries"`
	Images   []Image   `json:"images"`
	Blobs    []Blob    `json:"blobs"` // that were downloaded or waited for, in the order in which that began
	Hosts    []Host    `json:"hosts"`
	Outputs  []Output  `json:"outputs,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Image is one of the requested images.
type Image struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest,omitempty"` // of the manifest or index
	Size    int64         `json:"size"`             // of its distinct blobs
	Fetched int64         `json:"fetched"`          // bytes downloaded for it
	Reused  int64         `json:"reused"`           // bytes that were local or downloaded for another image
	Error   string        `json:"error,omitempty"`
}

// Blob is one transfer.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Image  string        `json:"image"` // one of those that need it
	// Start counts from the start of the pull, FirstByte and Elapsed from Start; they are 0 when no
	// byte arrived, or the transfer did not end.
	Start     float64 `json:"start"`
	FirstByte float64 `json:"firstByte,omitempty"`
	Elapsed   float64 `json:"elapsed,omitempty"`
	Resumed   int64   `json:"resumed,omitempty"` // bytes from an earlier run
	Received  int64   `json:"received"`          // bytes downloaded, including discarded ones
	Dropped   int64   `json:"dropped,omitempty"` // bytes discarded, of those received or resumed
	Reused    bool    `json:"reused,omitempty"`  // another process downloaded it
	Error     string  `json:"error,omitempty"`
}

// Host is one host that requests were sent to.
type Host struct {
	Host     string `json:"host"`
	Requests int    `json:"requests"`
	Failed   int    `json:"failed"` // without a response, or with a status of 400 or higher
}

// Output is an archive that was written.
type Output struct {
	Output string `json:"output"`
	Size   int64  `json:"size"`
}

// Recorder makes the report of a pull from its events. It is an event.Observer, and may be used from
// several goroutines.
type Recorder struct {
	mu      sync.Mutex
	started time.Time
	pull    Pull
	images  map[string]int // indexes in pull.Images
	blobs   map[digest.Digest]int
	hosts   map[string]*Host
}

// NewRecorder begins a report; the pull starts now.
func NewRecorder() *Recorder {
	now := time.Now()
	return &Recorder{
		started: now, pull: Pull{Version: version, Started: now.UTC(), Images: []Image{}, Blobs: []Blob{}, Hosts: []Host{}},
		images: make(map[string]int), blobs: make(map[digest.Digest]int), hosts: make(map[string]*Host),
	}
}

// Observe implements event.Observer.
func (r *Recorder) Observe(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.started).Seconds()
	switch e := e.(type) {
	case event.Resolved:
		img := r.image(e.Image)
		img.Digest, img.Size = e.Digest, e.Size
	case event.Pulled:
		img := r.image(e.Image)
		img.Digest, img.Fetched, img.Reused = e.Digest, e.Fetched, e.Reused
	case event.Lost:
		r.image(e.Image).Error = e.Why
	case event.Fetching:
		b := r.blob(e.Digest, now)
		b.Size, b.Image = e.Size, e.Image
	case event.Resumed:
		if b := r.blob(e.Digest, now); e.N > 0 {
			b.Resumed += e.N
		} else {
			b.Dropped -= e.N
		}
	case event.Progress:
		r.progress(e, now)
	case event.Fetched:
		b := r.blob(e.Digest, now)
		b.Size, b.Reused, b.Elapsed = e.Size, e.Reused, now-b.Start
	case event.Failed:
		b := r.blob(e.Digest, now)
		b.Error, b.Elapsed = e.Why, now-b.Start
	case event.Retrying:
		r.pull.Retries++
	case event.Requested:
		r.requested(e)
	case event.Written:
		r.pull.Outputs = append(r.pull.Outputs, Output{e.Output, e.Size})
	case event.Warned:
		r.pull.Warnings = append(r.pull.Warnings, e.Message)
	}
}

// image is the entry of an image, new if necessary.
func (r *Recorder) image(name string) *Image {
	n, ok := r.images[name]
	if !ok {
		n = len(r.pull.Images)
		r.images[name] = n
		r.pull.Images = append(r.pull.Images, Image{Image: name})
	}
	return &r.pull.Images[n]
}

// blob is the entry of a blob, new if necessary.
func (r *Recorder) blob(d digest.Digest, now float64) *Blob {
	n, ok := r.blobs[d]
	if !ok {
		n = len(r.pull.Blobs)
		r.blobs[d] = n
		r.pull.Blobs = append(r.pull.Blobs, Blob{Digest: d, Start: now})
	}
	return &r.pull.Blobs[n]
}

// progress counts bytes of a blob.
func (r *Recorder) progress(e event.Progress, now float64) {
	b := r.blob(e.Digest, now)
	if e.N < 0 {
		b.Dropped -= e.N
		return
	}
	if b.Received == 0 {
		b.FirstByte = now - b.Start
	}
	b.Received += e.N
	r.pull.Received += e.N
}

// requested counts a request to a host.
func (r *Recorder) requested(e event.Requested) {
	u, err := url.Parse(e.URL)
	if err != nil {
		return
	}
	h := r.hosts[u.Host]
	if h == nil {
		h = &Host{Host: u.Host}
		r.hosts[u.Host] = h
	}
	h.Requests++
	if e.Status == 0 || e.Status >= 400 {
		h.Failed++
	}
}

// Pull is the report so far.
func (r *Recorder) Pull() Pull {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pull
	p.Elapsed = time.Since(r.started).Seconds()
	p.Images, p.Blobs = slices.Clone(p.Images), slices.Clone(p.Blobs)
	p.Hosts = make([]Host, 0, len(r.hosts))
	for _, h := range r.hosts {
		p.Hosts = append(p.Hosts, *h)
	}
	slices.SortFunc(p.Hosts, func(a, b Host) int { return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Host, b.Host)) })
	return p
}

// Write writes the report as JSON.
func (p Pull) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}

// Read reads a report as JSON, within the limits of engine/limits, and rejects what cannot be replayed:
// another version, invalid digests, sizes and times.
func Read(in io.Reader) (Pull, error) {
	var p Pull
	s := jsonstream.New(io.LimitReader(in, limits.ReportBytes), nil)
	entries := 0
	count := func(err error) error {
		if entries++; err == nil && entries > limits.ReportEntries {
			return fmt.Errorf("more than %d entries", limits.ReportEntries)
		}
		return err
	}
	err := s.Document(&p, map[string]func() error{
		"images": func() error { return count(entry(s, &p.Images)) }, "blobs": func() error { return count(entry(s, &p.Blobs)) },
		"hosts": func() error { return count(entry(s, &p.Hosts)) }, "outputs": func() error { return count(entry(s, &p.Outputs)) },
		"warnings": func() error { return count(entry(s, &p.Warnings)) },
	})
	if err != nil {
		return Pull{}, fmt.Errorf("not a pull report: %w", err)
	}
	if p.Version != version {
		return Pull{}, fmt.Errorf("not a pull report of version %d", version)
	}
	for _, b := range p.Blobs {
		if err := b.Digest.Validate(); err != nil {
			return Pull{}, fmt.Errorf("blob %.80q: %w", b.Digest, err)
		}
		const longest = 366 * 24 * 3600 // seconds
		if b.Size < 0 || b.Resumed < 0 || b.Start < 0 || b.Start > longest || b.Elapsed < 0 || b.Elapsed > longest {
			return Pull{}, fmt.Errorf("blob %s: size or time out of range", b.Digest)
		}
	}
	return p, nil
}

// entry reads an entry of a list.
func entry[T any](s *jsonstream.Reader, to *[]T) error {
	var v T
	_, err := s.Entry(&v)
	*to = append(*to, v)
	return err
}
