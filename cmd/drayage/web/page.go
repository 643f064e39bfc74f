package web

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/progress"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// Group is a group of images that is kept warm, for the page.
type Group struct {
	Name    string
	Images  int
	Fresh   int
	Last    time.Time // the last round's end
	Next    time.Time
	Problem string // of the last round
	Ready   bool   // complete and fresh
}

// Freshness is when an image was last found to be what its tag stands for, and when
// that last changed.
type Freshness struct{ Checked, Changed time.Time }

//go:embed page.html page.js
var files embed.FS

var pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"size": progress.Size,
	"rate": func(r float64) string { return progress.Size(int64(r)) + "/s" },
	"ago":  ago,
	"moment": func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return t.Local().Format("Mon 15:04:05")
	},
	"familiar": func(name string) string {
		if ref, err := reference.Parse(name); err == nil && digest.Digest(name).Validate() != nil {
			return ref.String()
		}
		return name
	},
	"seconds": func(s float64) string { return time.Duration(s * float64(time.Second)).Round(time.Second).String() },
}).ParseFS(files, "page.html"))

// ago is how long ago a moment was, for people.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	const day = 24 * time.Hour
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d days ago", d/day)
}

type pageData struct {
	Now       time.Time
	Version   string
	Usage     blobstore.Usage
	Budget    int64
	Used      float64 // percent of the budget
	Images    []pageImage
	Transfers []Transfer
	Groups    []Group
	Hits      int64
	Asked     int64
	HitRate   float64 // percent
}

type pageImage struct {
	blobstore.ImageUsage
	Freshness
	Incomplete bool // only some of it was asked for so far
}

// pageImages are the images of a store for the page. What was asked for by digest, and is part
// of another image, is no image for people.
func pageImages(ctx context.Context, store *blobstore.Store, images []blobstore.ImageUsage, fresh map[string]Freshness) []pageImage {
	part := make(map[digest.Digest]int)
	for _, i := range images {
		for _, d := range i.Blobs {
			part[d]++
		}
	}
	var out []pageImage
	for _, i := range images {
		if strings.Contains(i.Name, "@") && part[i.Target.Digest] > 1 {
			continue
		}
		_, err := compose.Stored(ctx, store, i.Root, image.DefaultPlatform())
		out = append(out, pageImage{i, fresh[i.Name], err != nil})
	}
	return out
}

// page is the page for people.
func (s *site) page(w http.ResponseWriter, r *http.Request) {
	usage, err := s.o.Store.Usage(r.Context())
	var images []blobstore.ImageUsage
	if err == nil {
		images, err = s.o.Store.ImageUsages()
	}
	if err != nil {
		answer(w, http.StatusInternalServerError, "the store can't be read\n")
		return
	}
	d := pageData{Now: time.Now(), Version: s.o.Version, Usage: usage, Budget: s.o.Budget, Transfers: s.o.Transfers.Now()}
	var fresh map[string]Freshness
	if s.o.Fresh != nil {
		fresh = s.o.Fresh()
	}
	d.Images = pageImages(r.Context(), s.o.Store, images, fresh)
	if d.Budget > 0 {
		d.Used = min(100, 100*float64(usage.Bytes)/float64(d.Budget))
	}
	if s.o.Groups != nil {
		d.Groups = s.o.Groups()
	}
	d.Hits = s.o.Metrics.hits.Load()
	if d.Asked = d.Hits + s.o.Metrics.misses.Load(); d.Asked > 0 {
		d.HitRate = 100 * float64(d.Hits) / float64(d.Asked)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_ = pageTemplate.Execute(w, d) // the client has gone, if not
}

func script(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	http.ServeFileFS(w, r, files, "page.js")
}

// events sends the transfers under way, as they change, as server-sent events.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	const often = time.Second
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	tick := time.NewTicker(often)
	defer tick.Stop()
	last := ""
	for n := 0; ; n++ {
		raw, err := json.Marshal(s.o.Transfers.Now())
		if err != nil {
			return
		}
		const alive = 15 // ticks, after which something is said in any case
		if text := string(raw); text != last || n%alive == 0 {
			last = text
			if _, err := fmt.Fprintf(w, "data: %s\n\n", raw); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-s.o.Closing:
			return
		}
	}
}
