// Package history is the record of a pull: which images, which blobs of them came when
// and how fast, from which hosts, and what went wrong. It can be kept, and a bench
// can do the same reads again.
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

	"drayage/engine/event"
	"drayage/engine/jsonstream"
	"drayage/engine/limits"

	"github.com/opencontainers/go-digest"
)

// Version is that of Pull's JSON form: docs/report.md.
const Version = 1

// Pull is what a pull did. Sizes are bytes, times seconds.
type Pull struct {
	Version  int       `json:"version"`
	Started  time.Time `json:"started"`
	Elapsed  float64   `json:"elapsed"`
	Received int64     `json:"received"` // bytes of blobs that came over the network
	Retries  int       `json:"retries"`
	Images   []Image   `json:"images"`
	Blobs    []Blob    `json:"blobs"` // that were fetched or waited for, in the order in which they began
	Hosts    []Host    `json:"hosts"`
	Outputs  []Output  `json:"outputs,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Image is one of the images that were asked for.
type Image struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest,omitempty"` // what the name resolved to
	Size    int64         `json:"size"`             // of its distinct blobs
	Fetched int64         `json:"fetched"`          // bytes that came for it
	Reused  int64         `json:"reused"`           // that were here, or came for another image
	Error   string        `json:"error,omitempty"`
}

// Blob is one transfer.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Image  string        `json:"image"` // one that needs it
	// Start is when it began, after the pull's. FirstByte and Elapsed count from there;
	// 0 when it never came, or didn't end.
	Start     float64 `json:"start"`
	FirstByte float64 `json:"firstByte,omitempty"`
	Elapsed   float64 `json:"elapsed,omitempty"`
	Resumed   int64   `json:"resumed,omitempty"` // bytes that were here from an earlier run
	Received  int64   `json:"received"`          // that came over the network, whether they were of use or not
	Dropped   int64   `json:"dropped,omitempty"` // of them or of those resumed, thrown away
	Reused    bool    `json:"reused,omitempty"`  // another process fetched it
	Error     string  `json:"error,omitempty"`
}

// Host is one host that was asked for something.
type Host struct {
	Host     string `json:"host"`
	Requests int    `json:"requests"`
	Failed   int    `json:"failed"` // without an answer, or with a status of 400 and more
}

// Output is an archive that was written.
type Output struct {
	Output string `json:"output"`
	Size   int64  `json:"size"`
}

// Recorder makes the record of a pull out of its events. It is an event.Observer.
type Recorder struct {
	mu      sync.Mutex
	started time.Time
	pull    Pull
	images  map[string]int // places in pull.Images
	blobs   map[digest.Digest]int
	hosts   map[string]*Host
}

// NewRecorder begins a record now.
func NewRecorder() *Recorder {
	now := time.Now()
	return &Recorder{
		started: now, pull: Pull{Version: Version, Started: now.UTC(), Images: []Image{}, Blobs: []Blob{}, Hosts: []Host{}},
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

func (r *Recorder) image(name string) *Image {
	n, ok := r.images[name]
	if !ok {
		n = len(r.pull.Images)
		r.images[name] = n
		r.pull.Images = append(r.pull.Images, Image{Image: name})
	}
	return &r.pull.Images[n]
}

func (r *Recorder) blob(d digest.Digest, now float64) *Blob {
	n, ok := r.blobs[d]
	if !ok {
		n = len(r.pull.Blobs)
		r.blobs[d] = n
		r.pull.Blobs = append(r.pull.Blobs, Blob{Digest: d, Start: now})
	}
	return &r.pull.Blobs[n]
}

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

// Pull is the record so far.
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

// Write writes the record's JSON form.
func (p Pull) Write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}

// Read reads a record's JSON form, and refuses what a replay could stumble over.
func Read(in io.Reader) (Pull, error) {
	var p Pull
	s := jsonstream.New(io.LimitReader(in, limits.ReportBytes), nil)
	entries := 0
	count := func(err error) error {
		if entries++; err == nil && entries > limits.ReportEntries {
			return fmt.Errorf("it has more than %d entries", limits.ReportEntries)
		}
		return err
	}
	err := s.Document(&p, map[string]func() error{
		"images": func() error { return count(entry(s, &p.Images)) }, "blobs": func() error { return count(entry(s, &p.Blobs)) },
		"hosts": func() error { return count(entry(s, &p.Hosts)) }, "outputs": func() error { return count(entry(s, &p.Outputs)) },
		"warnings": func() error { return count(entry(s, &p.Warnings)) },
	})
	if err != nil {
		return Pull{}, fmt.Errorf("it is no record of a pull: %w", err)
	}
	if p.Version != Version {
		return Pull{}, fmt.Errorf("it is no record of a pull of version %d", Version)
	}
	for _, b := range p.Blobs {
		if err := b.Digest.Validate(); err != nil {
			return Pull{}, fmt.Errorf("a blob %.80q: %w", b.Digest, err)
		}
		const longest = 366 * 24 * 3600 // seconds
		if b.Size < 0 || b.Resumed < 0 || b.Start < 0 || b.Start > longest || b.Elapsed < 0 || b.Elapsed > longest {
			return Pull{}, fmt.Errorf("blob %s: its size or its times can't be", b.Digest)
		}
	}
	return p, nil
}

// entry reads an entry of one of the lists.
func entry[T any](s *jsonstream.Reader, to *[]T) error {
	var v T
	_, err := s.Entry(&v)
	*to = append(*to, v)
	return err
}
